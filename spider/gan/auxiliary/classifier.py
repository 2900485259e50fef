"""Frozen classifiers, by which a generator is guided.

    images --((x + 1) / 2 - mean) / std, side x side--> network -> scores of the classes

StyleGAN-XL's is DeiT-small, of ImageNet's classes. Others are linear in EfficientNet-Lite0's features, made of the
images to learn (`spider classes`) or the network's own, and those of torchvision. Each is given images by its own mean,
std and side, all by the bilinear rule of the public implementation (autonomousvision/stylegan-xl, training/loss.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from spider.backbones.deit import read_deit_classifier
from spider.backbones.efficientnet_lite0 import CLASSES, EfficientNetLite0, read_efficientnet_lite0
from spider.backbones.normalisation import IMAGENET as OF_IMAGENET
from spider.backbones.normalisation import Normalisation
from spider.backbones.torchvision_stages import read_torchvision_classifier
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.config import IMAGENET, GuidanceConfig
from spider.gan.class_file import ClassFile
from spider.gan.outputs import ConditionShape

_SIDE = 224  # pixels of EfficientNet-Lite0's input
_OF_LITE0 = Normalisation((127 / 255,), (128 / 255,))  # as it was trained


class Classifier(nn.Module):
    """A frozen network that scores images: [N, C, H, W], -1 to 1, C 1 or 3 -> [N, classes].

    Args:
        network: [N, 3, side, side], normalised -> [N, classes].
        normalisation: of images as it was trained.
        side: of these, in px.
    """

    def __init__(self, network: nn.Module, normalisation: Normalisation, side: int) -> None:
        super().__init__()
        self.network, self.normalisation, self.side = network, normalisation, side
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        if next(self.parameters()).dtype != images.dtype:  # float64, where a run is so precise
            self.to(images.dtype)
        seen = self.normalisation.of_signed(images).expand(-1, 3, -1, -1)
        scores: Tensor = self.network(interpolate(seen, (self.side, self.side), mode="bilinear", align_corners=False))
        return scores


def read_classifier(config: GuidanceConfig, told: ConditionShape) -> Classifier:
    """The classifier that the settings name.

    Raises:
        SpiderUsageError: there is no such file; it is of other classes than those that the networks are told, or of
            other weights than those that are installed.
        SpiderError: it is no file of classes, or of such a network's weights; no weights.
    """
    file = None if config.classifier == IMAGENET else config.classifier
    if config.network == "efficientnet_lite0":
        lite0, read = read_efficientnet_lite0()
        if file is None:
            _require_as_many(CLASSES, config, told)
        linear = lite0.classifier if file is None else _linear_of(file, told, read.sha256)
        return Classifier(_OfFeatures(lite0, linear), _OF_LITE0, _SIDE)
    if config.network == "deit":
        deit = read_deit_classifier(None if file is None else Path(file))
        network, classes, side = cast(nn.Module, deit), deit.classes, deit.side
    else:
        network, classes, side = read_torchvision_classifier(config.network, Path(config.classifier))
    _require_as_many(classes, config, told)
    return Classifier(network, OF_IMAGENET, side)


class _OfFeatures(nn.Module):
    """EfficientNet-Lite0's features, and a linear layer of them."""

    def __init__(self, network: EfficientNetLite0, linear: nn.Module) -> None:
        super().__init__()
        self.network, self.linear = network, linear

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.linear(self.network.features(images))
        return scores


def _require_as_many(known: int, config: GuidanceConfig, told: ConditionShape) -> None:
    """Raises SpiderUsageError: the networks are told of more classes than the classifier knows, or of fewer."""
    if known != told.classes:
        raise SpiderUsageError(
            f"auxiliary: kind=guidance, classifier={config.classifier} knows {known:,} classes, and the images have "
            f"{told.classes:,}; spider classes DATA --out FILE makes a classifier of theirs"
        )


def _linear_of(file: str, told: ConditionShape, weights: str) -> nn.Linear:
    """The layer of a file of classes. Raises SpiderUsageError, SpiderError, see `read_classifier`."""
    found = ClassFile.read(file)
    names = found.about.classes
    if len(names) != told.classes or (told.names and [*told.names] != names):
        ours = f"{told.classes:,}" if len(names) != told.classes else "as many, by other names"
        raise SpiderUsageError(
            f"auxiliary: kind=guidance: {file} knows the {len(names):,} classes of {found.about.name}, and the images "
            f"have {ours}; spider classes DATA --out FILE makes a classifier of theirs"
        )
    if found.about.weights != weights:
        raise SpiderUsageError(
            f"auxiliary: kind=guidance: {file} was made with other weights of EfficientNet-Lite0 "
            f"({found.about.weights[:8]}) than those that are installed ({weights[:8]})"
        )
    linear = nn.Linear(found.weight.shape[1], len(names))
    linear.load_state_dict({"weight": torch.from_numpy(found.weight), "bias": torch.from_numpy(found.bias)})
    return linear
