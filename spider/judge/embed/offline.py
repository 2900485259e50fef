"""The embedding that needs no download: a small wavelet scattering transform, defined by formulas alone.

An image becomes 288 numbers: where its light is, how much of each scale and orientation there is in each part of it,
how those amounts vary at coarser scales (which is texture), how much is finer than all of that, and its colour.
docs/embeddings.md says what it sees and what it does not, and what was measured.

    uint8 [N, C, H, W] -> luma on a canvas of 64 x 64, chroma on one of 16 x 16
        light     luma, on a 4 x 4 grid                                                                          16
        order 1   |luma * psi| for 3 octaves and 4 angles, on a 4 x 4 grid                                      192
        order 2   ||luma * psi| * psi'| for each psi' of a coarser octave, over the whole image                  48
        grain     |luma - blurred luma|, on a 4 x 4 grid                                                         16
        colour    two chroma channels and their absolute values, on a 2 x 2 grid                                 16

There is nothing random in it and nothing learned: the same image has the same features on any machine, up to the
rounding of float32.
"""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from spider.errors import SpiderUsageError
from spider.judge.embed.embedding import WITH_LOGITS
from spider.judge.embed.images import require_pixels
from spider.judge.embed.resize import filtered
from spider.precision import exact_float32

CANVAS = 64  # pixels; a power of two, so that every octave halves it exactly
CHROMA_CANVAS = 16
OCTAVES = 3
ANGLES = 4
GRID = 4

WAVELENGTH = 4.0  # pixels at the finest octave
ENVELOPE = 1.3  # pixels: standard deviation of the wavelet's Gaussian window, about one octave of bandwidth
RADIUS = 3  # pixels

# How much the parts count, set so that over photographs no part has most of the variance.
LIGHT_GAIN = 0.5
TEXTURE_GAIN = 3.0
CHROMA_GAIN = 2.0
FLOOR = 1e-3  # amplitudes below it are rounding; the square root is linear there

REVISION = 1  # counts changes of the formulas that no constant shows


class OfflineEmbedding:
    """Scattering features on `device`; see the module. Satisfies `spider.judge.embed.embedding.Embedding`."""

    name = "offline"
    protocol = "offline"
    label = "offline"
    has_logits = False

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._wavelets = wavelets().to(self.device, torch.float32)
        self.dim = GRID**2 * (2 + OCTAVES * ANGLES) + math.comb(OCTAVES, 2) * ANGLES**2 + 16
        self.digest = _digest()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W], C 1 or 3 -> float32 [N, 288]."""
        with exact_float32():
            luma, chroma = _luma_and_chroma(images.to(self.device))
            light = LIGHT_GAIN * _on_grid(luma)
            grain = _compress(_on_grid((luma - _blur(luma)).abs()))
            return torch.cat([light, *self._scattering(luma), grain, *_colour(chroma)], dim=1)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raises: this embedding has no classes."""
        raise SpiderUsageError(f"embedding offline has no class logits; those that have: {WITH_LOGITS}")

    def _scattering(self, luma: Tensor) -> list[Tensor]:
        """luma [N, 1, 64, 64] -> order 1, one [N, 4 * 4 * 4] per octave, and order 2, one [N, 4 * 4] per pair."""
        first, second = [], []
        for octave in range(OCTAVES):
            amplitude = self._amplitude(luma)  # [N, 4, S, S]
            first.append(_compress(_on_grid(amplitude)))
            texture = amplitude.flatten(0, 1).unsqueeze(1)  # [4 N, 1, S, S]; S is already half the octave's size
            for coarser in range(octave + 1, OCTAVES):
                second.append(TEXTURE_GAIN * _compress(self._amplitude(texture).mean((2, 3))).view(len(luma), -1))
                if coarser + 1 < OCTAVES:
                    texture = _blur(texture, stride=2)
            if octave + 1 < OCTAVES:
                luma = _blur(luma, stride=2)
        return first + second

    def _amplitude(self, x: Tensor) -> Tensor:
        """|x * psi| for every angle, sampled at every second pixel: [N, 1, S, S] -> [N, 4, S / 2, S / 2]."""
        x = F.pad(x, (RADIUS,) * 4, mode="reflect")
        real, imaginary = F.conv2d(x, self._wavelets, stride=2).chunk(2, dim=1)
        return torch.hypot(real, imaginary)


def wavelets() -> Tensor:
    """Morlet wavelets at the angles pi l / 4, real parts then imaginary parts: float64 [2 * 4, 1, 7, 7].

    A plane wave in a Gaussian window, less the multiple of the window that makes its sum zero, so that flat areas give
    exactly nothing; scaled so that the absolute values sum to one, so that amplitudes are in units of luma.
    """
    axis = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    window = torch.exp(-(x**2 + y**2) / (2 * ENVELOPE**2))
    bank = []
    for angle in (math.pi * step / ANGLES for step in range(ANGLES)):
        wave = window * torch.exp(2j * math.pi / WAVELENGTH * (x * math.cos(angle) + y * math.sin(angle)))
        wave = wave - window * wave.sum() / window.sum()
        bank.append(wave / wave.abs().sum())
    filters = torch.stack(bank).unsqueeze(1)
    return torch.cat([filters.real, filters.imag])


def _luma_and_chroma(images: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 [N, C, H, W] -> luma [N, 1, 64, 64] in [0, 1] and chroma (blue, red less luma) [N, 2, 16, 16]."""
    require_pixels(images)
    pixels = images.float() / 255
    if pixels.shape[1] == 1:
        chroma = pixels.new_zeros(len(pixels), 2, CHROMA_CANVAS, CHROMA_CANVAS)
        return filtered(pixels, CANVAS, "triangle"), chroma
    red, green, blue = (pixels[:, c : c + 1] for c in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    chroma = torch.cat([(blue - luma) * 0.564, (red - luma) * 0.713], dim=1)
    return filtered(luma, CANVAS, "triangle"), CHROMA_GAIN * filtered(chroma, CHROMA_CANVAS, "triangle")


def _colour(chroma: Tensor) -> list[Tensor]:
    """chroma [N, 2, 16, 16] -> its mean and its mean absolute value in each quarter, [N, 8] each."""
    return [F.adaptive_avg_pool2d(values, 2).flatten(1) for values in (chroma, chroma.abs())]


def _on_grid(x: Tensor) -> Tensor:
    """Averages over the cells of the grid: [N, K, S, S] -> [N, K * 4 * 4]."""
    return F.adaptive_avg_pool2d(x, GRID).flatten(1)


def _blur(x: Tensor, stride: int = 1) -> Tensor:
    """Binomial blur over 5 x 5 pixels: [N, 1, S, S] -> [N, 1, S / stride, S / stride]."""
    taps = x.new_tensor([1, 4, 6, 4, 1]) / 16
    return F.conv2d(F.pad(x, (2,) * 4, mode="reflect"), torch.outer(taps, taps)[None, None], stride=stride)


def _compress(amplitude: Tensor) -> Tensor:
    """Square root, so that a faint texture counts beside a strong edge; smooth at zero, where rounding lives."""
    return (amplitude + FLOOR).sqrt() - math.sqrt(FLOOR)


def _digest() -> str:
    """sha256 over the name, the revision and every constant: what the filters are made from, not their values.

    Values computed by exp and cos differ in the last bits between processors and versions of torch.
    """
    sizes = (CANVAS, CHROMA_CANVAS, OCTAVES, ANGLES, GRID, WAVELENGTH, ENVELOPE, RADIUS)
    weights = (LIGHT_GAIN, TEXTURE_GAIN, CHROMA_GAIN, FLOOR)
    return hashlib.sha256(f"offline {REVISION} {sizes} {weights}".encode()).hexdigest()
