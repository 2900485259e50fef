"""Whether what a generator draws follows its input: EQ-T, EQ-T_frac and EQ-R (Karras et al. 2021, appendix E).

The input is shifted or turned, and the image that it makes is compared with the shifted or turned image of the input
as it was, where that is known: PSNR in dB, high is equivariant. Filters, masks and numbers are those of the public
implementation (NVlabs/stylegan3, metrics/equivariance.py). It takes one shift, one fractional shift and one angle for
each batch; so does `equivariance`, for each block of images.

Shifts (x, y) are parts of the side, to the right and down; angles are in radians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, grid_sample, pad

from spider import draws
from spider.errors import SpiderUsageError
from spider.gan.sources.frozen import BLOCK, FrozenGenerator
from spider.judge.metrics.spread import spread

if TYPE_CHECKING:
    from cluster.world import World

LARGEST_SHIFT = 0.125
NAMES = ("eq_t", "eq_t_frac", "eq_r")

_LANCZOS = 3  # pixels from the centre to where the windows end
_REACH = 2 * _LANCZOS  # pixels from the centre to where filters of rotations are cut off
_PERIOD = 64  # pixels from the centre to where they begin again, while they are made
_FINE = 4  # pixels for one, in which a rotation looks images up


@torch.no_grad()
def equivariance(
    generator: FrozenGenerator, seed: int, count: int, world: World, *, rotations: bool = True, progress: bool = False
) -> dict[str, float]:
    """EQ-T, EQ-T_frac and EQ-R in dB, by `NAMES`, of the first `count` images under an evaluation seed. All ranks.

    Args:
        rotations: False leaves EQ-R out.

    Raises:
        SpiderUsageError: the generator's input cannot be moved.
    """

    def of_block(block: int) -> tuple[Tensor]:
        chosen = range(block * BLOCK, min((block + 1) * BLOCK, count))

        def make(transform: Tensor) -> Tensor:
            with transformed(generator.module, transform):
                return generator.images(seed, chosen)

        drawn = 2 * draws.uniform(seed, "equivariance", [block], (5,), torch.device("cpu"))[0].double() - 1
        angle = float(drawn[4]) * math.pi if rotations else None
        return (errors(make, drawn[:2] * LARGEST_SHIFT, drawn[2:4] * LARGEST_SHIFT, angle).cpu(),)

    (sums,) = spread(world, -(-count // BLOCK), of_block, label="equivariance", progress=progress)
    return dict(zip(NAMES, psnr(sums.sum(0)).tolist(), strict=False))


def errors(make: Callable[[Tensor], Tensor], shift: Tensor, fraction: Tensor, angle: float | None) -> Tensor:
    """Sums of squared differences, and how many numbers they are of: float64 [2 or 3, 2], in the order of `NAMES`.

    Args:
        make: from the transform of the input [3, 3] to images [N, C, H, H].
        shift: (x, y), which is rounded to pixels.
        fraction: (x, y).
        angle: None leaves EQ-R out.
    """
    still = make(torch.eye(3))
    side = still.shape[-1]
    found = []
    for (x, y), move in (((shift * side).round() / side, shifted_by_pixels), (fraction, shifted)):
        transform = torch.eye(3)
        transform[:2, 2] = -torch.stack([x, y])
        expected, mask = move(still, float(x), float(y))
        found.append(_sums(expected, make(transform), mask))
    if angle is not None:
        transform = torch.eye(3)
        transform[:2, :2] = _rotation(-angle)  # where the image shows what lies elsewhere
        expected, mask = turned(still, angle)
        made, known = as_if_turned(make(transform), angle)
        found.append(_sums(expected, made, mask * known))
    return torch.stack(found)


def psnr(sums: Tensor) -> Tensor:
    """[..., 2], sums of squares and counts -> dB [...], of images from -1 to 1."""
    return 20 * math.log10(2) - 10 * (sums[..., 0] / sums[..., 1]).log10()


@contextmanager
def transformed(generator: nn.Module, transform: Tensor) -> Iterator[None]:
    """Within, the generator's input is moved by a transform [3, 3], see `spider.gan.networks.stylegan3.Waves`."""
    moved = dict(generator.named_buffers()).get("synthesis.input.transform")
    if moved is None:
        raise SpiderUsageError("equivariance is measured of generator.kind=stylegan3, whose input can be moved")
    before = moved.clone()
    moved.copy_(transform)
    try:
        yield
    finally:
        moved.copy_(before)


def shifted_by_pixels(images: Tensor, x: float, y: float) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, W], shifted by the nearest whole numbers of pixels, and where they are known, [1, 1, H, W]."""
    rows, columns = (round(part * side) for part, side in zip((y, x), images.shape[2:], strict=True))
    result = pad(images, (columns, -columns, rows, -rows))
    return result, pad(torch.ones_like(images[:1, :1]), (columns, -columns, rows, -rows))


def shifted(images: Tensor, x: float, y: float) -> tuple[Tensor, Tensor]:
    """The same, by any shift: Lanczos' filter of 6 taps, and known where that sees no border."""
    matrices, inside = zip(
        *(_shift(part, side) for part, side in zip((y, x), images.shape[2:], strict=True)), strict=True
    )
    rows, columns = (matrix.to(images) for matrix in matrices)
    mask = (inside[0][:, None] * inside[1])[None, None].to(images)
    return rows @ images @ columns.mT, mask


def turned(images: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Images [N, C, H, H], turned around their centre, and where they are known, [1, 1, H, H].

    Positive angles turn counterclockwise, as images are shown.
    """
    side = images.shape[-1]
    kernel = _both_bands(_rotation(angle), _FINE) * _FINE**2
    reach = len(kernel) // 2
    weight = kernel.to(images).expand(images.shape[1], 1, -1, -1)
    fine = conv_transpose2d(images, weight, stride=_FINE, groups=images.shape[1])  # pixel i's centre is at 4 i + reach
    centred = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    grid = torch.stack([centred.expand(side, -1), centred[:, None].expand(-1, side)], dim=2)  # (x, y)
    pixels = grid @ _rotation(-angle).double().mT + (side - 1) / 2  # where each comes from
    places = (2 * (_FINE * pixels + reach) + 1) / fine.shape[-1] - 1
    result = grid_sample(fine, places.to(images).expand(len(images), -1, -1, -1), align_corners=False)
    # Where the filter sees no border, in its own pixels, as the public code counts them
    at = (_FINE * pixels + reach + _FINE // 2).round()
    known = ((at > 2 * reach) & (at < _FINE * side - 1)).all(2)
    return result, known[None, None].to(images)


def as_if_turned(images: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Images that lack what turning them back by the angle and turning them again would take from them, and where
    they are known: to be compared with `turned` ones, which lack it."""
    kernel = _both_bands(_rotation(-angle), 1)
    reach = len(kernel) // 2
    weight = kernel.to(images).expand(images.shape[1], 1, -1, -1)
    result = conv2d(images, weight, padding=reach, groups=images.shape[1])
    mask = torch.zeros_like(images[:1, :1])
    mask[..., reach:-reach, reach:-reach] = 1
    return result, mask


def _sums(expected: Tensor, found: Tensor, mask: Tensor) -> Tensor:
    squares = (expected - found).square() * mask
    return torch.stack([squares.sum(dtype=torch.float64), mask.expand_as(squares).sum(dtype=torch.float64)])


def _shift(part: float, side: int) -> tuple[Tensor, Tensor]:
    """A matrix [side, side] that shifts one axis, and which of its results are known."""
    whole = math.floor(part * side)
    rest = part * side - whole
    taps = torch.arange(1 - _LANCZOS, _LANCZOS + 1, dtype=torch.float64) - rest
    weights = torch.sinc(taps) * torch.sinc(taps / _LANCZOS)
    weights = weights / weights.sum()
    places = torch.arange(side)
    tap = places[:, None] - places - whole + _LANCZOS - 1  # by which the second pixel reaches the first
    used = (tap >= 0) & (tap < len(taps))
    matrix = torch.where(used, weights[tap.clamp(0, len(taps) - 1)], 0.0)
    known = (places >= max(whole + _LANCZOS, 0)) & (places < side + min(whole - _LANCZOS + 1, 0))
    return matrix, known.double()


def _rotation(angle: float) -> Tensor:
    """By which (x, y) turn counterclockwise where y points down, [2, 2]."""
    return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def _both_bands(matrix: Tensor, fine: int) -> Tensor:
    """A filter that passes what both the pixels of an image and those of the image moved by a matrix [2, 2] can show.

    Ideal filters of both are convolved, and so are their windows. [k, k], k = 12 fine - 1 taps that are 1 / fine of a
    pixel apart; those that meet pixels at once have the sum 1 / fine^2.
    """
    count = 2 * _PERIOD * fine - 1
    line = np.fft.fftfreq(count, 1 / count) / fine  # pixels, from the centre on and around
    own = torch.stack([torch.from_numpy(axis) for axis in np.meshgrid(line, line)], dim=2)  # (x, y)
    moved = own @ matrix.mT

    def convolved(shape: Callable[[Tensor], Tensor]) -> Tensor:
        of_both = [torch.fft.fft2(shape(places).prod(2)) for places in (own, moved)]
        both: Tensor = torch.fft.ifft2(of_both[0] * of_both[1]).real
        return both

    def window(places: Tensor) -> Tensor:
        return torch.where(places.abs() < _LANCZOS, torch.sinc(places / _LANCZOS), 0.0)

    kernel = torch.fft.fftshift(convolved(torch.sinc) * convolved(window))
    cut = (_PERIOD - _REACH) * fine
    phases = pad(kernel[cut:-cut, cut:-cut], (0, 1, 0, 1)).view(2 * _REACH, fine, 2 * _REACH, fine)
    phases = phases / (phases.sum((0, 2), keepdim=True) * fine**2)
    return phases.reshape(2 * _REACH * fine, -1)[:-1, :-1]
