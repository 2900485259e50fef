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
    "fid_strata",
    "fdr",
    "fd_infinity",
    "mind",
    "cmmd",
    "vendi",
    "authenticity",
    "ct",
]
EmbeddingName = Literal[
    "inception", "inception_maps", "inception_torchvision", "efficientnet", "dinov2", "clip", "swav", "resnet50",
    "offline",
]  # fmt: skip
ProtocolName = Literal[
    "tf", "nvlabs", "pytorch_fid", "clean", "prdc", "sfid", "icgan_torch", "efficientnet", "dgm_eval", "edm2",
    "torch_fidelity", "cmmd", "icgan", "icgan_classes", "offline",
]  # fmt: skip

GeneratorMetricName = Literal[
    "ppl_wend", "ppl_wfull", "ppl_zend", "ppl_zfull", "eq_t", "eq_t_frac", "eq_r", "diversity"
]
METRICS: tuple[str, ...] = get_args(MetricName)
# Metrics of NVIDIA's StyleGAN repositories, by the beginning of a name such as fid50k_full, and what they are here
OF_STYLEGAN = {
    "fid": "fid",
    "kid": "kid",
    "pr": "precision,recall",
    "is": "is",
    "ppl2_wend": "ppl_wend",
    "ppl_wend": "ppl_wend",
    "ppl_wfull": "ppl_wfull",
    "ppl_zend": "ppl_zend",
    "ppl_zfull": "ppl_zfull",
    "sfid": "fid --protocol sfid",
    "eqt": "eq_t",
    "eqt_frac": "eq_t_frac",
    "eqr": "eq_r",
}
# Of METRICS, those of which neither end is better: no checkpoint is best by them, and no method is judged
WITHOUT_A_BETTER_END = ("csid", "sid", "nearest", "vendi", "authenticity", "ct")
GENERATOR_METRICS: tuple[str, ...] = get_args(GeneratorMetricName)  # of a generator itself: no reference, no embedding
EMBEDDINGS: tuple[str, ...] = get_args(EmbeddingName)
PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)
FEATURE_FILES = (".npy", ".npz")  # a reference with such an ending is a file of features
DISTANCES = ("efficientnet", "lpips_alex", "lpips_vgg")  # how different two images look

# How images come to an embedding's network; the first is the default
RESIZE_RULES: dict[str, tuple[str, ...]] = {
    "inception": ("tf", "pytorch_fid", "clean"),
    "inception_maps": ("sfid",),
    "inception_torchvision": ("icgan_torch",),
    "efficientnet": ("efficientnet",),
    "dinov2": ("dgm_eval", "edm2", "torch_fidelity"),
    "clip": ("cmmd",),
    "swav": ("icgan",),
    "resnet50": ("icgan_classes",),
    "offline": ("offline",),
}


def embedding_of(protocol: str | None) -> str:
    """The embedding that a protocol asks for; `inception` for none, for its own protocols and for unknown ones."""
    return next((name for name, rules in RESIZE_RULES.items() if protocol in rules), "inception")
