"""Images whose layers take w of two inputs: what the coarse layers decide, and what the fine ones do.

                 style c        style d
    image a    a with c's     a with d's        w of the layers that were asked for
    image b    b with c's     b with d's

As style_mixing.py of NVlabs/stylegan2-ada-pytorch. What a network draws besides (noise) is that of the row's image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spider.errors import SpiderUsageError
from spider.gan.sources.frozen import BLOCK, FrozenGenerator


def mixed_styles(
    generator: FrozenGenerator, seed: int, rows: Sequence[int], styles: Sequence[int], layers: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The images `rows`, the images `styles`, and each of the first with the styles of each of the second.

    Args:
        layers: numbers of the layers that take another w, from 0, the one at 4 px; None: the first half.

    Returns:
        Float [R, C, H, W], [S, C, H, W] and [R * S, C, H, W], row by row.

    Raises:
        SpiderUsageError: the generator has no mapping network, or not so many layers.
    """
    if not generator.has_w:
        raise SpiderUsageError("--styles: this generator has no mapping network, whose w it could mix")
    row_ws, style_ws = (_latents(generator, seed, numbers) for numbers in (rows, styles))
    count = row_ws.shape[1]
    chosen = list(range(count // 2)) if layers is None else list(layers)
    if max(chosen) >= count:
        raise SpiderUsageError(f"--style-layers: layer {max(chosen)} is none of this generator's, 0-{count - 1}")
    mixed = row_ws.repeat_interleave(len(styles), dim=0)  # [R * S, L, w_dim]
    mixed[:, chosen] = style_ws.repeat(len(rows), 1, 1)[:, chosen]
    of_rows = [number for number in rows for _ in styles]
    return (
        _images(generator, seed, rows, row_ws),
        _images(generator, seed, styles, style_ws),
        _images(generator, seed, of_rows, mixed),
    )


def _latents(generator: FrozenGenerator, seed: int, numbers: Sequence[int]) -> Tensor:
    inputs = generator.source.at(seed, numbers)
    return generator.latents(inputs, generator.condition_at(seed, numbers))


def _images(generator: FrozenGenerator, seed: int, numbers: Sequence[int], ws: Tensor) -> Tensor:
    parts = (slice(start, start + BLOCK) for start in range(0, len(numbers), BLOCK))
    return torch.cat([generator.of_latents(ws[part], generator.condition_at(seed, numbers[part])) for part in parts])
