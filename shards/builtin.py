"""Image sets that need no download: made from what scikit-learn and matplotlib install. The same on every call.

digits     scikit-learn's 1,797 handwritten digits, 8x8, 16 grey levels; labels 0 to 9
letters    3,900 rendered capitals in 19 type faces that matplotlib ships, 32x32, white on black like the digits,
           with jittered size, place and slant; labels A to Z
patches    4,000 square cuttings, 32 to 128 pixels a side, of scikit-learn's two photographs, as 32x32 RGB; no labels

and, of points of a plane, what `shards.points` makes: gaussians8, gaussians25, unbalanced, swissroll
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shards.points import points

Pixels = NDArray[np.uint8]

_LETTERS_EACH = 150
_PATCHES = 4000
_SIDE_PX = 32
_SUPERSAMPLING = 3  # letters are drawn this much larger, then averaged down
_FONT_PX = 128
_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmss10", "cmtt10"),
)


@dataclass(frozen=True)
class ImageSet:
    """Images in memory: uint8 [N, H, W] or [N, H, W, 3], with a label for each, or no labels and no classes."""

    pixels: Pixels
    labels: NDArray[np.int64] | None
    classes: list[str]


def digits() -> ImageSet:
    """scikit-learn's digits, their 0 .. 16 spread over 0 .. 255."""
    rows = np.loadtxt(_of_scikit_learn("data/digits.csv.gz"), delimiter=",")  # [1797, 64 levels and the label]
    levels, labels = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]
    return ImageSet(np.rint(levels * (255 / 16)).astype(np.uint8), labels.astype(np.int64), list("0123456789"))


def letters() -> ImageSet:
    """Capitals of every class in turn, so that any stretch of the set is balanced."""
    classes = list(string.ascii_uppercase)
    glyphs = [[_draw_glyph(letter, font) for font in _load_fonts()] for letter in classes]
    rng = np.random.Generator(np.random.Philox(key=0))
    labels = np.arange(len(classes) * _LETTERS_EACH) % len(classes)
    pixels = [_jitter(glyphs[label][rng.integers(len(_FONTS))], rng) for label in labels]
    return ImageSet(np.stack(pixels), labels, classes)


def patches() -> ImageSet:
    """Squares of log-uniform side at uniform places, from one photograph and the other in turn."""
    photographs = [Image.open(_of_scikit_learn(f"images/{name}.jpg")) for name in ("china", "flower")]
    rng = np.random.Generator(np.random.Philox(key=1))
    pixels = []
    for number in range(_PATCHES):
        photograph = photographs[number % len(photographs)]
        side = round(float(_SIDE_PX * 4 ** rng.random()))
        left, top = (int(rng.random() * (extent - side)) for extent in photograph.size)
        patch = photograph.crop((left, top, left + side, top + side))
        pixels.append(np.asarray(patch.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)))
    return ImageSet(np.stack(pixels), None, [])


def _points(name: str) -> ImageSet:
    return ImageSet(*points(name))


PLANES = ("gaussians8", "gaussians25", "unbalanced", "swissroll")
SETS: dict[str, Callable[[], ImageSet]] = {
    "digits": digits,
    "letters": letters,
    "patches": patches,
    **{name: partial(_points, name) for name in PLANES},
}


def _of_scikit_learn(name: str) -> Path:
    """A file of sklearn.datasets. The package itself takes longer to import than its digits to train on."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("scikit-learn, of which the built-in sets are made, is not installed")
    return Path(package.origin).parent / "datasets" / name


def _load_fonts() -> list[ImageFont.FreeTypeFont]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [ImageFont.truetype(str(folder / f"{name}.ttf"), _FONT_PX) for name in _FONTS]


def _draw_glyph(letter: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """The letter, white on black, cut to its edges."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(letter))
    glyph = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(glyph).text((-left, -top), letter, font=font, fill=255)
    return glyph


def _jitter(glyph: Image.Image, rng: np.random.Generator) -> Pixels:
    """uint8 [32, 32]: the letter filling most of the frame, as the digits do, with its own size, place and slant."""
    canvas = _SIDE_PX * _SUPERSAMPLING
    slant = rng.uniform(-0.25, 0.25)
    height = canvas * rng.uniform(0.68, 0.92)
    width = min(height * glyph.width / glyph.height * rng.uniform(0.85, 1.15), canvas * 0.95 - height * abs(slant))
    center_x, center_y = (canvas / 2 + canvas * rng.uniform(-0.04, 0.04) for _ in range(2))
    # Pillow asks for the way back: from a place on the canvas to one in the glyph
    per_x, per_y = glyph.width / width, glyph.height / height
    shear = slant * per_x
    way_back = (
        *(per_x, shear, glyph.width / 2 - per_x * center_x - shear * center_y),
        *(0.0, per_y, glyph.height / 2 - per_y * center_y),
    )
    drawn = glyph.transform((canvas, canvas), Image.Transform.AFFINE, way_back, Image.Resampling.BILINEAR)
    return np.asarray(drawn.reduce(_SUPERSAMPLING))
