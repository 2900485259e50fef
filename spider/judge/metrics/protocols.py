"""Named protocols: everything besides the images that changes a number, under the name of the tool it agrees with.

Two numbers may be compared only if their protocols are the same; every result carries its own in full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from spider.errors import SpiderUsageError
from spider.judge.embed.embedding import Embedding
from spider.judge.metrics.kid import SUBSET_SIZE, SUBSETS
from spider.judge.metrics.prdc import NV_PR, PRDC, Neighbourhood
from spider.measures import EmbeddingName, ProtocolName
from untrusted.words import not_known


@dataclass(frozen=True)
class Protocol:
    """How the metrics are computed.

    Attributes:
        embedding: the embedding's name.
        resize: the embedding's rule for resizing and scaling; it also says how pixels are quantised.
        ddof: covariances in FID are divided by N - ddof.
        is_splits: runs of images that the Inception score is averaged over.
        is_shuffled: whether images are shuffled before they are split.
        kid_subsets: random subsets that KID is averaged over.
        kid_subset_size: images of each set in one of them.
        precision_recall: the balls of precision and recall.
        density_coverage: the balls of density and coverage.
        about: whose numbers these are.
    """

    name: ProtocolName
    about: str
    embedding: EmbeddingName = "inception"
    resize: str = "tf"
    ddof: int = 1
    is_splits: int = 10
    is_shuffled: bool = True
    kid_subsets: int = SUBSETS
    kid_subset_size: int = SUBSET_SIZE
    precision_recall: Neighbourhood = NV_PR
    density_coverage: Neighbourhood = PRDC


_TF = Protocol("tf", "the original TensorFlow evaluators, torch-fidelity; precision and recall as in ADM's evaluator")

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _TF,
        replace(
            _TF,
            name="nvlabs",
            about="StyleGAN2-ADA and StyleGAN3: as tf, but / N, splits in order",
            ddof=0,
            is_shuffled=False,
        ),
        replace(
            _TF, name="pytorch_fid", about="pytorch-fid: as tf, but PyTorch's bilinear resize", resize="pytorch_fid"
        ),
        replace(_TF, name="clean", about="clean-fid's clean mode: as tf, but Pillow's bicubic resize", resize="clean"),
        replace(
            _TF,
            name="prdc",
            about="the prdc package: as tf, but k = 5 for precision too; IC-GAN's k, not its network",
            precision_recall=PRDC,
        ),
        Protocol(
            "sfid",
            "sFID of ADM's evaluator, of StyleGAN-XL but for / N: maps within Inception; take --metrics fid",
            embedding="inception_maps",
            resize="sfid",
        ),
        Protocol(
            "icgan_torch",
            "IC-GAN's precision, recall, density and coverage: torchvision's Inception, k = 5",
            embedding="inception_torchvision",
            resize="icgan_torch",
            precision_recall=PRDC,
        ),
        Protocol(
            "efficientnet",
            "features of ImageNet's classes without a download; comparable only with itself",
            embedding="efficientnet",
            resize="efficientnet",
        ),
        Protocol("dgm_eval", "FD-DINOv2 of dgm-eval, the paper's; FLD's too", embedding="dinov2", resize="dgm_eval"),
        Protocol("edm2", "FD-DINOv2 of EDM2", embedding="dinov2", resize="edm2"),
        Protocol("torch_fidelity", "torch-fidelity on DINOv2", embedding="dinov2", resize="torch_fidelity"),
        Protocol("cmmd", "CMMD's features", embedding="clip", resize="cmmd"),
        Protocol("icgan", "IC-GAN's SwAV features", embedding="swav", resize="icgan"),
        Protocol("icgan_classes", "IC-GAN's features of a classifier", embedding="resnet50", resize="icgan_classes"),
        Protocol("offline", "needs no download; comparable only with itself", embedding="offline", resize="offline"),
    )
}


def protocol_named(name: str) -> Protocol:
    """The protocol of that name."""
    if name not in PROTOCOLS:
        raise SpiderUsageError(f"protocol {not_known(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def protocol_for(embedding: Embedding, name: str | None = None) -> Protocol:
    """The named protocol, or by default the one called like the embedding's resize rule.

    Raises:
        SpiderUsageError: the embedding is not the one that the protocol asks for.
    """
    protocol = protocol_named(name or embedding.protocol)
    if (protocol.embedding, protocol.resize) != (embedding.name, embedding.protocol):
        raise SpiderUsageError(
            f"protocol {protocol.name!r} needs embedding {protocol.embedding} with resize rule {protocol.resize}, "
            f"got {embedding.label}"
        )
    return protocol
