"""Minibatch standard deviation: the discriminator sees how images vary together (Karras et al. 2018, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cluster.world import World
from spider.errors import SpiderUsageError
from spider.precision import at_least_float32


class BatchStd(nn.Module):
    """[N, C, H, W] -> [N, C + features, H, W]: appends how much the images of a group vary, the same to all of them.

    The batch of B images has B / group groups. Image s is in group s mod (B / group), so a group's images lie apart, as
    in the public implementation. In a group, each channel's standard deviation at each pixel is averaged over the
    pixels and over a `features`-th of the channels.

    Groups are of the slots of the global batch. Slot s is on rank s mod W, and there in micro-batch (s div W) mod A, so
    that where W A divides the number of groups each of them lies in one micro-batch of one rank, and is a group of
    that by the same rule. Otherwise, without accumulation, ranks add up what groups have on each of them.
    """

    def __init__(self, group: int, features: int, world: World) -> None:
        super().__init__()
        self.group = group
        self.features = features
        self.world = world

    def forward(self, x: Tensor) -> Tensor:
        """See the class. Raises SpiderUsageError: groups of this size do not divide the images."""
        exact = at_least_float32(x)
        ranks = self.world.size if self.training and len(x) % self.group else 1
        group = min(self.group, len(x) * ranks)
        if len(x) * ranks % group:
            raise SpiderUsageError(f"discriminator.mbstd_group={group} does not divide {len(x) * ranks} images")
        groups = len(x) * ranks // group
        if ranks == 1:
            together = exact.reshape(group, groups, *x.shape[1:])
            shown = self._averaged((together - together.mean(0)).square().mean(0)).repeat(group, 1)
        else:
            own = (torch.arange(len(x), device=x.device) * ranks + self.world.rank) % groups
            members = (own == torch.arange(groups, device=x.device)[:, None]).to(exact.dtype)  # [groups, N]
            shown = members.T @ self._averaged(self._over_ranks(exact, members))
        return torch.cat([x, shown.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)

    def _over_ranks(self, x: Tensor, members: Tensor) -> Tensor:
        """The variances of groups that ranks share, [groups, C, H, W]."""
        flat = x.flatten(1)
        means = self.world.sum_with_grad(members @ flat) / self.group  # [groups, C * H * W]
        squares = (flat - members.T @ means).square()
        variances: Tensor = self.world.sum_with_grad(members @ squares) / self.group
        return variances.view(-1, *x.shape[1:])

    def _averaged(self, variances: Tensor) -> Tensor:
        """[groups, C, H, W] -> [groups, features]."""
        return (variances + 1e-8).sqrt().reshape(len(variances), self.features, -1).mean(2)
