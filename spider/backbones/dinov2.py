"""DINOv2's vision transformers (Oquab et al. 2024), from the files that torch.hub fetches for them.

The published ones have patches of 14 pixels, positions for 518 pixels, and no registers: ViT-S/14, ViT-B/14 and
ViT-L/14, of 384, 768 and 1024 numbers. Images are normalised as `IMAGENET` (`spider.backbones.normalisation`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from spider import weights as pretrained
from spider.backbones.layers import Layers
from spider.backbones.vit import TIMM, VisionTransformer
from spider.errors import SpiderError

_NAMES = replace(TIMM, scales=("ls1.gamma", "ls2.gamma"))
_SIZES = {(12, 384): "s", (12, 768): "b", (24, 1024): "l"}  # depth and width


def read_dinov2(path: Path | None = None) -> tuple[VisionTransformer, pretrained.Pretrained]:
    """The network, and which weights it has: those of `path`, by default the published ViT-L/14.

    Raises:
        SpiderError: no weights, or not such a network's. The message says how to get them.
    """
    weights = pretrained.read("dinov2", path)
    # The token that stood in place of a hidden patch in training
    state = {name: tensor for name, tensor in weights.state.items() if name != "mask_token"}
    try:
        return VisionTransformer(Layers(state), _NAMES), weights
    except ValueError as error:
        raise SpiderError(f"{weights.path}: not the weights of a DINOv2 without registers: {error}") from error


def dinov2_name(network: VisionTransformer) -> str:
    """As torch.hub calls a network of these sizes, `dinov2_vitl14`; of another, its depth, width and patch."""
    size = _SIZES.get((network.depth, network.width))
    return f"dinov2_vit{size or f'_{network.depth}x{network.width}_'}{network.patch}"
