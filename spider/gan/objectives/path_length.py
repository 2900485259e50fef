"""Path length regularisation of StyleGAN2 (Karras et al. 2020, equation 4), as in the code of StyleGAN2-ADA.

A step in w of a fixed length should change the image by about as much anywhere. Per image, with y normal,

    length = sqrt(mean over layers of |J^T y|^2 / (H W)),   J = d images / d w of that layer
    mean  <- mean + decay (mean of lengths - mean)
    penalty = (length - mean)^2

The public implementation (NVlabs/stylegan2-ada-pytorch, training/loss.py) lets gradients flow through the new mean, and
keeps a mean for each rank, which moves with every micro-batch. Here there is one mean, which moves once a step by the
lengths of the whole step, on any number of ranks and with any accumulation; the gradient flows through it as well.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.loss import Spread
from spider.gan.method import Kept
from spider.gan.objectives.generator_penalties import GeneratorPenalty, Made


class PathLength(GeneratorPenalty):
    """The penalty, and the moving mean of lengths.

    Args:
        decay: by which the mean moves.
        device: where it lies.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        self.decay = decay
        self.mean = torch.zeros((), dtype=torch.float64, device=device)

    def __call__(self, made: Made, draws: Address) -> tuple[Spread, Kept]:
        """See GeneratorPenalty.

        With v = length - old mean and V the mean of v, length - new mean is v - decay V. The mean of its square is
        mean(v^2) - (2 decay - decay^2) V^2.
        """
        images = made.out.images
        towards = draws.normal("path_length", images.shape[1:]).to(images.dtype)
        lengths = path_lengths(images, made.out.latents, towards)
        return Spread(lengths - self.mean.to(lengths.dtype), self.decay * (2 - self.decay)), {"lengths": lengths}

    def stepped(self, phase: str, kept: Kept) -> None:
        """See Method: the mean moves by the lengths of each step of its own."""
        if kept:
            self.mean.lerp_(kept["lengths"].mean(dtype=torch.float64), self.decay)

    def tensors(self) -> dict[str, Tensor]:
        """See Method."""
        return {"mean": self.mean}


def path_lengths(images: Tensor, latents: Tensor | None, towards: Tensor) -> Tensor:
    """How far an image moves with its latents: sqrt(mean over layers of |J^T y|^2 / (H W)).

    Args:
        images: [N, C, H, W], with a graph from the latents.
        latents: [N, L, D], one for each layer.
        towards: y, [N, C, H, W], standard normal.

    Returns:
        [N]. Where gradients are on, differentiable with respect to the generator.

    Raises:
        SpiderUsageError: there are no latents.
        RuntimeError: the images have no graph from the latents, or the lengths have none from the weights.
    """
    if latents is None or latents.dim() != 3:
        found = "none" if latents is None else f"shape {list(latents.shape)}"
        raise SpiderUsageError(
            f"g_penalties.path_length_weight needs a generator that returns GOut(latents=[N, L, D]), found {found}"
        )
    needed = torch.is_grad_enabled()
    y = towards / math.sqrt(images.shape[2] * images.shape[3])
    (slopes,) = torch.autograd.grad(images, latents, y, create_graph=needed)
    if needed and not slopes.requires_grad:
        raise RuntimeError("the path length has no history: double backward was dropped somewhere in G")
    return slopes.square().sum(2).mean(1).sqrt()
