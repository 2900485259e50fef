"""Classifier guidance (StyleGAN-XL, Sauer et al. 2022): a frozen classifier should name what G was told to make.

    images --((x + 1) / 2 - mean) / std, 224 x 224--> EfficientNet-Lite0 --linear--> scores of the classes
    term = the cross-entropy of the class that G was told

The images are those of the generator, not augmented and not blurred. The term, and what the classifier is given by its
mean and std, are those of the public implementation (autonomousvision/stylegan-xl, training/loss.py). Its classifier is
DeiT-small, of ImageNet's classes. Here it is linear in EfficientNet-Lite0's features: made of the images to learn
(`spider classes`), or the network's own. There 8 times the mean over images joins a sum, over images and backbones of a
GPU, of means of logits. Here all are means, so that 8 there is 8 / (images x backbones) here.

The classifier never trains and is not saved: a run knows its file by content.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from spider.backbones.efficientnet_lite0 import CLASSES, EfficientNetLite0, read_efficientnet_lite0
from spider.backbones.normalisation import Normalisation
from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.auxiliary import Auxiliary, Seen
from spider.gan.auxiliary.config import IMAGENET, GuidanceConfig
from spider.gan.class_file import ClassFile
from spider.gan.loss import Loss
from spider.gan.outputs import ConditionShape

_SIDE = 224  # pixels of the classifier's input
_NORMALISED = Normalisation((127 / 255,), (128 / 255,))  # as EfficientNet-Lite0 was trained


class Guidance(Auxiliary):
    """See Auxiliary, and the module."""

    def __init__(self, config: GuidanceConfig, told: ConditionShape, device: torch.device) -> None:
        """Read the classifier.

        Raises:
            SpiderUsageError: there is no such file; it is of other classes than those that the networks are told, or of
                other weights than those that are installed.
            SpiderError: it is no file of classes; no weights.
        """
        network, read = read_efficientnet_lite0()
        linear = network.classifier
        if config.classifier != IMAGENET:
            linear = _linear_of(config.classifier, told, read.sha256)
        elif told.classes != CLASSES:
            raise SpiderUsageError(
                f"auxiliary: kind=guidance, classifier=imagenet knows {CLASSES:,} classes, and the images have "
                f"{told.classes:,}; spider classes DATA --out FILE makes a classifier of theirs"
            )
        self.classifier: nn.Module = Classifier(network, linear).to(device)

    def generator(self, fake: Seen, draws: Address) -> Loss:
        """See Auxiliary."""
        labels = fake.condition.labels
        assert labels is not None  # the settings are refused without classes
        scores = self.classifier(fake.images)
        right = (scores.argmax(1) == labels).to(scores)
        return Loss({"class": cross_entropy(scores, labels, reduction="none")}, reports={"accuracy": right})


class Classifier(nn.Module):
    """A frozen network and a linear layer of its features: [N, C, H, W], -1 to 1, C 1 or 3 -> [N, classes]."""

    def __init__(self, network: EfficientNetLite0, linear: nn.Module) -> None:
        super().__init__()
        self.network, self.linear = network, linear
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        if next(self.linear.parameters()).dtype != images.dtype:  # float64, where a run is so precise
            self.to(images.dtype)
        seen = _NORMALISED.of_signed(images).expand(-1, 3, -1, -1)
        resized = interpolate(seen, (_SIDE, _SIDE), mode="bilinear", align_corners=False)
        scores: Tensor = self.linear(self.network.features(resized))
        return scores


def _linear_of(file: str, told: ConditionShape, weights: str) -> nn.Linear:
    """The layer of a file of classes. Raises SpiderUsageError, SpiderError, see Guidance."""
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
