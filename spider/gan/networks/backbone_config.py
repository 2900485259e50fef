"""Settings of the pretrained networks that a projected discriminator looks through: a list, with one member or more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from spider.backbones.torchvision_names import TorchvisionName
from spider.settings.choices import Choice, Choices
from spider.settings.marks import Names
from spider.settings.section import Place

if TYPE_CHECKING:
    from spider.gan.networks.look import Backbone


class BackboneChoice(Choice):
    """The settings of a pretrained network."""

    @property
    def embedding(self) -> str | None:
        """That judges by such a network, if one does."""
        return None

    @property
    def reads(self) -> str | None:
        """Whose published weights are read, where no file is named: those of a reader in `spider.published`."""
        return None

    def build(self) -> Backbone:
        """The network, where it is not of this package: frozen, and with a `weights_digest` (`spider.gan.saved`)."""
        raise NotImplementedError(f"{type(self).__name__}.build")


class EfficientnetLite0Config(BackboneChoice):
    """EfficientNet-Lite0, which Projected GAN and StyleGAN-XL look through; it is shown images from -1 to 1."""

    kind: Literal["efficientnet_lite0"] = "efficientnet_lite0"
    weights: Annotated[Place | None, Names("file")] = Field(
        None, description="file of its weights; null = the published ones, from the installed package"
    )

    @property
    def embedding(self) -> str:
        """See BackboneChoice."""
        return "efficientnet"

    @property
    def reads(self) -> str | None:
        """See BackboneChoice."""
        return "efficientnet" if self.weights is None else None


class NormalisedConfig(BackboneChoice):
    """The settings of a network that was trained on images less a mean, ImageNet's as a rule, over a deviation."""

    normalise: bool = Field(
        True,
        description="whether it is shown images as it was trained, less a mean, over a standard deviation "
        "(StyleGAN-XL); false = from -1 to 1 (Projected GAN)",
    )


class DeitConfig(NormalisedConfig):
    """DeiT, a distilled vision transformer, which StyleGAN-XL looks through; it is shown images in its size, 224 px."""

    kind: Literal["deit"] = "deit"
    weights: Annotated[Place | None, Names("file")] = Field(
        None,
        description="file of its weights, of any size of the network; null = the published ones of DeiT base "
        "(spider weights get deit_base)",
    )

    @property
    def reads(self) -> str | None:
        """See BackboneChoice."""
        return "deit" if self.weights is None else None


class TorchvisionConfig(NormalisedConfig):
    """A classifier of torchvision, trained on ImageNet, by a file of its weights."""

    kind: Literal["torchvision"] = "torchvision"
    network: TorchvisionName = Field(description="as torchvision calls it")
    weights: Annotated[Place, Names("file")] = Field(description="file of its weights, a state dict of torchvision's")

    @property
    def embedding(self) -> str | None:
        """See BackboneChoice."""
        return "resnet50" if self.network == "resnet50" else None


class TimmConfig(NormalisedConfig):
    """A network of timm with maps of 1/4, 1/8, 1/16 and 1/32 of the side, by a file of its weights. It is an extra."""

    kind: Literal["timm"] = "timm"
    network: str = Field(
        pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)?$",
        max_length=100,
        description="as timm calls it; what it was trained on (as in resnet18.a1_in1k) says how images are scaled",
    )
    weights: Annotated[Place, Names("file")] = Field(
        description="file of its weights, under the names of timm's own network"
    )

    @property
    def embedding(self) -> str | None:
        """See BackboneChoice."""
        return {"tf_efficientnet_lite0": "efficientnet", "resnet50": "resnet50"}.get(self.network.partition(".")[0])


BackboneConfig = Annotated[BackboneChoice, Choices(EfficientnetLite0Config, DeitConfig, TorchvisionConfig, TimmConfig)]
