"""Settings of the auxiliaries. `auxiliary` is a list: each member adds its terms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from spider.backbones.torchvision_names import TorchvisionName
from spider.settings.auto import Follows, OfImages
from spider.settings.choices import Choice, Choices, is_outside
from spider.settings.marks import Names
from spider.settings.schedule import AutoWhole, Bounds, Schedule
from spider.settings.section import MAX_DIM, MAX_FACTOR, Place

MAX_QUEUE = 1_000_000
IMAGENET = "imagenet"

if TYPE_CHECKING:
    import torch
    from torch import nn

    from spider.config.schema import Config
    from spider.gan.auxiliary.auxiliary import Auxiliary
    from spider.gan.outputs import ConditionShape


class AuxiliaryChoice(Choice):
    """The settings of an auxiliary."""

    trains: ClassVar[bool] = True  # whether it may bring modules that train
    weight: Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(
        1.0, description="what its terms are multiplied by"
    )
    lr_factor: float = Field(
        1.0, ge=0, le=MAX_FACTOR, description="learning rate of modules of its own, as a factor of their player's"
    )

    def build(
        self, discriminator: nn.Module, image_shape: tuple[int, int, int], told: ConditionShape, device: torch.device
    ) -> Auxiliary:
        """The auxiliary, where it is not of this package. Initial weights come from torch's generator, which is seeded.

        Args:
            discriminator: for which it is made; those of this package have `features`, the length of
                `DOut.features["last"]`.
            image_shape: (C, H, W).
            told: what the networks are told of every image; `told.classes` is 0 where they are told no class.
            device: where tensors that it remembers lie. Its modules are moved there with the players'.
        """
        raise NotImplementedError(f"{type(self).__name__}.build")

    @model_validator(mode="after")
    def _a_rate_needs_what_trains(self) -> Self:
        if self.lr_factor != 1 and not self.trains:
            raise ValueError(f"auxiliary: kind={self.kind} has nothing that trains, so lr_factor must be left out")
        return self


class LecamConfig(AuxiliaryChoice):
    """LeCam regularisation (Tseng et al. 2021), for few images."""

    kind: Literal["lecam"] = "lecam"
    weight: Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(
        0.3, description="what its term is multiplied by (0.3: the authors' for BigGAN on a tenth of CIFAR-10)"
    )
    decay: float = Field(0.99, ge=0, lt=1, description="of the averages of D's outputs, per step of D")
    trains: ClassVar[bool] = False

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if config.objective.paired:
            yield (
                f"auxiliary: kind=lecam cannot go with objective.kind={config.objective.kind}, under which D's outputs "
                "have no zero to be held at"
            )


class ConsistencyConfig(AuxiliaryChoice):
    """bCR (Zhao et al. 2021): D judges an image and a shifted one alike."""

    kind: Literal["consistency"] = "consistency"
    real_weight: float = Field(10.0, ge=0, le=MAX_FACTOR, description="of real images")
    fake_weight: float = Field(10.0, ge=0, le=MAX_FACTOR, description="of generated images")
    translation: float = Field(1 / 32, ge=0, le=1, description="largest shift, as a part of the side")
    mirror: bool = Field(True, description="half of the shifted images are mirrored")
    trains: ClassVar[bool] = False


def _usual_queue(config: Config, images: OfImages) -> int:
    """Of InsGen's code (train.py); at least 1."""
    return max(1, int(0.05 * images.count) * (2 if config.data.mirror else 1))


class ChainConfig(AuxiliaryChoice):
    """Goes with CHAIN's normalisation (Ni and Koniusz 2024; norm=chain or chain_cumulative). For few images."""

    kind: Literal["chain"] = "chain"
    weight: Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(
        20.0, description="what its terms, which hold means of channels near 0, are multiplied by, beside p"
    )
    least: float = Field(
        0.0,
        ge=0,
        le=MAX_FACTOR,
        description="added to p as a factor of its terms; its authors: 0.1 for about 100 images",
    )
    target: float = Field(
        0.5, gt=-1, lt=1, description="mean sign of D(real), averaged over iterations, above which p rises"
    )
    step: float = Field(0.001, gt=0, le=1, description="by which p rises or falls in an iteration")
    decay: float = Field(0.9, ge=0, lt=1, description="of that average, per iteration")
    trains: ClassVar[bool] = False

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if not config.discriminator.chained and not is_outside(config.discriminator.kind):
            yield (
                "auxiliary: kind=chain goes with discriminator.norm=chain or chain_cumulative (kind=dcgan, "
                f"kind=fastgan), found discriminator.kind={config.discriminator.kind} without it"
            )


class InsgenConfig(AuxiliaryChoice):
    """InsGen (Yang et al. 2021): D tells every image from all others. FakeCLR with real_weight=0. For few images."""

    kind: Literal["insgen"] = "insgen"
    real_weight: float = Field(1.0, ge=0, le=MAX_FACTOR, description="of D's term of real images; 0 = none, as FakeCLR")
    fake_weight: float = Field(1.0, gt=0, le=MAX_FACTOR, description="of D's term of generated images")
    generator_weight: float = Field(0.1, ge=0, le=MAX_FACTOR, description="of the generator's term")
    queue: Annotated[AutoWhole, Bounds(ge=1, le=MAX_QUEUE), Follows(_usual_queue)] = Field(
        100,
        description="earlier images from which one is told apart; auto = as published: 5 % of the images, and twice as "
        "many where data.mirror mirrors them",
    )
    temperature: float = Field(0.2, gt=0, le=MAX_FACTOR, description="by which products are divided")
    momentum: float = Field(0.999, ge=0, lt=1, description="decay of the averages of D and of the heads, per step of D")
    near: Literal["fixed", "scaled"] = Field(
        "fixed",
        description="noise that moves a generated image's input to that of its key: the same for all, or times "
        "min(|z|, 3), as FakeCLR",
    )
    near_std: float = Field(0.15, ge=0, le=MAX_FACTOR, description="of that noise (FakeCLR: 0.1)")
    forgetting: Literal["none", "paper", "code"] = Field(
        "none",
        description="FakeCLR's weights of the queue: paper = more for newer keys, as it is written; code = 1 for all, "
        "which its released code comes to",
    )

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if not config.discriminator.tells_map and not is_outside(config.discriminator.kind):
            yield (
                f"auxiliary: kind=insgen looks at D's last map, which discriminator.kind={config.discriminator.kind} "
                "does not tell; discriminator.kind=stylegan2 does"
            )


class ReconstructionConfig(AuxiliaryChoice):
    """FastGAN's decoders (Liu et al. 2021): they draw real images from the maps of D (discriminator.kind=fastgan)."""

    kind: Literal["reconstruction"] = "reconstruction"
    weight: Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(
        8.0, description="what its terms are multiplied by (8: the authors sum them over a batch of 8)"
    )
    channels: int = Field(32, ge=1, le=MAX_DIM, description="of a decoder at its end")
    distance: Literal["efficientnet", "lpips_vgg", "lpips_alex", "pixels"] = Field(
        "efficientnet",
        description="how far a drawn image is from what D saw: by a pretrained network (published: lpips_vgg; see "
        "spider weights), or the mean squared difference of pixels",
    )

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if not config.discriminator.brings_decoders and not is_outside(config.discriminator.kind):
            yield (
                f"auxiliary: kind=reconstruction needs a discriminator that brings decoders, found discriminator.kind="
                f"{config.discriminator.kind}; discriminator.kind=fastgan does"
            )


class GuidanceConfig(AuxiliaryChoice):
    """Classifier guidance (StyleGAN-XL, Sauer et al. 2022): a frozen classifier should name what G was told to make."""

    kind: Literal["guidance"] = "guidance"
    weight: Annotated[Schedule, Bounds(ge=0, le=MAX_FACTOR)] = Field(
        0.5,
        description="what its term is multiplied by (0.5: the authors' 8 is beside a sum over 2 backbones and the 8 "
        "images of a GPU, and here all terms are means)",
    )
    network: Literal["efficientnet_lite0", "deit", TorchvisionName] = Field(
        "efficientnet_lite0", description="that classifies: deit as published; or as torchvision calls it"
    )
    classifier: Annotated[Place, Names("file", words=(IMAGENET,))] = Field(
        description="of efficientnet_lite0: the file that `spider classes` makes of the images to learn; of others: "
        "their weights, with a classifier of as many classes as the images, in their order. imagenet: EfficientNet-"
        "Lite0's own of the 1,000 classes of ImageNet, in their usual order; of deit, that of DeiT small (spider "
        "weights get deit_small)"
    )
    trains: ClassVar[bool] = False

    @model_validator(mode="after")
    def _torchvision_has_a_file(self) -> Self:
        if self.classifier == IMAGENET and self.network not in ("efficientnet_lite0", "deit"):
            raise ValueError(
                f"auxiliary: kind=guidance, network={self.network} needs a file of its weights as classifier, found "
                f"{IMAGENET}, which goes with network=efficientnet_lite0 and deit"
            )
        return self

    def refusals(self, config: Config) -> Iterator[str]:
        """See Section."""
        if "class" not in config.condition.told:
            yield (
                f"auxiliary: kind=guidance needs classes that the players are told, found condition.kind="
                f"{config.condition.kind}; condition.kind=class tells them"
            )


AuxiliaryConfig = Annotated[
    AuxiliaryChoice,
    Choices(LecamConfig, ConsistencyConfig, ChainConfig, InsgenConfig, ReconstructionConfig, GuidanceConfig),
]
