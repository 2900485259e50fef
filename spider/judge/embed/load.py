"""An embedding by name."""

from __future__ import annotations

from pathlib import Path

import torch

from spider.errors import SpiderError, SpiderUsageError
from spider.judge.embed.brought import clip_embedding, dinov2_embedding, resnet50_embedding, swav_embedding
from spider.judge.embed.efficientnet import EfficientNetEmbedding
from spider.judge.embed.embedding import Embedding
from spider.judge.embed.offline import OfflineEmbedding
from spider.measures import EMBEDDINGS, RESIZE_RULES
from untrusted.words import not_known

Spec = tuple[str, str | None, Path | None]  # name, protocol and weights file, as `load_embedding` takes them

_BROUGHT = {"dinov2": dinov2_embedding, "clip": clip_embedding, "swav": swav_embedding, "resnet50": resnet50_embedding}


def load_embedding(
    name: str = "inception",
    *,
    protocol: str | None = None,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
) -> Embedding:
    """The embedding of that name; never another one in its place.

    Args:
        name: `inception`; `efficientnet`, whose weights are installed with the package; `inception_maps`,
            `inception_torchvision`, `dinov2`, `clip`, `swav` or `resnet50`, whose weights the user brings; or
            `offline`, which has none.
        protocol: its resize rule, of `spider.measures.RESIZE_RULES`; by default the first.
        weights: a file for any but `offline`; the published one by default.
        device: where it runs.

    Raises:
        SpiderUsageError: no such embedding or protocol, or weights for one that has none.
        SpiderError: the weights are not there, damaged or not this network's.
    """
    if name not in EMBEDDINGS:
        raise SpiderUsageError(f"embedding {not_known(name, EMBEDDINGS)}")
    rules = RESIZE_RULES[name]
    protocol = protocol or rules[0]
    if protocol not in rules:
        owner = next((other for other, theirs in RESIZE_RULES.items() if protocol in theirs), None)
        whose = f", but {owner}'s" if owner is not None else ""
        raise SpiderUsageError(f"protocol {protocol!r} is not {name}'s{whose}; {name} has {', '.join(rules)}")
    if name.startswith("inception"):
        # Here, because their network brings torchvision, which takes as long to import as torch itself.
        from spider.judge.embed import inception

        if name == "inception":
            return inception.InceptionEmbedding(protocol, weights, device)
        brought = {"inception_maps": inception.maps_embedding, "inception_torchvision": inception.torchvision_embedding}
        return brought[name](protocol, weights, device)
    if name == "efficientnet":
        return EfficientNetEmbedding(weights, device)
    if name in _BROUGHT:
        return _BROUGHT[name](protocol, weights, device)
    if weights is not None:
        raise SpiderUsageError(f"embedding offline has no weights to read from {weights}")
    return OfflineEmbedding(device)


def load_same_embedding(spec: Spec, digest: str, device: torch.device | str) -> Embedding:
    """The embedding that another process has. Raises as `load_embedding`, and SpiderError if its digest is another."""
    name, protocol, weights = spec
    network = load_embedding(name, protocol=protocol, weights=weights, device=device)
    if network.digest != digest:
        raise SpiderError(
            f"embedding {network.label}: this worker's has digest {network.digest[:12]}, not {digest[:12]}"
        )
    return network
