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
