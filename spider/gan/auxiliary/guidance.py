"""Classifier guidance (StyleGAN-XL, Sauer et al. 2022): a frozen classifier should name what G was told to make.

    term = the cross-entropy of the class that G was told, in the scores of a classifier (`classifier`)

The images are those of the generator, not augmented and not blurred. The term is that of the public implementation
(autonomousvision/stylegan-xl, training/loss.py). There 8 times the mean over images joins a sum, over images and
backbones of a GPU, of means of logits. Here all are means, so that 8 there is 8 / (images x backbones) here.

The classifier never trains and is not saved: a run knows its file by content.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from spider.draws import Address
from spider.gan.auxiliary.auxiliary import Auxiliary, Seen
from spider.gan.auxiliary.classifier import read_classifier
from spider.gan.auxiliary.config import GuidanceConfig
from spider.gan.loss import Loss
from spider.gan.outputs import ConditionShape


class Guidance(Auxiliary):
    """See Auxiliary, and the module."""

    def __init__(self, config: GuidanceConfig, told: ConditionShape, device: torch.device) -> None:
        """Read the classifier. Raises as `read_classifier`."""
        self.classifier = read_classifier(config, told).to(device)

    def generator(self, fake: Seen, draws: Address) -> Loss:
        """See Auxiliary."""
        labels = fake.condition.labels
        assert labels is not None  # the settings are refused without classes
        scores = self.classifier(fake.images)
        right = (scores.argmax(1) == labels).to(scores)
        return Loss({"class": cross_entropy(scores, labels, reduction="none")}, reports={"accuracy": right})
