"""Signed distance of sources to a target, in any mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from spider.errors import SpiderUsageError
from spider.judge.embed.cache import Features
from spider.judge.sid.choices import MODES
from spider.judge.sid.cube import PAPER_RADII, Cube, summarise
from spider.judge.sid.curve import SidCurve
from spider.judge.sid.kernels import Kernel
from spider.judge.sid.oracle import closed_form
from spider.judge.sid.paper import paper_curves
from spider.judge.sid.robust import sid_curves
from untrusted.words import not_known


def curves_of_mode(
    mode: str,
    target: Features,
    sources: Mapping[str, Features],
    kernels: Sequence[Kernel],
    *,
    seed: int = 0,
    radii: tuple[float, ...] = PAPER_RADII,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> dict[str, list[SidCurve]]:
    """Signed distance of every source to the target, a curve per kernel: {source: [one per kernel]}.

    Args:
        mode: `robust`; `paper`, the published algorithm, slower and noisier; `screen`, the closed form from moments.
        target: float32 [N, n].
        sources: float32 [M, n] by name.
        kernels: one or more.
        seed: of everything drawn. One seed, one result.
        radii: sides of the cubes in target standard deviations; the published 49 by default.
        device: where products are computed.
        progress: show a bar, by source.

    Raises:
        SpiderUsageError: no such mode, too few images, or sets of different dimensions.
        SpiderError: features that are not finite, a target that does not vary, distances outside a kernel's range.
    """
    if mode not in MODES:
        raise SpiderUsageError(f"SID mode {not_known(mode, MODES)}")
    if not kernels:
        raise SpiderUsageError("no kernel order: name at least one, such as -1")
    if mode == "robust":
        curves = sid_curves(target, sources, kernels, seed=seed, radii=radii, device=device, progress=progress)
    elif mode == "paper":
        curves = paper_curves(target, sources, kernels, seed=seed, radii=radii, device=device, progress=progress)
    else:
        cube = Cube(summarise(target, "target"), radii)
        curves = {name: closed_form(cube, summarise(features, name), kernels) for name, features in sources.items()}
    for name, of_source in curves.items():
        for curve in of_source:
            curve.require_finite(name)
    return curves
