"""Perceptual path length (Karras et al. 2019, section 4.1): how much an image changes for a small step of its input.

PPL is the mean of d(G(t), G(t + epsilon)) / epsilon^2 over places t between pairs of inputs, without the lowest and the
highest percent. The direction of z is interpolated along the sphere, w along a line, and images of 512 px and more are
averaged to 256 px, as in the public implementation (NVlabs/stylegan2-ada-pytorch, metrics/perceptual_path_length.py).
There the length of z does not matter, because the mapping network divides by it. Here it goes from that of one input to
that of the other, so that networks without such a division see inputs as their source makes them. The distance there is
LPIPS of VGG16. Here it is whatever is given: its label belongs to the number. No layer computes in half precision, as
there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spider import draws
from spider.backbones.perceptual import PerceptualDistance
from spider.errors import SpiderUsageError
from spider.gan.sources.frozen import FrozenGenerator
from spider.gan.sources.gmm import Gmm
from spider.judge.metrics.spread import spread
from spider.precision import no_half_precision

if TYPE_CHECKING:
    from cluster.world import World

AT_ONCE = 32  # pairs
SIDE = 256  # pixels, of the larger images that are compared


@torch.no_grad()
def perceptual_path_length(
    generator: FrozenGenerator,
    distance: PerceptualDistance,
    seed: int,
    count: int,
    world: World,
    *,
    space: Literal["z", "w"] = "w",
    sampling: Literal["full", "end"] = "full",
    epsilon: float = 1e-4,
    progress: bool = False,
) -> float:
    """PPL of `count` pairs of numbered inputs under an evaluation seed: 0 and 1, 2 and 3, ... All ranks; each gets it.

    Both images of a step have the class and the noise of the first of the pair.

    Args:
        space: what is interpolated.
        sampling: places anywhere between the inputs, or at the first of them.
        epsilon: of the way between the inputs.

    Raises:
        SpiderUsageError: w is asked for, and the generator has none; z is, and it is not fed vectors, or
            there is nothing between them.
    """
    if space == "w" and not generator.has_w:
        raise SpiderUsageError("space=w: this generator has no mapping network; space=z is what it has")
    if space == "z" and len(generator.source.shape) > 1:
        raise SpiderUsageError("space=z: this generator is fed images, not vectors")
    if space == "z" and isinstance(generator.source, Gmm):
        raise SpiderUsageError(
            "space=z: source.kind=gmm draws a component and a place in it: there is nothing between two of them"
        )

    def distances(block: int) -> tuple[Tensor]:
        pairs = range(block * AT_ONCE, (block + 1) * AT_ONCE)
        first, second = ([2 * pair + other for pair in pairs] for other in (0, 1))
        told = generator.condition_at(seed, first)
        ends = [generator.source.at(seed, each).cpu().double() for each in (first, second)]
        at = draws.uniform(seed, "path_length", pairs, (), torch.device("cpu"))
        at = torch.zeros_like(at) if sampling == "end" else at
        if space == "w":
            ws = [generator.latents(each, told) for each in ends]
            images = [generator.of_latents(each, told) for each in _step(torch.lerp, ws, at, epsilon)]
        else:
            images = [generator(each, told) for each in _step(between, ends, at, epsilon)]
        return ((distance(*map(_shrunk, images)).double() / epsilon**2).cpu(),)

    with no_half_precision():  # which would round away what a step of epsilon changes
        (found,) = spread(world, -(-count // AT_ONCE), distances, label="path length", progress=progress)
    return trimmed_mean(found.flatten()[:count])


def between(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """From a [N, d] to b: the direction along the sphere, the length along a line, t [N, 1] of the way: [N, d]."""
    length = torch.lerp(a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True), t)
    return length * slerp(a, b, t)


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """From the direction of a [N, d] to that of b along the unit sphere, t [N, 1] of the angle: [N, d] of length 1."""
    a, b = (each / each.norm(dim=1, keepdim=True) for each in (a, b))
    cosine = (a * b).sum(dim=1, keepdim=True)
    across = b - cosine * a
    across = across / across.norm(dim=1, keepdim=True)
    angle = t * cosine.clamp(-1, 1).acos()
    found: Tensor = a * angle.cos() + across * angle.sin()
    return found


def trimmed_mean(values: Tensor) -> float:
    """The mean of those from the first percentile to the 99th, each a value that is there."""
    found = values.cpu().numpy()
    low = np.percentile(found, 1, method="lower")
    high = np.percentile(found, 99, method="higher")
    return float(found[(found >= low) & (found <= high)].mean())


def _shrunk(images: Tensor) -> Tensor:
    """Images of 512 px and more, averaged to 256 px (to 511 at most, if their side is no multiple of that)."""
    factor = min(images.shape[2:]) // SIDE
    return images if factor < 2 else F.avg_pool2d(images, factor)


def _step(
    way: Callable[[Tensor, Tensor, Tensor], Tensor], ends: Sequence[Tensor], t: Tensor, epsilon: float
) -> list[Tensor]:
    """What lies at t [N], and at t + epsilon, of the way between both ends [N, ...]."""
    a, b = ends
    t = t.view(-1, *[1] * (a.dim() - 1)).to(a.device, a.dtype)
    return [way(a, b, each) for each in (t, t + epsilon)]
