"""Settings of the sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field

from spider.arguments import MAX_PROCESSES
from spider.settings.choices import Choice, Choices
from spider.settings.marks import Names, kind_that_names, kinds_that_name_nothing
from spider.settings.section import MAX_DIM, MAX_FACTOR, Place, runtime

if TYPE_CHECKING:
    import torch

    from spider.config.schema import Config
    from spider.gan.sources.source import Source

Adapter = Literal["luma-16x32", "luma-23x23", "projection"]
ADAPTERS: tuple[str, ...] = get_args(Adapter)

_ADAPTER = (
    "what makes vectors of images, for generators that take vectors: 512 numbers of an image in its own size; "
    "luma-16x32, luma-23x23: grey pixels of a small image, as in the published cascades; projection: a linear layer "
    "that trains with the generator; null = none, images come at the target's size and channels"
)


class SourceChoice(Choice):
    """The settings of a source."""

    def build(self, image_shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> Source:
        """The source, where it is not of this package.

        Args:
            image_shape: (C, H, W) of the images to learn.
            device: where inputs are wanted; CPU tensors will do.
            dtype: networks in it compute in this one or in a finer one.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")


class GaussianConfig(SourceChoice):
    """Independent normal coordinates, N(0, std^2)."""

    kind: Literal["gaussian"] = "gaussian"
    dim: int = Field(100, ge=1, le=MAX_DIM, description="length of the latent vector")
    std: float = Field(
        1.0, gt=0, le=MAX_FACTOR, description="standard deviation of every coordinate (the authors also use 0.75)"
    )


class GammaConfig(SourceChoice):
    """sqrt(rho) nu with nu uniform on the sphere and rho ~ Gamma(1/2, 1): spec of the baseline in the authors' code."""

    kind: Literal["gamma"] = "gamma"
    dim: int = Field(100, ge=2, le=MAX_DIM, description="length of the latent vector")


class CauchyConfig(SourceChoice):
    """Independent standard Cauchy coordinates, as the baseline's code draws them."""

    kind: Literal["cauchy"] = "cauchy"
    dim: int = Field(100, ge=1, le=MAX_DIM, description="length of the latent vector")


class GmmConfig(SourceChoice):
    """A mixture of Gaussians whose means and deviations train with the generator (DeLiGAN)."""

    kind: Literal["gmm"] = "gmm"
    dim: int = Field(30, ge=1, le=MAX_DIM, description="length of the latent vector")
    components: int = Field(50, ge=1, le=MAX_DIM, description="number of mixture components")
    std: float = Field(0.2, gt=0, le=MAX_FACTOR, description="initial standard deviation of every component")
    trainable: bool = Field(True, description="whether means and deviations train with the generator")


class NonparametricConfig(SourceChoice):
    """The prior whose midpoints between two draws are distributed most like the draws (Singh et al. 2019)."""

    kind: Literal["nonparametric"] = "nonparametric"
    dim: int = Field(100, ge=1, le=MAX_DIM, description="length of the latent vector")


class ImageSourceChoice(SourceChoice):
    """What both sources of images have."""

    adapter: Adapter | None = Field(None, description=_ADAPTER)
    noise_std: float = Field(
        0.0, ge=0, le=MAX_FACTOR, description="standard deviation of the noise added to pixels in [-1, 1]; 0 = none"
    )

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.adapter is None and not config.generator.takes_images:
            yield (
                f"source.kind={self.kind} gives images, and generator.kind={config.generator.kind} takes vectors: "
                f"source.adapter makes vectors of images, and is one of {', '.join(ADAPTERS)}"
            )


class ImagesConfig(ImageSourceChoice):
    """Images of a neighbour dataset at the target's size and channels, with Gaussian noise added: Spider GAN."""

    kind: Literal["images"] = "images"
    path: Annotated[Place, Names("images")] = Field(
        description="images of the neighbour dataset; may move, their content is compared"
    )
    noise_std: float = Field(
        0.25, ge=0, le=MAX_FACTOR, description="standard deviation of the noise added to pixels in [-1, 1]; 0 = none"
    )
    order: Literal["full", "shard_local"] = Field("full", description="order of reading (see data.order)")
    workers: int = runtime(
        0, ge=0, le=MAX_PROCESSES, description="reading processes; 0 = read in a thread of the trainer"
    )


class GeneratorConfig(ImageSourceChoice):
    """Images that the generator of a finished run makes, frozen: a cascade of any depth."""

    kind: Literal["generator"] = "generator"
    run: Annotated[Place, Names("run")] = Field(
        description="RUN, RUN@best, RUN@last or RUN@KIMG; may move, its weights are compared"
    )
    truncation: float = Field(
        1.0,
        ge=0,
        le=1,
        description="psi, by which w of that run keeps its distance from its mean: 1 leaves it; of runs with a mapping "
        "network",
    )
    stage_noise: Literal["random", "const"] = Field(
        "random",
        description="what that run's network draws besides (StyleGAN2's noise): random: each image has draws of its "
        "own, always the same ones; const: all images have the same, as in the published cascades",
    )


_BUILT_IN = (
    GaussianConfig, GammaConfig, CauchyConfig, GmmConfig, NonparametricConfig, ImagesConfig, GeneratorConfig
)  # fmt: skip
SourceConfig = Annotated[SourceChoice, Choices(*_BUILT_IN)]

PRIORS = kinds_that_name_nothing(_BUILT_IN)
FROM_IMAGES, FROM_RUN = kind_that_names(_BUILT_IN, "images"), kind_that_names(_BUILT_IN, "run")  # kind, key
