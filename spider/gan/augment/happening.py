"""What ADA does to each image of a batch, as a function of the draws. All on the CPU.

The ranges are StyleGAN2-ADA's (training/augment.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

# Standard deviations and ranges of StyleGAN2-ADA
_SHIFT = 0.125  # of the side
_SCALE_STD = 0.2  # octaves
_BRIGHTNESS_STD = 0.2
_CONTRAST_STD = 0.5  # octaves
_NOISE_STD = 0.1
_BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # expected in natural images

# Which draw is whose
_NORMALS: dict[str, int | slice[int, int]] = {
    "scale": 0, "aniso": 1, "xfrac": slice(2, 4), "brightness": 4, "contrast": 5, "saturation": 6,
    "imgfilter": slice(7, 11), "noise": 11,
}  # fmt: skip
_UNIFORMS: dict[str, int | slice[int, int]] = {
    "xflip": 0, "rotate90": 1, "xint": slice(2, 4), "rotate": 4, "rotate_after": 5, "lumaflip": 6, "hue": 7,
    "cutout": slice(8, 10),
}  # fmt: skip
_GATES: dict[str, int | slice[int, int]] = {
    "xflip": 0, "rotate90": 1, "xint": 2, "scale": 3, "rotate": 4, "aniso": 5, "rotate_after": 6, "xfrac": 7,
    "brightness": 8, "contrast": 9, "lumaflip": 10, "hue": 11, "saturation": 12, "imgfilter": slice(13, 17),
    "noise": 17, "cutout": 18,
}  # fmt: skip
NORMALS, UNIFORMS, GATES = 12, 10, 19


class Happening:
    """What happens to each image of a batch, in float64 on the CPU. An operation that does not happen is the identity.

    Args:
        strengths: the operations that may happen, each with its factor of p.
        normals, uniforms, gates: float [N, NORMALS], [N, UNIFORMS], [N, GATES].
        p: an operation happens where its gate is below its strength times p.
    """

    def __init__(
        self, strengths: Mapping[str, float], normals: Tensor, uniforms: Tensor, gates: Tensor, p: float
    ) -> None:
        self.strengths = strengths
        self.normals = normals.double()
        self.uniforms = uniforms.double()
        self.gates = gates.double()
        self.p = p

    def geometry(self, height: int, width: int) -> Tensor:
        """Where each output pixel comes from, [N, 3, 3]; see `warp`."""
        inverse = _eye(len(self.gates), 3)
        size = inverse.new_tensor([width, height])
        # Two rotations, of which at least one happens with probability p
        p_turn = 1 - math.sqrt(max(1 - self.p * self.strengths.get("rotate", 1.0), 0.0))
        if "xflip" in self.strengths:
            inverse = inverse @ _scale(1 - 2 * self._gated("xflip", (2 * self._u("xflip")).floor(), 0.0), 1.0)
        if "rotate90" in self.strengths:
            turns = self._gated("rotate90", (4 * self._u("rotate90")).floor(), 0.0)
            inverse = inverse @ _rotate(turns * (math.pi / 2))
        if "xint" in self.strengths:
            shift = self._gated("xint", (2 * self._u("xint") - 1) * _SHIFT, 0.0)
            inverse = inverse @ _translate(-(shift * size).round())
        if "scale" in self.strengths:
            factor = self._gated("scale", (_SCALE_STD * self._n("scale")).exp2(), 1.0)
            inverse = inverse @ _scale(1 / factor, 1 / factor)
        if "rotate" in self.strengths:
            inverse = inverse @ _rotate(self._gated("rotate", (2 * self._u("rotate") - 1) * math.pi, 0.0, p_turn))
        if "aniso" in self.strengths:
            factor = self._gated("aniso", (_SCALE_STD * self._n("aniso")).exp2(), 1.0)
            inverse = inverse @ _scale(1 / factor, factor)
        if "rotate" in self.strengths:
            angle = (2 * self._u("rotate_after") - 1) * math.pi
            inverse = inverse @ _rotate(self._gated("rotate_after", angle, 0.0, p_turn))
        if "xfrac" in self.strengths:
            inverse = inverse @ _translate(-self._gated("xfrac", self._n("xfrac") * _SHIFT, 0.0) * size)
        return inverse

    def colour(self, channels: int) -> Tensor:
        """What each pixel's (r, g, b, 1) is multiplied by, [N, 4, 4]. Hue and saturation need three channels."""
        matrix = _eye(len(self.gates), 4)
        luma = matrix.new_tensor([1.0, 1.0, 1.0, 0.0]) / math.sqrt(3)
        along = luma.outer(luma)
        if "brightness" in self.strengths:
            offset = _eye(len(self.gates), 4)
            offset[:, :3, 3] = self._gated("brightness", _BRIGHTNESS_STD * self._n("brightness"), 0.0).unsqueeze(1)
            matrix = offset @ matrix
        if "contrast" in self.strengths:
            factor = _eye(len(self.gates), 4)
            scale = self._gated("contrast", (_CONTRAST_STD * self._n("contrast")).exp2(), 1.0)
            factor[:, :3, :3] *= scale.view(-1, 1, 1)
            matrix = factor @ matrix
        if "lumaflip" in self.strengths:
            flip = self._gated("lumaflip", (2 * self._u("lumaflip")).floor(), 0.0)
            matrix = (_eye(1, 4) - 2 * along * flip.view(-1, 1, 1)) @ matrix
        if "hue" in self.strengths and channels > 1:
            angle = self._gated("hue", (2 * self._u("hue") - 1) * math.pi, 0.0)
            matrix = _turn_about(luma[:3], angle) @ matrix
        if "saturation" in self.strengths and channels > 1:
            factor = self._gated("saturation", self._n("saturation").exp2(), 1.0).view(-1, 1, 1)
            matrix = (along + (_eye(1, 4) - along) * factor) @ matrix
        return matrix

    def bands(self) -> Tensor:
        """The gain of each frequency band, [N, 4], so that the expected power stays."""
        gains = torch.ones(len(self.gates), 4, dtype=torch.float64)
        if "imgfilter" not in self.strengths:
            return gains
        power = gains.new_tensor(_BAND_POWER)
        factors = self._gated("imgfilter", self._n("imgfilter").exp2(), 1.0)  # [N, 4]
        for band in range(4):
            gain = torch.ones_like(gains)
            gain[:, band] = factors[:, band]
            gains = gains * gain / (power * gain.square()).sum(1, keepdim=True).sqrt()
        return gains

    def noise(self) -> Tensor:
        """The standard deviation of noise, [N]."""
        if "noise" not in self.strengths:
            return torch.zeros(len(self.gates), dtype=torch.float64)
        return self._gated("noise", _NOISE_STD * self._n("noise").abs(), 0.0)

    def cutout(self) -> Tensor:
        """The centre of the hole, (x, y) as parts of the sides, [N, 2]; infinite where there is none."""
        if "cutout" not in self.strengths:
            return torch.full((len(self.gates), 2), math.inf, dtype=torch.float64)
        return self._gated("cutout", self._u("cutout"), math.inf)

    def _u(self, name: str) -> Tensor:
        return self.uniforms[:, _UNIFORMS[name]]

    def _n(self, name: str) -> Tensor:
        return self.normals[:, _NORMALS[name]]

    def _gated(self, name: str, values: Tensor, identity: float, p: float | None = None) -> Tensor:
        """`values` where the operation happens."""
        gate = self.gates[:, _GATES[name]]
        happens = gate < (self.p * self.strengths.get(name, 1.0) if p is None else p)
        if happens.dim() < values.dim():
            happens = happens.unsqueeze(1)
        return torch.where(happens, values, identity)


def _eye(count: int, size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64).repeat(count, 1, 1)


def _scale(x: Tensor, y: Tensor | float) -> Tensor:
    matrix = _eye(len(x), 3)
    matrix[:, 0, 0], matrix[:, 1, 1] = x, y
    return matrix


def _translate(shift: Tensor) -> Tensor:
    matrix = _eye(len(shift), 3)
    matrix[:, :2, 2] = shift
    return matrix


def _rotate(angle: Tensor) -> Tensor:
    matrix = _eye(len(angle), 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 1, 0] = angle.sin()
    matrix[:, 0, 1] = -angle.sin()
    return matrix


def _turn_about(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotations of (r, g, b) about a unit vector (Rodrigues), as [N, 4, 4]."""
    x, y, z = axis.tolist()
    cross = axis.new_tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    along = axis.outer(axis)
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    matrix = _eye(len(angle), 4)
    matrix[:, :3, :3] = cos * torch.eye(3, dtype=torch.float64) + sin * cross + (1 - cos) * along
    return matrix
