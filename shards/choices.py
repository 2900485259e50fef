"""The words that options of packing are chosen from. Free of everything, so that help and checks begin at once."""

from __future__ import annotations

from typing import Literal

Crop = Literal["center", "pad", "squash"]
Encoding = Literal["auto", "keep", "png", "raw"]  # see shards.encodings
