"""Embeddings whose weights are too large to install: DINOv2, the image tower of CLIP, ResNet-50 by SwAV and by classes.

`spider.judge.embed.inception` has two more.

The network comes from a file (`spider weights list` says where each is published). How an image comes to it is the
protocol, and a part of the number's name: `dinov2_vitl14/dgm_eval`. Under weights with another digest than the
published one the label also names that digest.

    dinov2  dgm_eval        Pillow's bicubic on uint8 to 224 px, the whole image     dgm-eval; with ViT-B/14 also FLD
            edm2            the same rule on floats, neither rounded nor clipped     EDM2
            torch_fidelity  TensorFlow 1's bilinear on floats                        torch-fidelity
    clip    cmmd            the central square, Pillow's bicubic on uint8 to the
                            network's side; the features divided by their length     CMMD
    swav    icgan           PyTorch's bicubic without antialias, to 224 px, after
                            the image is normalised                                  IC-GAN
    resnet50
            icgan_classes   the same                                                 IC-GAN with classes

Features are the class token after the last normalisation (dinov2), the projected class token (clip), or the average of
the last feature map (swav, resnet50).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spider.backbones import clip, dinov2, resnet50, vit
from spider.backbones.normalisation import IMAGENET
from spider.errors import SpiderUsageError
from spider.judge.embed.embedding import WITH_LOGITS
from spider.judge.embed.images import require_pixels
from spider.judge.embed.resize import filtered, pillow_bicubic, tf1_bilinear
from spider.measures import EmbeddingName
from spider.precision import exact_float32
from spider.weights import Pretrained

SIZE = 224  # pixels, of dinov2 and swav
REVISION = 1  # counts changes of the formulas that no constant shows

Rule = Callable[[Tensor], Tensor]


class BroughtEmbedding:
    """A network's features on `device`. Satisfies `spider.judge.embed.embedding.Embedding`."""

    has_logits = False

    def __init__(
        self,
        name: EmbeddingName,
        protocol: str,
        *,
        called: str,
        network: nn.Module,
        dim: int,
        read: Pretrained,
        rule: Rule,
        device: torch.device | str,
        at_once: int,
    ) -> None:
        """Put the parts together; `dinov2_embedding` and the others below find them.

        Args:
            called: what the network is, for tables.
            rule: uint8 [N, C, H, W], C 1 or 3, on the device -> what the network takes.
            at_once: images at a time, on a CPU.
        """
        self.name, self.protocol, self.dim = name, protocol, dim
        self.device = torch.device(device)
        self._network = network.to(self.device)
        self._rule, self._at_once = rule, at_once
        self.label = f"{called}/{protocol}" + ("" if read.is_published else f"@{read.sha256[:8]}")
        self.digest = hashlib.sha256(f"{name} {REVISION} {read.sha256} {protocol}".encode()).hexdigest()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """uint8 [N, C, H, W], C 1 or 3 -> float32 [N, dim]."""
        require_pixels(images)
        # Where an image stands in a batch of the network is decided by where it stands among `images` alone.
        at_once = self._at_once if self.device.type == "cpu" else max(1, len(images))
        with exact_float32():
            return torch.cat([self._few(few) for few in torch.split(images, at_once)])

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """There are no logits: SpiderUsageError."""
        raise SpiderUsageError(f"embedding {self.label} has no class logits; those that have: {WITH_LOGITS}")

    def _few(self, images: Tensor) -> Tensor:
        features: Tensor = self._network(self._rule(images.to(self.device)))
        return F.normalize(features, dim=1) if self.name == "clip" else features


def dinov2_embedding(protocol: str, weights: Path | None, device: torch.device | str) -> BroughtEmbedding:
    """DINOv2 of any size, by default the published ViT-L/14. Raises SpiderError: no weights, or not its own."""
    network, read = dinov2.read_dinov2(weights)
    return BroughtEmbedding(
        "dinov2",
        protocol,
        called=dinov2.dinov2_name(network),
        network=network,
        dim=network.features,
        read=read,
        rule=DINOV2_RULES[protocol],
        device=device,
        at_once=vit.CPU_IMAGES,
    )


def clip_embedding(protocol: str, weights: Path | None, device: torch.device | str) -> BroughtEmbedding:
    """CLIP's image tower, by default the published ViT-L/14 for 336 pixels. Raises as `dinov2_embedding`."""
    network, read = clip.read_clip(weights)
    side = network.grid * network.patch

    def rule(images: Tensor) -> Tensor:
        return clip.NORMALISED(pillow_bicubic(_central_square(images), side).float() / 255)

    return BroughtEmbedding(
        "clip",
        protocol,
        called=clip.clip_name(network),
        network=network,
        dim=network.features,
        read=read,
        rule=rule,
        device=device,
        at_once=vit.CPU_IMAGES,
    )


def swav_embedding(protocol: str, weights: Path | None, device: torch.device | str) -> BroughtEmbedding:
    """SwAV's ResNet-50. Raises as `dinov2_embedding`."""
    return _resnet50("swav", "swav_resnet50", protocol, weights, device)


def resnet50_embedding(protocol: str, weights: Path | None, device: torch.device | str) -> BroughtEmbedding:
    """torchvision's ResNet-50, a classifier. Raises as `dinov2_embedding`."""
    return _resnet50("resnet50", "resnet50", protocol, weights, device)


def _resnet50(
    name: EmbeddingName, called: str, protocol: str, weights: Path | None, device: torch.device | str
) -> BroughtEmbedding:
    network, read = resnet50.read_resnet50(name, weights)
    return BroughtEmbedding(
        name,
        protocol,
        called=called,
        network=network,
        dim=resnet50.FEATURES,
        read=read,
        rule=_icgan,
        device=device,
        at_once=resnet50.CPU_IMAGES,
    )


def _dgm_eval(images: Tensor) -> Tensor:
    return IMAGENET(pillow_bicubic(images, SIZE).float() / 255)


def _edm2(images: Tensor) -> Tensor:
    return IMAGENET(filtered(images.float(), SIZE, "cubic") / 255)


def _torch_fidelity(images: Tensor) -> Tensor:
    return IMAGENET(tf1_bilinear(images.float(), SIZE) / 255)


def _icgan(images: Tensor) -> Tensor:
    return F.interpolate(IMAGENET(images.float() / 255), size=(SIZE, SIZE), mode="bicubic", align_corners=False)


def _central_square(images: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, S, S], S the shorter side."""
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[:, :, top : top + side, left : left + side]


# uint8 [N, C, H, W], C 1 or 3 -> [N, 3, 224, 224] as DINOv2 takes them
DINOV2_RULES: dict[str, Rule] = {"dgm_eval": _dgm_eval, "edm2": _edm2, "torch_fidelity": _torch_fidelity}
