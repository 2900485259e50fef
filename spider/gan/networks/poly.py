"""The discriminator of Poly-LSGAN in closed form: nobody trains it.

    D(x) = b + 1/n (sum of psi(x - g) over generated images g - sum of psi(x - d) over real images d)
    psi(x) = |x|^k,  for even k >= 0 |x|^k ln |x|,  with the sign by which it grows with |x|

It is what the least-squares discriminator with a penalty on its derivatives comes to ("Spider GAN", section 2.1, from
"Data Interpolants", Asokan and Seelamantula 2023); the signed distance integrates the same sum. It sums over the last
images that the main steps of the discriminator saw. b is its one parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spider.gan.method import Kept, Method
from spider.gan.networks.mlp_config import PolyDiscriminatorConfig
from spider.gan.outputs import Condition, DOut

_NEAREST = 1e-4  # the least distance to a centre, in units of the images


class PolyDiscriminator(nn.Module, Method):
    """[N, C, H, W] -> DOut with logits [N, 1]. Before the first step it says b."""

    real: Tensor
    fake: Tensor
    filled: Tensor

    def __init__(self, config: PolyDiscriminatorConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.order = config.order
        self.features = math.prod(image_shape)
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("real", torch.zeros(config.held, self.features))
        self.register_buffer("fake", torch.zeros(config.held, self.features))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor, condition: Condition) -> DOut:
        """See the class."""
        x = images.flatten(1)
        held = torch.arange(len(self.real), device=x.device) < self.filled
        apart = self._psi(x, self.fake) - self._psi(x, self.real)  # [N, held]
        mean = (apart * held).sum(1, keepdim=True) / self.filled.clamp_min(1)
        return DOut(mean + self.bias, {"last": x}, keep={"x": x})

    def stepped(self, phase: str, kept: Kept) -> None:
        """See Method: what the main step saw comes first."""
        if "real.x" not in kept:
            return
        for held, new in ((self.real, kept["real.x"]), (self.fake, kept["fake.x"])):
            held.copy_(torch.cat([new.to(held.dtype), held])[: len(held)])
        self.filled.copy_((self.filled + len(kept["real.x"])).clamp_max(len(self.real)))

    def touched(self) -> Sequence[Tensor]:
        """See Method."""
        return (self.real, self.fake, self.filled)

    def _psi(self, x: Tensor, centres: Tensor) -> Tensor:
        """[N, d], [K, d] -> [N, K], growing with the distance."""
        squares = (x[:, None] - centres.to(x.dtype)).square().sum(2).clamp_min(_NEAREST**2)
        if self.order >= 0 and self.order % 2 == 0:
            return squares ** (self.order / 2) * squares.log() / 2
        power = squares ** (self.order / 2)
        return power if self.order > 0 else -power
