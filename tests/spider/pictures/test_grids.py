"""Images side by side."""

from __future__ import annotations

import pytest
import torch
from torchvision.utils import make_grid

from spider.pictures.grids import sample_grid


@pytest.mark.parametrize("count", [1, 3, 8, 9, 20])
@pytest.mark.parametrize("columns", [1, 8])
def test_a_grid_is_that_of_torchvision(count, columns):
    images = torch.rand(count, 3, 64, 72, generator=torch.Generator().manual_seed(0))
    expected = make_grid((images + 1) / 2, nrow=columns, padding=2, pad_value=1.0)
    found = torch.from_numpy(sample_grid(images, columns=columns)).permute(2, 0, 1)
    torch.testing.assert_close(found, (expected * 255 + 0.5).to(torch.uint8), rtol=0, atol=0)


def test_names_stand_above_left_and_below_and_small_images_are_enlarged():
    images = torch.full((4, 3, 16, 16), -1.0)
    plain = sample_grid(images, columns=2, least_side=256)
    assert plain.shape == (2 * (256 + 32) + 32,) * 2 + (3,)  # 16 times as large, with gaps of 2 of its pixels
    named = sample_grid(images, columns=2, rows=["a", "b"], heads=["c", "d"], note="e " * 200, least_side=256)
    height, width = (longer - shorter for longer, shorter in zip(named.shape[:2], plain.shape[:2], strict=True))
    head = round(1.4 * (256 // 12))
    assert (named[head : head + len(plain), width:] == plain).all()
    assert (named[head : head + len(plain), :width] < 100).any()  # names of rows
    for line in (named[:head], named[head + len(plain) :][:20], named[-30:]):
        assert (line < 100).any()  # names of columns, and a note of several lines
    assert height > head + 40


def test_ways_are_seen_in_both_panels(tmp_path, monkeypatch):
    from spider.pictures.projection import figure

    drawn = []
    monkeypatch.setattr(figure, "save_figure", lambda each, path: drawn.append(each))
    for count in (2, 30):
        searched = {f"{number}.png": [2.0, 1.0, 0.5 + number] for number in range(count)}
        figure.draw_ways(tmp_path / "ways.png", "PD", searched, {"0.png": [0.5, 4.0]})
        legend = drawn[-1].legends[0]
        names = [text.get_text() for text in legend.get_texts()]
        assert names == ([*searched] if count == 2 else ["each image", "median of 30"])
        drawn[-1].draw_without_rendering()
        boxes = [axes.get_window_extent() for axes in drawn[-1].axes]
        assert not any(box.overlaps(legend.get_window_extent()) for box in boxes)
        top = max(y for axes in drawn[-1].axes for line in axes.get_lines() for y in line.get_ydata())
        assert all(axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= top for axes in drawn[-1].axes)
