"""DeiT's distilled vision transformers (Touvron et al. 2021), as facebookresearch/deit and timm publish them.

Of ImageNet, with patches of 16 pixels and positions for 224 pixels: tiny, small and base, of 192, 384 and 768 numbers.
facebookresearch/deit's files hold their tensors under `model`; timm's have the same names. Images are normalised
as `IMAGENET` (`spider.backbones.normalisation`). The two classifiers that come with a network are not read:
StyleGAN-XL's discriminator looks at the patches after each quarter of the blocks (Sauer et al. 2022,
feature_networks/vit.py).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from spider import weights as pretrained
from spider.backbones.layers import Layers
from spider.backbones.vit import TIMM, VisionTransformer
from spider.errors import SpiderError

QUARTERS = 4

_NAMES = replace(TIMM, distillation="dist_token")


def read_deit(path: Path | None = None) -> tuple[VisionTransformer, pretrained.Pretrained]:
    """The network, and which weights it has: those of `path`, of any size; by default the published base one.

    Raises:
        SpiderError: no weights, or not such a network's. The message says how to get them.
    """
    weights = pretrained.read("deit", path, otherwise="or name a file")
    state = {name: tensor for name, tensor in weights.state.items() if not name.startswith(("head.", "head_dist."))}
    try:
        network = VisionTransformer(Layers(state), _NAMES)
        if network.depth % QUARTERS:
            raise ValueError(f"it has {network.depth} blocks, which are no multiple of {QUARTERS}")
    except ValueError as error:
        raise SpiderError(f"{weights.path}: not the weights of a distilled DeiT: {error}") from error
    network.weights_digest = weights.sha256
    return network, weights


def quarters(network: VisionTransformer) -> tuple[int, ...]:
    """After how many blocks each quarter of a network ends: of 12, 3, 6, 9 and 12."""
    return tuple(network.depth * quarter // QUARTERS for quarter in range(1, QUARTERS + 1))
