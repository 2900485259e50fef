"""The colours of the heatmap."""

from __future__ import annotations

import numpy as np

from spider.judge.sid.figures import heatmap_shades


def test_the_nearest_of_each_column_is_palest_however_close_the_others_are():
    numbers = np.array([[np.nan, 1e6], [107.4, -3.0], [111.7, 2e6], [108.0, -1.0]])
    shades = heatmap_shades(numbers)
    assert np.array_equal(np.isnan(shades), np.isnan(numbers))
    assert np.array_equal(np.sign(shades[1:]), np.sign(numbers[1:]))
    np.testing.assert_allclose(np.abs(shades[1:, 0]), [0.1, 1, 0.1 + 0.9 * 0.6 / 4.3])
    np.testing.assert_allclose(shades[:, 1], [0.1, -1, 1, -0.1])


def test_equal_numbers_have_one_colour():
    assert np.array_equal(heatmap_shades(np.array([[2.0, 0.0], [2.0, np.nan]])), [[0.1, 0.1], [0.1, np.nan]], True)
