"""What a projection leaves.

    OUT/NAME.png               the image of the point that was found
        NAME-target.png        the given image, as the generator would make it
        NAME-nearest.png       the generator's own sample that is nearest to it
        NAME.npz               the point, see `spider.pictures.projection.points`
        NAME-tuned.png         the image of the same point by the tuned weights
        NAME-tuned.safetensors the tuned weights, in the names of a checkpoint's generator
        NAME.gif, NAME.mp4     the way
        projections.png        all of them, a row for each given image, and below each image its distance
        ways.png               the distance against the step
        project.json           what was asked for, and the distances of every image that is done

An image is done when project.json names it. The same command goes on with those that are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typing_extensions import TypedDict

from spider.errors import SpiderUsageError
from spider.files import finite, write_text
from spider.gan.pixels import to_float, to_uint8
from spider.pictures.grids import sample_grid, write_png
from spider.pictures.png import png_bytes, write_picture
from spider.pictures.projection.figure import draw_ways
from spider.pictures.projection.points import read_way
from spider.pictures.projection.targets import TargetImage
from untrusted.json_data import read_json
from untrusted.typed import checked

ASKED = ("generator", "space", "steps", "tune", "distance", "samples", "seed")  # what must be the same to go on
_MOST_ROWS = 64  # of the grid
_LEAST_SIDE = 256  # px; a few images alone on a screen
_BESIDE = ("-target.png", "-nearest.png", "-tuned.png")


class Done(TypedDict):
    """One image in project.json. Distances by their names."""

    target: str  # sha256 of the given image's pixels
    label: str | None  # the name of its class
    number: int  # of the nearest sample
    nearest: dict[str, float]
    projection: dict[str, float]
    tuned: dict[str, float] | None


class _Read(TypedDict):
    generator: str
    space: str
    steps: int
    tune: int
    distance: str
    samples: int
    seed: int
    images: dict[str, Done]


class ProjectionFolder:
    """A folder of projections under one set of settings.

    Attributes:
        done: the images that are, by name.
    """

    def __init__(self, path: Path, asked: Mapping[str, str | int], provenance: Mapping[str, Any]) -> None:
        """Open it, or make it.

        Raises:
            SpiderUsageError: it holds projections under other settings.
            UnreadableError: project.json is damaged.
        """
        self.path = path
        self.asked = asked
        self.provenance = provenance
        self.done: dict[str, Done] = {}
        if self._file.exists():
            found = checked(read_json(self._file), _Read, str(self._file))
            for key in ASKED:
                if found[key] != asked[key]:  # type: ignore[literal-required]
                    raise SpiderUsageError(
                        f"--out {path}: holds projections with {key} {found[key]}, "  # type: ignore[literal-required]
                        f"asked for is {asked[key]}; name another folder"
                    )
            self.done = found["images"]
        path.mkdir(parents=True, exist_ok=True)

    def require_names(self, names: Sequence[str]) -> None:
        """Refuse names of images whose files would be those of others. Raises SpiderUsageError."""
        taken = {"projections": "the grid's", "ways": "the figure's"}
        for name in {*names, *self.done}:
            taken |= {f"{name}{end.removesuffix('.png')}": f"those of {name}" for end in _BESIDE}
        for name in names:
            if name in taken:
                raise SpiderUsageError(f"an image is called {name}; its files would be {taken[name]}: rename it")

    def is_done(self, target: TargetImage, label: str | None) -> bool:
        """Whether all of an image is there. Raises SpiderUsageError: another image has its name."""
        before = self.done.get(target.name)
        if before is None:
            return False
        if before["target"] != digest(target.pixels) or before["label"] != label:
            raise SpiderUsageError(
                f"--out {self.path}: has another image or class as {target.name}; name another folder"
            )
        tuned = ["-tuned.png", "-tuned.safetensors"] if before["tuned"] is not None else []
        return all(
            self.file(target.name, end).exists() for end in (".png", ".npz", "-target.png", "-nearest.png", *tuned)
        )

    def file(self, name: str, end: str) -> Path:
        """A file of an image."""
        return self.path / f"{name}{end}"

    def write_image(self, name: str, end: str, image: Tensor) -> None:
        """Of float [1, C, H, W], -1 to 1."""
        write_picture(self.file(name, end), png_bytes(to_uint8(image)[0].cpu()))

    def add(self, name: str, done: Done) -> None:
        """Note that an image is done, and show all that are."""
        self.done[name] = done
        write_text(self._file, json.dumps(finite(self.as_json()), indent=2, allow_nan=False) + "\n")
        self._show()

    def as_json(self) -> dict[str, Any]:
        """What project.json holds."""
        return {**self.asked, **self.provenance, "images": self.done}

    @property
    def _file(self) -> Path:
        return self.path / "project.json"

    def _show(self) -> None:
        """The grid and the ways."""
        label = str(self.asked["distance"])
        images: list[Tensor] = []
        captions: list[str] = []
        names = list(self.done)[:_MOST_ROWS]
        for name in names:
            each = self.done[name]
            shown = {
                "-target.png": each["label"] or "",
                "-nearest.png": f"seed {each['number']}: {each['nearest'][label]:.3f}",
                ".png": f"{each['projection'][label]:.3f}",
            }
            if each["tuned"] is not None:
                shown["-tuned.png"] = f"{each['tuned'][label]:.3f}"
            images += [_image(self.file(name, end)) for end in shown]
            captions += shown.values()
        heads = ["target", "nearest sample", "projection", "projection, tuned"][: len(images) // len(names)]
        grid = sample_grid(
            torch.cat(images),
            columns=len(heads),
            captions=captions,
            rows=names,
            heads=heads,
            note=f"Below: {label}, the distance to the target, 0 if equal. Nearest sample: of "
            f"{self.asked['samples']}. Space: {self.asked['space']}. Steps: {self.asked['steps']}.",
            least_side=_LEAST_SIDE,
        )
        write_png(self.path / "projections.png", grid)
        points = {name: self.file(name, ".npz") for name in self.done}
        searched = {name: read_way(file, "way") for name, file in points.items()}
        tuned = {name: read_way(points[name], "way_tuned") for name in points if self.done[name]["tuned"] is not None}
        draw_ways(self.path / "ways.png", label, searched, tuned)


def digest(pixels: NDArray[np.uint8]) -> str:
    """sha256 of shape and pixels."""
    return hashlib.sha256(f"{list(pixels.shape)}".encode() + pixels.tobytes()).hexdigest()


def _image(path: Path) -> Tensor:
    """float [1, C, H, W]."""
    with Image.open(path) as image:
        pixels = np.array(image)
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return to_float(torch.from_numpy(planes)[None])
