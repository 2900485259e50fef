"""ADA's augmentation pipe (Karras et al. 2020, appendix B), as StyleGAN2-ADA has it.

Each operation happens to an image by itself with probability p times its strength. What happens is a function of the
draws, found on the CPU for the whole batch. So nothing waits for a GPU, and images that keep their geometry, or their
spectrum, skip that part: a small p costs little.

    blit: mirror, quarter turns, whole shifts · geom: scale, rotation, aspect, shift · color: brightness, contrast, luma
    flip, hue, saturation · filter: gains of four bands · noise · cutout
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.augment.config import AdaConfig, DiffusionConfig
from spider.gan.augment.happening import GATES, NORMALS, UNIFORMS, Happening
from spider.gan.augment.operations import BAND_REACH, cut, each, reband, recolour
from spider.gan.augment.steered import Steered
from spider.gan.augment.warp import warp

_BLIT = ("xflip", "rotate90", "xint")
_GEOM = ("scale", "rotate", "aniso", "xfrac")
_COLOR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
PIPES: dict[str, tuple[str, ...]] = {
    "blit": _BLIT,
    "geom": _GEOM,
    "color": _COLOR,
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
    "bg": _BLIT + _GEOM,
    "bgc": _BLIT + _GEOM + _COLOR,
    "bgcf": (*_BLIT, *_GEOM, *_COLOR, "imgfilter"),
    "bgcfn": (*_BLIT, *_GEOM, *_COLOR, "imgfilter", "noise"),
    "upright": ("xint", "scale", "aniso", "xfrac", *_COLOR),
    "bgcfnc": (*_BLIT, *_GEOM, *_COLOR, "imgfilter", "noise", "cutout"),
}


def strengths(config: AdaConfig) -> dict[str, float]:
    """The operations that may happen, each with its factor of p."""
    found: dict[str, float] = dict.fromkeys(PIPES[config.pipe], 1.0)
    for name, factor in config.strengths.items():
        found |= dict.fromkeys(PIPES.get(name, (name,)), factor)
    return {operation: factor for operation, factor in found.items() if factor > 0}


class Ada(Steered):
    """See Augmentation."""

    column = "augment/ada_p"

    def __init__(
        self,
        config: AdaConfig,
        batch: int,
        image_shape: tuple[int, int, int],
        sizes: Iterable[tuple[int, int]] = (),
        diffusion: DiffusionConfig | None = None,
    ) -> None:
        """Arguments as `build_augmentations`.

        Args:
            sizes: (H, W) of what the discriminator asks for beside images.
            diffusion: that of the run, which p=diffusion follows: under the same rule, told the same, p is the same.
        """
        p, self._p_max = config.p, float("inf")
        if p == "diffusion":
            if diffusion is None:
                raise ValueError("there is no diffusion to follow")
            self._p_max = config.diffusion_max
            super().__init__(diffusion.p, diffusion.control, batch)
        else:
            super().__init__(p, config.control, batch)
        self.strengths = strengths(config)
        of_images, asked = min(image_shape[1:]), [min(size) for size in sizes]
        side = min([of_images, *asked])
        if "imgfilter" in self.strengths and side <= BAND_REACH:
            whose = "" if side == of_images else " of the smaller images that discriminator.kind asks for"
            raise SpiderUsageError(
                f"augment: imgfilter of pipe {config.pipe} needs images of more than {BAND_REACH} px, found {side} px"
                f"{whose}: choose another pipe, or set strengths: {{imgfilter: 0}}"
            )

    @property
    def p(self) -> float:
        """See Steered."""
        return min(super().p, self._p_max)

    def __call__(self, images: Tensor, draws: Address, use: str) -> Tensor:
        """See Augmentation."""
        if self.p <= 0:
            return images
        happens = Happening(
            self.strengths,
            draws.normal(f"{use}.ada.normal", (NORMALS,), host=True),
            draws.uniform(f"{use}.ada.uniform", (UNIFORMS,), host=True),
            draws.uniform(f"{use}.ada.gate", (GATES,), host=True),
            self.p,
        )
        channels, height, width = images.shape[1:]
        images = _some(images, _differs(inverse := happens.geometry(height, width)), warp, inverse)
        images = _some(images, _differs(matrix := happens.colour(channels)), recolour, matrix)
        images = _some(images, ((gains := happens.bands()) != 1).any(1), reband, gains)
        if bool((sigma := happens.noise()).any()):
            noise = draws.normal(f"{use}.ada.noise", (channels, height, width))
            images = images + each(sigma, images) * noise.to(images.dtype)
        return _some(images, (centre := happens.cutout()).isfinite().all(1), cut, centre)


def _some(images: Tensor, which: Tensor, change: Callable[[Tensor, Tensor], Tensor], how: Tensor) -> Tensor:
    """Images, of which those where `which` [N], on the CPU, is true are changed."""
    if not bool(which.any()):
        return images
    if bool(which.all()):
        return change(images, how)
    places = which.nonzero().flatten()
    on_device = places.to(images.device, non_blocking=True)
    return images.index_copy(0, on_device, change(images[on_device], how[places]))


def _differs(matrices: Tensor) -> Tensor:
    """Which of the matrices [N, k, k] are not the identity."""
    identity = torch.eye(matrices.shape[1], dtype=matrices.dtype)
    return (matrices != identity).flatten(1).any(1)
