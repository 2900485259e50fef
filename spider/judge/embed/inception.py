"""Inception-v3 as FID knows it: the network of the 2015-12-05 TensorFlow graph, in pytorch-fid's port.

Three protocols (`spider.judge.embed.resize`) differ in how an image comes to 299 x 299 and to about [-1, 1]. Numbers of
different protocols must not be compared. Features are the final average pool, 2048-d, not normalised.
Logits are the 1008 classes' without the bias, as in the original inception score; `logit_bias` is what to add for
implementations that keep it.

On a CPU the network keeps its images channels-last and takes a few at a time: together with memory that is kept between
batches (`spider.judge.embed.memory`), 2.6 times as fast as without. Features move by 5e-6 of their spread.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_fid.inception import FIDInceptionA, FIDInceptionC, FIDInceptionE_1, FIDInceptionE_2
from torch import Tensor, nn
from torchvision.models import Inception3

from spider import weights as weights_cache
from spider.errors import SpiderError, SpiderUsageError
from spider.judge.embed.images import require_pixels
from spider.judge.embed.resize import INCEPTION_PROTOCOLS
from spider.precision import exact_float32
from untrusted.words import not_known

CLASSES = 1008
_CPU_IMAGES = 16  # at a time, so that a layer's input and output are still in the processor's cache


class InceptionEmbedding:
    """Inception features on `device`; see the module. Satisfies `spider.judge.embed.embedding.Embedding`."""

    name = "inception"
    dim = 2048
    has_logits = True

    def __init__(self, protocol: str = "tf", weights: Path | None = None, device: torch.device | str = "cpu") -> None:
        """Load the network.

        Args:
            protocol: `tf`, `pytorch_fid` or `clean`.
            weights: a file of the same tensors; the published one from the cache by default. One with another digest
                is taken, and `label` says so.
            device: where it runs.

        Raises:
            SpiderUsageError: no such protocol.
            SpiderError: no weights, or not this network's. The message says how to get them.
        """
        if protocol not in INCEPTION_PROTOCOLS:
            raise SpiderUsageError(f"protocol of inception {not_known(protocol, INCEPTION_PROTOCOLS)}")
        self.protocol = protocol
        read = weights_cache.read("inception", weights)
        self.device = torch.device(device)
        network = _network(read.state, read.path).to(self.device)
        if self.device.type == "cpu":
            network = network.to(memory_format=torch.channels_last)
        self._fc, network.fc = network.fc, nn.Identity()
        self._pool = network  # images as the protocol has them [N, 3, 299, 299] -> [N, 2048]
        self.label = f"inception/{protocol}" + ("" if read.is_published else f"@{read.sha256[:8]}")
        self.digest = hashlib.sha256(f"inception {read.sha256} {protocol}".encode()).hexdigest()

    @property
    def logit_bias(self) -> Tensor:
        """float32 [1008]: logits with the bias are the logits plus this."""
        bias: Tensor = self._fc.bias
        return bias

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W], C 1 or 3 -> float32 [N, 2048]."""
        require_pixels(images)
        # Where an image stands in a batch of the network is decided by where it stands among `images` alone.
        at_once = _CPU_IMAGES if self.device.type == "cpu" else max(1, len(images))
        with exact_float32():
            return torch.cat([self._few_features(few) for few in torch.split(images, at_once)])

    @torch.no_grad()
    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N, C, H, W] -> features [N, 2048] and logits without bias [N, 1008]."""
        features = self.features(images)
        with exact_float32():
            return features, F.linear(features, self._fc.weight)

    def _few_features(self, images: Tensor) -> Tensor:
        pixels = images.to(self.device).float().expand(-1, 3, -1, -1)
        features: Tensor = self._pool(INCEPTION_PROTOCOLS[self.protocol](pixels))
        return features


def _network(state: dict[str, Tensor], path: Path) -> Inception3:
    """torchvision's Inception-v3 with the blocks in which the FID graph differs, frozen, in evaluation mode."""
    network = Inception3(num_classes=CLASSES, aux_logits=False, init_weights=False)
    network.Mixed_5b = FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = FIDInceptionA(288, pool_features=64)
    network.Mixed_6b = FIDInceptionC(768, channels_7x7=128)
    network.Mixed_6c = FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6d = FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6e = FIDInceptionC(768, channels_7x7=192)
    network.Mixed_7b = FIDInceptionE_1(1280)
    network.Mixed_7c = FIDInceptionE_2(2048)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise SpiderError(f"{path}: not the weights of the FID Inception ({len(state)} tensors)") from error
    return network.eval().requires_grad_(False)
