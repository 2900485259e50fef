"""DeiT's distilled vision transformers (Touvron et al. 2021), as facebookresearch/deit and timm publish them.

Of ImageNet, with patches of 16 pixels and positions for 224 pixels: tiny, small and base, of 192, 384 and 768 numbers.
facebookresearch/deit's files hold their tensors under `model`; timm's have the same names. Images are normalised
as `IMAGENET` (`spider.backbones.normalisation`). StyleGAN-XL's discriminator looks at the patches after each quarter of
the blocks (Sauer et al. 2022, feature_networks/vit.py), and does without the two classifiers that come with a network.
As a classifier it gives the mean of the scores of both, of the token of classes and of that of distillation, as the
public code does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from spider import weights as pretrained
from spider.backbones.layers import Layers
from spider.backbones.vit import TIMM, VisionTransformer
from spider.errors import SpiderError

QUARTERS = 4

_NAMES = replace(TIMM, distillation="dist_token")
_CLASSIFIERS = ("head.", "head_dist.")
_OTHERWISE = "or name a file"


def read_deit(path: Path | None = None) -> tuple[VisionTransformer, pretrained.Pretrained]:
    """The network, and which weights it has: those of `path`, of any size; by default the published base one.

    Raises:
        SpiderError: no weights, or not such a network's. The message says how to get them.
    """
    weights = pretrained.read("deit", path, otherwise=_OTHERWISE)
    state = {name: tensor for name, tensor in weights.state.items() if not name.startswith(_CLASSIFIERS)}
    try:
        network = VisionTransformer(Layers(state), _NAMES)
        if network.depth % QUARTERS:
            raise ValueError(f"it has {network.depth} blocks, which are no multiple of {QUARTERS}")
    except ValueError as error:
        raise SpiderError(f"{weights.path}: not the weights of a distilled DeiT: {error}") from error
    network.weights_digest = weights.sha256
    return network, weights


class DeitClassifier(nn.Module):
    """The network and its two classifiers, frozen: [N, 3, side, side], normalised -> scores [N, classes].

    Attributes:
        side: of the images that the positions were trained for, in px.
    """

    def __init__(self, layers: Layers, network: VisionTransformer) -> None:
        """From the tensors of both classifiers. Raises ValueError: they are others'. The message says which tensor."""
        super().__init__()
        self.network, self.side = network, network.patch * network.grid
        self.classes = (layers.shape("head.weight") or (0,))[0]
        self.heads = nn.ModuleList()
        for name in ("head", "head_dist"):
            head = nn.Linear(network.width, self.classes)
            shapes = {"weight": (self.classes, network.width), "bias": (self.classes,)}
            head.load_state_dict({part: layers.take(f"{name}.{part}", shape) for part, shape in shapes.items()})
            self.heads.append(head)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        seen = self.network.first(images)
        return torch.stack([head(seen[:, number]) for number, head in enumerate(self.heads)]).mean(0)


def read_deit_classifier(path: Path | None = None) -> DeitClassifier:
    """That of a file, of any size and classes; by default the published small one, of ImageNet's classes.

    Raises:
        SpiderError: no weights, or not such a network's. The message says how to get them.
    """
    weights = pretrained.read("deit", path or pretrained.verify("deit_small", otherwise=_OTHERWISE))
    of_heads = {name: tensor for name, tensor in weights.state.items() if name.startswith(_CLASSIFIERS)}
    others = {name: tensor for name, tensor in weights.state.items() if name not in of_heads}
    try:
        return DeitClassifier(Layers(of_heads), VisionTransformer(Layers(others), _NAMES))
    except ValueError as error:
        raise SpiderError(f"{weights.path}: not the weights of a distilled DeiT: {error}") from error


def quarters(network: VisionTransformer) -> tuple[int, ...]:
    """After how many blocks each quarter of a network ends: of 12, 3, 6, 9 and 12."""
    return tuple(network.depth * quarter // QUARTERS for quarter in range(1, QUARTERS + 1))
