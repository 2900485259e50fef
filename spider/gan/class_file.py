"""What a pretrained network knows of the classes of a dataset: one safetensors file, which `spider classes` writes.

    generator.*.class_vectors.weight        float32 [classes, 320], a vector of each class
    discriminator.*.embedding.weight        the same: each for all tables of a network, see `spider.gan.init.fit`
    classifier.weight, classifier.bias      float32 [classes, 1280], [classes]

A vector is the mean, over the images of a class, of the last of EfficientNet-Lite0's four stages, each averaged over
its places. StyleGAN-XL's table of ImageNet is such (Sauer et al. 2022). The classifier is linear, on the 1,280 pooled
features of the same network. Auxiliaries read it, and `init` leaves it alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from shards.files import write_whole
from spider.errors import SpiderError, SpiderUsageError
from untrusted.errors import UnreadableError
from untrusted.files import read_regular
from untrusted.json_data import parse_json
from untrusted.typed import checked

CLASSIFIER = ("classifier.weight", "classifier.bias")
VECTORS = ("generator.*.class_vectors.weight", "discriminator.*.embedding.weight")

_MARK = "spider.classes.1"  # with the number of the format
_MAX_BYTES = 1 << 32
_VECTOR, _FEATURES = 320, 1280  # of EfficientNet-Lite0


@dataclass(frozen=True)
class ClassesAbout:
    """What a file is of.

    Attributes:
        dataset: fingerprint of the packed images.
        name: of the dataset, for messages.
        classes: the names of the classes, by number.
        images: how many images were read.
        size: their height and width in px.
        crop: how they became so, as `pack` calls it.
        embedding: what tables call the embedding.
        pixels: its rule, which brings images to the network.
        digest: of the embedding.
        weights: digest of the network's weights.
    """

    dataset: str
    name: str
    classes: list[str]
    images: int
    size: tuple[int, int]
    crop: str
    embedding: str
    pixels: str
    digest: str
    weights: str


@dataclass(frozen=True)
class ClassFile:
    """A file that was read, or is to be written; see the module."""

    about: ClassesAbout
    vectors: NDArray[np.float32]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @classmethod
    def read(cls, path: Path | str) -> ClassFile:
        """A file on disk.

        Raises:
            SpiderUsageError: there is no such file.
            SpiderError: it is no such file, or a damaged one.
        """
        try:
            data = read_regular(Path(path), _MAX_BYTES)
            header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], f"{path}: header")
            said = checked(header, dict[str, Any], str(path)).get("__metadata__", {})
            if _MARK not in said:
                raise SpiderError(f"{path}: no file of classes; spider classes DATA --out FILE makes one")
            about = checked(parse_json(said[_MARK], f"{path}: {_MARK}"), ClassesAbout, f"{path}: {_MARK}")
            arrays = load(data)
        except FileNotFoundError:
            raise SpiderUsageError(f"{path}: no such file; spider classes DATA --out {path} makes it") from None
        except (SafetensorError, UnreadableError) as error:
            raise SpiderError(f"{path}: no file of classes: {' '.join(str(error).split())}") from None
        _require_shapes(path, about, arrays)
        return cls(about, arrays[VECTORS[0]], *(arrays[name] for name in CLASSIFIER))

    def write(self, path: Path) -> None:
        """Whole or not at all: equal content, equal bytes."""
        arrays = {
            **dict.fromkeys(VECTORS, self.vectors),
            **dict(zip(CLASSIFIER, (self.weight, self.bias), strict=True)),
        }
        arrays = {name: np.ascontiguousarray(array, "<f4") for name, array in arrays.items()}
        write_whole(path, save(arrays, metadata={_MARK: json.dumps(asdict(self.about))}))


def _require_shapes(path: Path | str, about: ClassesAbout, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises SpiderError: the arrays are not those of so many classes."""
    count = len(about.classes)
    expected = [(count, _VECTOR), (count, _VECTOR), (count, _FEATURES), (count,)]
    shapes = [arrays[name].shape if name in arrays else None for name in (*VECTORS, *CLASSIFIER)]
    if shapes != expected:
        raise SpiderError(f"{path}: damaged: arrays of shapes {shapes} of {count} classes")
    for name in (*VECTORS, *CLASSIFIER):
        if arrays[name].dtype != np.float32 or not np.isfinite(arrays[name]).all():
            raise SpiderError(f"{path}: damaged: {name} is {arrays[name].dtype}, or not finite")
