"""LeCam regularisation: D's outputs are held near what they were on average for the other kind of image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import relu

from spider.draws import Address
from spider.gan.auxiliary.auxiliary import Auxiliary, Seen
from spider.gan.loss import Loss, by_judgement
from spider.gan.method import Kept


class Lecam(Auxiliary):
    """relu(D(real) - a_F)^2 + relu(a_R - D(fake))^2, a_R and a_F moving averages of D(real) and D(fake).

    R_LC of Tseng et al. 2021 ("Regularizing Generative Adversarial Networks under Limited Data"), one-sided as in the
    authors' code: only outputs that D has driven apart are pulled back. The averages are of the global batch. They
    begin with the first step's means, and move after each step of D, so the first step has no term.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        self.decay = decay
        self.real, self.fake = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))
        self.steps = torch.zeros((), dtype=torch.int64, device=device)

    def discriminator(self, real: Seen, fake: Seen, draws: Address) -> Loss:
        """See Auxiliary."""
        reals, fakes, weights = real.out.logits, fake.out.logits, real.out.weights
        apart = relu(reals - self.fake).square() + relu(self.real - fakes).square()  # [n, P]
        kept = {name: by_judgement(each, weights).mean(1) for name, each in (("real", reals), ("fake", fakes))}
        return Loss({"apart": by_judgement(apart, weights) * (self.steps > 0)}, kept)

    def stepped(self, phase: str, kept: Kept) -> None:
        """See Method."""
        if not kept:
            return
        keep = self.decay * (self.steps > 0)
        for average, values in ((self.real, kept["real"]), (self.fake, kept["fake"])):
            average.copy_(keep * average + (1 - keep) * values.mean(dtype=torch.float64))
        self.steps += 1

    def tensors(self) -> dict[str, Tensor]:
        """See Method."""
        return {"real": self.real, "fake": self.fake, "steps": self.steps}
