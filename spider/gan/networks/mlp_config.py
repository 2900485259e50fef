"""Settings of dense networks, and of the discriminator that needs no training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from spider.gan.networks.config import NetworkChoice
from spider.settings.section import MAX_BATCH, MAX_DIM


class MlpConfig(NetworkChoice):
    """Dense layers and leaky ReLUs, for points of a plane (`spider toy`) and tiny images. Any shape in, any out."""

    kind: Literal["mlp"] = "mlp"
    layers: int = Field(3, ge=1, le=1000, description="hidden layers")
    hidden: int = Field(128, ge=1, le=MAX_DIM, description="units of each")
    shrunk_by: ClassVar[tuple[str, ...]] = ("hidden", "layers")
    conditions: ClassVar[frozenset[str]] = frozenset({"class", "instance"})


class PolyDiscriminatorConfig(NetworkChoice):
    """Poly-LSGAN's discriminator in closed form: a sum of kernels at the last real and generated images."""

    kind: Literal["poly"] = "poly"
    shrunk_by: ClassVar[tuple[str, ...]] = ("held",)
    order: float = Field(
        1.0, ge=-8, le=8, description="k of the kernel |x|^k, for even k >= 0 |x|^k ln |x|; 2 m - n of the paper"
    )
    held: int = Field(256, ge=1, le=MAX_BATCH, description="images of each kind that it sums over: the last ones")
