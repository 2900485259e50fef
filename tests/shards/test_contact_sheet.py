"""Sets side by side: every image of every strip is there, whatever its size and number of channels."""

from __future__ import annotations

import numpy as np
import pytest

from shards.contact_sheet import Strip, spread, strips_sheet


def plain(colour: tuple[int, ...], height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (len(colour), height, width))


def test_every_strip_shows_its_images_in_their_colours():
    red, blue, gray = plain((255, 0, 0), 32, 32), plain((0, 0, 255), 200, 100), plain((77,), 28, 28)
    sheet = np.asarray(strips_sheet("all", [Strip("red", [red] * 3), Strip("blue", [blue]), Strip("gray", [gray] * 2)]))

    def shown(*colour: int) -> int:
        return int((sheet == colour).all(2).sum())

    assert shown(255, 0, 0) == 3 * 64 * 64  # small ones enlarged by whole factors
    assert shown(0, 0, 255) == 64 * 128  # large ones reduced
    assert shown(77, 77, 77) >= 2 * 84 * 84  # and a few pixels of letters, perhaps


@pytest.mark.parametrize(("count", "wanted"), [(100, 14), (5, 14), (14, 14)])
def test_what_is_shown_is_spread_over_the_set(count: int, wanted: int):
    numbers = spread(count, wanted)
    assert len(set(numbers)) == len(numbers) == min(count, wanted)
    assert numbers[0] == 0
    assert numbers[-1] >= count - count / len(numbers) - 1
