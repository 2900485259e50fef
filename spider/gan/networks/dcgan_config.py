"""Settings of the DCGANs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from spider.gan.networks.chain_config import ChainableChoice
from spider.gan.networks.config import BatchNormedChoice
from spider.settings.section import MAX_DIM, Width

if TYPE_CHECKING:
    from spider.config.schema import Config

Layout = Literal["auto", "mnist", "celeba"]

_LAYOUT = (
    "layer plan of the authors' baselines: mnist (resolution 4b: two upsamplings), celeba (b 2^n: one layer each); "
    "auto = mnist up to 28 px, celeba above"
)


class DcganGeneratorConfig(BatchNormedChoice):
    """DCGAN. Fed vectors, it starts from a dense layer; fed images, from a convolutional encoder (Spider DCGAN)."""

    kind: Literal["dcgan"] = "dcgan"
    layout: Layout = Field("auto", description=_LAYOUT)
    width: Width = Field(1.0, description="multiplies every layer's channels")
    norm: Literal["batch", "none"] = Field("batch", description="batch normalisation over the global batch, or none")
    conditioning: Literal["concat", "batch_norm"] | None = Field(
        None,
        description="where there are classes: the vector of a class is joined to the input (to an image as channels), "
        "or each class has its own scales and shifts of the batch normalisation; null = batch_norm where norm=batch",
    )
    embedding_dim: int = Field(64, ge=1, le=MAX_DIM, description="dimensions of the vector of a class")
    shrunk_by: ClassVar[tuple[str, ...]] = ("width",)
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})

    @property
    def joins_the_class(self) -> bool:
        """Whether the vector of a class is joined to the input."""
        return self.conditioning == "concat" or (self.conditioning is None and self.norm == "none")

    @model_validator(mode="after")
    def _class_norm_needs_norm(self) -> DcganGeneratorConfig:
        if self.conditioning == "batch_norm" and self.norm == "none":
            raise ValueError("generator.conditioning=batch_norm needs generator.norm=batch")
        return self

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if self.norm == "batch":
            yield from self.split_refusals("generator", config)
        elif self.statistics != "batch":
            yield "generator.statistics goes with generator.norm=batch"


class DcganDiscriminatorConfig(ChainableChoice):
    """DCGAN's discriminator: strided convolutions, one logit; with classes a projection (Miyato & Koyama 2018)."""

    kind: Literal["dcgan"] = "dcgan"
    layout: Layout | Literal["sngan"] = Field(
        "auto", description=f"{_LAYOUT}; sngan = that of SN-GAN (Miyato et al. 2018), twice as many layers"
    )
    width: Width = Field(1.0, description="multiplies every layer's channels")
    norm: Literal["batch", "chain", "chain_cumulative", "spectral", "none"] = Field(
        "none",
        description="batch normalisation over the global batch, that of CHAIN, which auxiliary: kind=chain steers, "
        "by the batch or (chain_cumulative) by moving means, spectral = weights by their largest singular value, or "
        "none; a gradient penalty per image assumes spectral or none",
    )
    shrunk_by: ClassVar[tuple[str, ...]] = ("width",)
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})
