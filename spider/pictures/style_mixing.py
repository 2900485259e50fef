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
from spider.gan.sources.frozen import BLOCK, FrozenGenerator, WithMapping

_PARTS = (("coarse", 0), ("middle", 16), ("fine", 64))  # from how many px on; StyleGAN (Karras et al. 2019), figure 3


def mixed_styles(
    generator: FrozenGenerator, seed: int, rows: Sequence[int], styles: Sequence[int], layers: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The images `rows`, the images `styles`, and each of the first with the styles of each of the second.

    Args:
        layers: numbers of the layers that take another w, see `style_layers`.

    Returns:
        Float [R, C, H, W], [S, C, H, W] and [R * S, C, H, W], row by row.
    """
    row_ws, style_ws = (_latents(generator, seed, numbers) for numbers in (rows, styles))
    mixed = row_ws.repeat_interleave(len(styles), dim=0)  # [R * S, L, w_dim]
    mixed[:, list(layers)] = style_ws.repeat(len(rows), 1, 1)[:, list(layers)]
    of_rows = [number for number in rows for _ in styles]
    return (
        _images(generator, seed, rows, row_ws),
        _images(generator, seed, styles, style_ws),
        _images(generator, seed, of_rows, mixed),
    )


def style_layers(generator: FrozenGenerator, layers: Sequence[int] | None) -> list[int]:
    """Numbers of the layers that take another w, from 0, the one of the smallest images; None: the first half.

    Raises:
        SpiderUsageError: the generator has no mapping network, or not so many layers.
    """
    count = len(_sides(generator))
    chosen = list(range(count // 2)) if layers is None else list(layers)
    if max(chosen) >= count:
        raise SpiderUsageError(f"--style-layers: layer {max(chosen)} is none of this generator's, 0-{count - 1}")
    return chosen


def named_layers(generator: FrozenGenerator, layers: Sequence[int]) -> str:
    """`0-3: coarse (0-2, 4-8 px), middle (3, 16 px)`; StyleGAN3, whose first layers are not small, has sides alone."""
    sides = _sides(generator)
    parts = _PARTS if min(sides) < _PARTS[1][1] else (("", 0),)
    told = []
    for (name, least), (_, most) in zip(parts, [*parts[1:], ("", 1 << 30)], strict=True):
        part = sorted(layer for layer in layers if least <= sides[layer] < most)
        if part:
            px = "-".join(str(each) for each in dict.fromkeys((sides[part[0]], sides[part[-1]])))
            told.append(f"{name} ({_spans(part)}, {px} px)" if name else f"{px} px")
    return f"{_spans(sorted(layers))}: {', '.join(told)}"


def _spans(numbers: Sequence[int]) -> str:
    """Rising numbers as `--style-layers` takes them: `0-3,5`."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ",".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)


def _sides(generator: FrozenGenerator) -> Sequence[int]:
    """In px, of each layer."""
    if not isinstance(generator.module, WithMapping):
        raise SpiderUsageError("--styles: this generator has no mapping network, whose w it could mix")
    return generator.module.layer_sides


def _latents(generator: FrozenGenerator, seed: int, numbers: Sequence[int]) -> Tensor:
    inputs = generator.source.at(seed, numbers)
    return generator.latents(inputs, generator.condition_at(seed, numbers))


def _images(generator: FrozenGenerator, seed: int, numbers: Sequence[int], ws: Tensor) -> Tensor:
    parts = (slice(start, start + BLOCK) for start in range(0, len(numbers), BLOCK))
    return torch.cat([generator.of_latents(ws[part], generator.condition_at(seed, numbers[part])) for part in parts])
