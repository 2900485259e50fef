"""Image files of a user, as a generator that is told of instances takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.functional import normalize

from shards.choices import Crop
from shards.images import Target
from spider.errors import SpiderUsageError
from spider.gan.pixels import to_float
from spider.gan.sources.frozen import FrozenGenerator
from spider.judge.embed.features import BLOCK
from spider.judge.embed.load import load_embedding
from spider.pictures.generate import Photos, distinct, instances_of, read_image
from spider.runs.inputs import at_key
from untrusted.typed import checked


def read_photos(files: Sequence[str | Path], generator: FrozenGenerator, weights: Path | None = None) -> Photos:
    """Photos as a bank has them: of the size of its images, cropped as these, through its embedding.

    Raises:
        SpiderUsageError: the generator is told of no instances; two files have one name; other weights than the bank's.
        SpiderError: a file cannot be read; no weights.
    """
    known = instances_of(generator, "--instance").known
    stems = distinct([Path(file).stem for file in files], "--instance")
    channels, height, width = generator.image_shape
    crop: Crop = checked(known["crop"], cast(Any, Crop), "crop")
    own = Target(1 if channels == 1 else 3, height, width, crop, resize=True)
    of_bank = replace(own, height=known["size"][0] or height, width=known["size"][1] or width)
    with at_key("--instance"):
        shown, pixels = (torch.cat([read_image(Path(file), each) for file in files]) for each in (own, of_bank))
    network = load_embedding(known["embedding"], protocol=known["protocol"], weights=weights, device=generator.device)
    if network.digest != known["digest"]:
        raise SpiderUsageError(
            f"--instance: the generator is told of {known['label']} features (digest {known['digest'][:12]}), "
            f"and the embedding here is {network.label} ({network.digest[:12]}): --weights FILE names its weights"
        )
    blocks = [pixels[first : first + BLOCK] for first in range(0, len(pixels), BLOCK)]
    features = torch.cat([network.features(_whole(block))[: len(block)] for block in blocks])
    return Photos(stems, to_float(shown), normalize(features, dim=1))


def _whole(block: torch.Tensor) -> torch.Tensor:
    """Of the length by which a bank was made, because rounding depends on it."""
    return torch.cat([block, block.new_zeros(BLOCK - len(block), *block.shape[1:])])
