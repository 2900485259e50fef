"""Inception-v3: as FID knows it, maps within that network, and as torchvision trained it.

The first is the network of the 2015-12-05 TensorFlow graph, in pytorch-fid's port. Three protocols
(`spider.judge.embed.resize`) differ in how an image comes to 299 x 299 and to about [-1, 1]. Numbers of different
protocols must not be compared. Features are the final average pool, 2048-d, not normalised.
Logits are the 1008 classes' without the bias, as in the original inception score; `logit_bias` is what to add for
implementations that keep it.

`inception_maps` is what sFID compares (Nash et al. 2021): the same network and the same input as `tf`, but of the
17x17 block that TensorFlow calls mixed_6 the first 7 channels, with their places: 2023-d. So it sees where things are.
The numbers are those of ADM's evaluator; StyleGAN-XL's sfid50k_full divides covariances by N. `inception_torchvision`
is another network, with other weights, that IC-GAN took for precision, recall, density and coverage: 2048-d, the final
average pool.

On a CPU the networks keep their images channels-last and take a few at a time: together with memory that is kept
between batches (`spider.judge.embed.memory`), 2.6 times as fast as without. Features move by 5e-6 of their spread.
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
from spider.backbones.normalisation import IMAGENET
from spider.errors import SpiderError, SpiderUsageError
from spider.judge.embed.brought import BroughtEmbedding
from spider.judge.embed.images import require_pixels
from spider.judge.embed.resize import INCEPTION_PROTOCOLS, INCEPTION_SIZE
from spider.precision import exact_float32
from untrusted.words import not_known

CLASSES = 1008
SPATIAL_CHANNELS, SPATIAL_SIDE = 7, 17  # of sFID's maps
_TORCHVISION_CLASSES = 1000
_OTHERWISE = "or name a file: --weights FILE"  # no other embedding gives these numbers
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
        network = _network(read.state, read.path, self.device)
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


def maps_embedding(protocol: str, weights: Path | None, device: torch.device | str) -> BroughtEmbedding:
    """What sFID compares; see the module. Raises SpiderError: no weights, or not this network's."""
    read = weights_cache.read("inception", weights, otherwise=_OTHERWISE)
    return BroughtEmbedding(
        "inception_maps",
        protocol,
        called="inception_maps",
        network=_Maps(_network(read.state, read.path, torch.device(device))),
        dim=SPATIAL_CHANNELS * SPATIAL_SIDE**2,
        read=read,
        rule=lambda images: INCEPTION_PROTOCOLS["tf"](images.float().expand(-1, 3, -1, -1)),
        device=device,
        at_once=_CPU_IMAGES,
    )


def torchvision_embedding(protocol: str, weights: Path | None, device: torch.device | str) -> BroughtEmbedding:
    """torchvision's Inception as IC-GAN takes it; see the module. Raises as `maps_embedding`."""
    read = weights_cache.read("inception_torchvision", weights, otherwise=_OTHERWISE)
    state = {name: tensor for name, tensor in read.state.items() if not name.startswith("AuxLogits.")}
    network = Inception3(num_classes=_TORCHVISION_CLASSES, aux_logits=False, init_weights=False)
    network = _filled(network, state, read.path, "torchvision's Inception", torch.device(device))
    network.fc = nn.Identity()
    return BroughtEmbedding(
        "inception_torchvision",
        protocol,
        called="inception_torchvision",
        network=network,
        dim=2048,
        read=read,
        rule=_icgan_torch,
        device=device,
        at_once=_CPU_IMAGES,
    )


def _icgan_torch(images: Tensor) -> Tensor:
    size = (INCEPTION_SIZE, INCEPTION_SIZE)
    pixels = IMAGENET(images.float().expand(-1, 3, -1, -1) / 255)
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=True)


class _Maps(nn.Module):
    """Images as `tf` has them [N, 3, 299, 299] -> [N, 2023]: of each of 7 channels 17 rows."""

    def __init__(self, network: Inception3) -> None:
        super().__init__()
        names = [name for name, _ in network.named_children()]
        self.before = nn.Sequential(*list(network.children())[: names.index("Mixed_6d")])
        self.conv = network.Mixed_6d.branch1x1

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.conv(self.before(images))
        return maps[:, :SPATIAL_CHANNELS].flatten(1)


def _network(state: dict[str, Tensor], path: Path, device: torch.device) -> Inception3:
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
    return _filled(network, state, path, "the FID Inception", device)


def _filled(network: Inception3, state: dict[str, Tensor], path: Path, whose: str, device: torch.device) -> Inception3:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise SpiderError(f"{path}: not the weights of {whose} ({len(state)} tensors)") from error
    if device.type == "cpu":
        network.to(memory_format=torch.channels_last)
    return network.to(device).eval().requires_grad_(False)
