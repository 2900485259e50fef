"""The operations of ADA that change colours, frequency bands and pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from spider.gan.augment import deterministic

_HOLE = 0.5  # of the side
BAND_REACH = 21  # pixels to each side that `reband` sees; an image must have more


def recolour(images: Tensor, matrix: Tensor) -> Tensor:
    """Apply `Happening.colour` to images [N, C, H, W]. One channel is moved as grey is; the fourth and on stay."""
    matrix = matrix.to(images.device, images.dtype, non_blocking=True)
    if images.shape[1] == 1:
        matrix = matrix[:, :3].mean(dim=1)  # [N, 4]: of grey in all three channels
        return images * each(matrix[:, :3].sum(1), images) + each(matrix[:, 3], images)
    colours, others = images[:, :3], images[:, 3:]
    moved = torch.einsum("nij,njhw->nihw", matrix[:, :3, :3], colours) + matrix[:, :3, 3, None, None]
    return torch.cat([moved, others], dim=1) if others.shape[1] else moved


def reband(images: Tensor, gains: Tensor) -> Tensor:
    """Multiply the four frequency bands of images [N, C, H, W] by gains [N, 4]."""
    count, channels, height, width = images.shape
    taps = (gains @ filter_bank()).to(images.device, images.dtype, non_blocking=True)  # [N, K]
    taps = taps.repeat_interleave(channels, dim=0).unsqueeze(1)  # [N C, 1, K]
    reach = BAND_REACH
    planes = deterministic.reflect(images, reach, reach, reach, reach).view(
        1, count * channels, height + 2 * reach, width + 2 * reach
    )
    planes = conv2d(planes, taps.unsqueeze(2), groups=count * channels)
    planes = conv2d(planes, taps.unsqueeze(3), groups=count * channels)
    return planes.view(count, channels, height, width)


def cut(images: Tensor, centre: Tensor) -> Tensor:
    """Set a hole around `centre`, (x, y) as parts of the sides [N, 2], to 0. Images: [N, C, H, W]."""
    centre = centre.to(images.device, images.dtype, non_blocking=True)
    outside = []
    for side, place in zip(images.shape[2:], (centre[:, 1], centre[:, 0]), strict=True):
        pixels = (torch.arange(side, device=images.device, dtype=images.dtype) + 0.5) / side
        outside.append((pixels - place.unsqueeze(1)).abs() >= _HOLE / 2)  # [N, side]
    kept = outside[0].unsqueeze(2) | outside[1].unsqueeze(1)  # [N, H, W]
    return images * kept.unsqueeze(1).to(images.dtype)


def filter_bank() -> Tensor:
    """Impulse responses of four octave bands, which sum to the identity, float64 [4, 43].

    From the two-tap symlet's filters, each applied forwards and backwards.
    """
    low = torch.tensor(
        [-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025], dtype=torch.float64
    )
    high = low * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    low2, high2 = (_convolve(taps, taps.flip(0)) / 2 for taps in (low, high))
    bank = torch.eye(4, 1, dtype=torch.float64)
    for band in range(1, 4):
        bank = torch.stack([bank, torch.zeros_like(bank)], dim=2).flatten(1)[:, :-1]  # a zero between any two taps
        bank = torch.stack([_convolve(row, low2) for row in bank])
        start = (bank.shape[1] - len(high2)) // 2
        bank[band, start : start + len(high2)] += high2
    return bank


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    return conv2d(a.view(1, 1, 1, -1), b.flip(0).view(1, 1, 1, -1), padding=(0, len(b) - 1)).flatten()


def each(values: Tensor, images: Tensor) -> Tensor:
    """One number for each image, [N] -> [N, 1, 1, 1], where the images are."""
    return values.to(images.device, images.dtype, non_blocking=True).view(-1, 1, 1, 1)
