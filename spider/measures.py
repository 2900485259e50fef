"""What measures images, by name: metrics, embeddings, protocols. Free of everything, so that checks begin at once."""

from __future__ import annotations

from typing import Literal, get_args

MetricName = Literal[
    "fid",
    "kid",
    "kid_full",
    "is",
    "precision",
    "recall",
    "density",
    "coverage",
    "csid",
    "sid",
    "nearest",
    "fid_class",
    "fdr",
    "fd_infinity",
    "mind",
    "cmmd",
    "vendi",
    "authenticity",
    "ct",
]
EmbeddingName = Literal["inception", "efficientnet", "offline"]
ProtocolName = Literal["tf", "nvlabs", "pytorch_fid", "clean", "prdc", "efficientnet", "offline"]
ResizeName = Literal["tf", "pytorch_fid", "clean"]  # Inception's rules; any other embedding has one, called as itself

METRICS: tuple[str, ...] = get_args(MetricName)
EMBEDDINGS: tuple[str, ...] = get_args(EmbeddingName)
PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)
RESIZE_RULES: tuple[str, ...] = get_args(ResizeName)
