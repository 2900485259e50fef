"""A font that has the letters of a text, whatever script it is in; or the text in letters that a font has.

Pillow's own font has hardly more than ASCII. DejaVu Sans, which matplotlib installs, has the alphabets of Europe and
some more; what is beyond it, such as Chinese, needs a font of the machine.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def fitting(text: str, size_px: int) -> tuple[str, Font]:
    """The text, and a font of this size that can draw it. Letters that no font here has are written as \\uXXXX."""
    if text.isascii():
        return text, ImageFont.load_default(size_px)
    needed = {ord(letter) for letter in text if unicodedata.category(letter) != "Cf"}
    widest = _dejavu_sans()
    fonts = [widest] if needed <= _letters_of(widest) else _system_fonts()
    for path in fonts:
        if needed <= _letters_of(path):
            return text, ImageFont.truetype(path, size_px)
    known = _letters_of(widest)
    written = "".join(
        letter if ord(letter) in known else letter.encode("ascii", "backslashreplace").decode() for letter in text
    )
    return written, ImageFont.truetype(widest, size_px)


def _dejavu_sans() -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@cache
def _system_fonts() -> list[str]:
    from matplotlib.font_manager import findSystemFonts

    return sorted(findSystemFonts())


@cache
def _letters_of(path: str) -> frozenset[int]:
    """The code points that the font has a glyph for; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(path, 15)  # a font of pictures has sizes of its own, and not this one
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
