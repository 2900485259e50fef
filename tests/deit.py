"""Weights of a distilled DeiT of any size, as facebookresearch/deit names them: each a function of its name."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import torch
from torch import Tensor


def by_rule(name: str, *shape: int) -> Tensor:
    """The weight of that name in the network that was recorded (tests/golden/deit_tiny.npz)."""
    key = int.from_bytes(hashlib.sha256(f"golden-vit:{name}".encode()).digest()[:8], "little")
    bits = np.random.Philox(key=key).random_raw(int(np.prod(shape)))
    v = np.sqrt(3) * (2 * ((bits >> np.uint64(11)) * 2.0**-53) - 1).reshape(shape)
    if len(shape) in (2, 4):
        v = v * np.sqrt(2 / np.prod(shape[1:]))
    else:
        v = 0.1 * v + (re.search(r"norm\d?\.weight$", name) is not None)
    return torch.from_numpy(v.astype(np.float32))


def deit_state(*, width: int = 64, depth: int = 4, grid: int = 2, classes: int = 3) -> dict[str, Tensor]:
    """Of patches of 16 pixels, grid x grid of them. Width: a multiple of 64."""
    layers = {"patch_embed.proj": (width, 3, 16, 16), "norm": (width,)}
    layers |= {"head": (classes, width), "head_dist": (classes, width)}
    for block in (f"blocks.{number}." for number in range(depth)):
        layers |= {f"{block}norm1": (width,), f"{block}norm2": (width,)}
        layers |= {f"{block}attn.qkv": (3 * width, width), f"{block}attn.proj": (width, width)}
        layers |= {f"{block}mlp.fc1": (4 * width, width), f"{block}mlp.fc2": (width, 4 * width)}
    tokens = {"cls_token": (1, 1, width), "dist_token": (1, 1, width), "pos_embed": (1, 2 + grid**2, width)}
    shapes = tokens | {f"{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    return {name: by_rule(name, *shape) for name, shape in shapes.items()}
