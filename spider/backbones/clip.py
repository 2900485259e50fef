"""The image tower of CLIP (Radford et al. 2021), from OpenAI's tensors or from those of Hugging Face's port.

OpenAI publishes TorchScript archives, which hold code and are not read. Their state dict, saved by `torch.save`, is
read, and so are `pytorch_model.bin` and `model.safetensors` of the same network on Hugging Face. Images are of the side
that the positions were trained for, normalised as `NORMALISED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from spider import weights as pretrained
from spider.backbones.layers import Layers
from spider.backbones.normalisation import Normalisation
from spider.backbones.vit import VisionTransformer, ViTNames
from spider.errors import SpiderError

NORMALISED = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


_NAMES = ViTNames(
    patches="visual.conv1",
    class_token="visual.class_embedding",
    positions="visual.positional_embedding",
    first_norm="visual.ln_pre",
    last_norm="visual.ln_post",
    projection="visual.proj",
    block="visual.transformer.resblocks.{}.",
    norms=("ln_1", "ln_2"),
    qkv=("attn.in_proj_weight", "attn.in_proj_bias"),
    attended="attn.out_proj",
    perceptron=("mlp.c_fc", "mlp.c_proj"),
    has_patch_bias=False,
    eps=1e-5,
    activation=_quick_gelu,
)
# OpenAI's name for what Hugging Face's port calls otherwise
_FROM_PORT = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.": "visual.conv1.",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}


def read_clip(path: Path | None = None) -> tuple[VisionTransformer, pretrained.Pretrained]:
    """The image tower, and which weights it has: those of `path`, by default the published ViT-L/14 for 336 pixels.

    Raises:
        SpiderError: no weights, or not such a network's. The message says how to get them.
    """
    weights = pretrained.read("clip", path)
    try:
        state = _from_port(weights.state) if "visual_projection.weight" in weights.state else weights.state
        tower = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
        return VisionTransformer(Layers(tower), _NAMES), weights
    except ValueError as error:
        raise SpiderError(f"{weights.path}: not the weights of a CLIP with a ViT: {error}") from error


def clip_name(network: VisionTransformer) -> str:
    """`clip_vitl14_336` for that network's sizes; of another, its depth, width and patch."""
    size = "l" if (network.depth, network.width) == (24, 1024) else f"_{network.depth}x{network.width}_"
    return f"clip_vit{size}{network.patch}_{network.grid * network.patch}"


def _from_port(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of Hugging Face's port under OpenAI's names. Raises ValueError: one is missing or wrong."""
    projection = state["visual_projection.weight"]
    if projection.dim() != 2:
        raise ValueError(f"visual_projection.weight is {list(projection.shape)}, and should be [out, width]")
    found = {"visual.proj": projection.T}
    parts: dict[str, dict[str, Tensor]] = {}  # queries, keys and values of each block, which OpenAI keeps as one
    for name, tensor in state.items():
        if not name.startswith("vision_model.") or name.endswith(".position_ids"):
            continue
        for theirs, ours in _FROM_PORT.items():
            name = name.replace(theirs, ours)
        block, attention, part = name.partition(".self_attn.")
        if attention:
            parts.setdefault(f"{block}.attn.in_proj_{part.rpartition('.')[2]}", {})[part[0]] = tensor
        else:
            found[name] = tensor
    for name, of in parts.items():
        if set(of) != set("qkv"):
            raise ValueError(f"it has only {', '.join(sorted(of))} of {name}")
        shapes = {part: list(of[part].shape) for part in "qkv"}
        if [] in shapes.values() or not shapes["q"] == shapes["k"] == shapes["v"]:
            raise ValueError(f"q, k and v of {name} are {shapes['q']}, {shapes['k']} and {shapes['v']}")
        found[name] = torch.cat([of[part] for part in "qkv"])
    return found
