"""APA against vectors recorded from DeceiveD, and its laws."""

import numpy as np
import pytest
import torch
from torch import nn

from spider.config.load import load_config
from spider.draws import Address
from spider.errors import SpiderUsageError
from spider.gan.augment.apa import Apa, swapped
from spider.gan.augment.config import ApaConfig
from spider.gan.objectives.build import build_objective
from spider.gan.objectives.config import ObjectiveConfig
from spider.gan.objectives.penalties import squared_gradient
from spider.gan.outputs import DOut
from spider.gan.overfit.config import OverfitConfig
from spider.gan.overfit.controller import OverfitController
from tests.vectors import recorded

CPU = torch.device("cpu")
VECTORS = recorded("apa")
AT = Address(1, "d_main", range(1000), CPU)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.75, 1.0])
def test_the_recorded_draws_replace_the_recorded_images(p):
    drawn = VECTORS[f"mix_p{p}__0_rand"].flatten()
    assert torch.equal(swapped(VECTORS["real"], VECTORS["pseudo"], drawn, p), VECTORS[f"mix_p{p}"])


def test_loss_and_r1_of_replaced_images_are_the_recorded_ones():
    """D(x) = tanh(x B) c; R1 differentiates at the generated images, too."""
    weights = VECTORS["stub__B"].clone().requires_grad_()

    def judge(images):
        return torch.tanh(images.flatten(1) @ weights) @ VECTORS["stub__c"].reshape(-1, 1)

    def reals(phase):
        return swapped(VECTORS["real"], VECTORS["loss__pseudo"], VECTORS[f"loss__{phase}_0_rand"].flatten(), 0.5)

    real = judge(reals("Dmain"))
    torch.testing.assert_close(real, VECTORS["loss__logits_real"], rtol=0, atol=1e-5)
    fake = judge(torch.tanh(VECTORS["z_D"] @ VECTORS["stub__A"]).view(-1, 3, 6, 6))
    losses = build_objective(ObjectiveConfig(kind="non_saturating"), nn.Identity(), CPU).discriminator(
        DOut(real), DOut(fake), AT
    )
    loss = sum(losses.terms.values())
    torch.testing.assert_close(loss, VECTORS["loss__D"], rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss.mean(), weights)
    torch.testing.assert_close(gradient, VECTORS["loss__grad_B"], rtol=0, atol=1e-5)
    torch.testing.assert_close(squared_gradient(judge, reals("Dreg")), VECTORS["loss__r1"], rtol=1e-5, atol=0)


def test_p_follows_the_recorded_signs():
    rule = OverfitController(OverfitConfig(rise_kimg=500, p_max=None), batch=64)
    found = []
    for number, sign in enumerate(VECTORS["controller__sign_means"].tolist()):
        for step in range(4 * number, 4 * number + 4):
            rule.iterated(step, 0, {"signs/real": (sign, 1.0)})
        found.append(rule.p)
    np.testing.assert_allclose(found, VECTORS["controller__p"], rtol=0, atol=1e-6)


def test_an_image_is_replaced_by_its_own_draw_and_about_p_of_them_are():
    real, fake = torch.zeros(1000, 1, 2, 2), torch.ones(1000, 1, 2, 2)
    found = Apa(ApaConfig(p=0.3), 8).reals(real, fake, AT)
    assert found.flatten(1).std(1).max() == 0  # an image is replaced as a whole
    assert 0.2 < found.mean() < 0.4
    alone = Apa(ApaConfig(p=0.3), 8).reals(real[1::2], fake[1::2], Address(1, "d_main", range(1, 1000, 2), AT.device))
    assert torch.equal(alone, found[1::2])
    assert Apa(ApaConfig(p=0.0), 8).reals(real, fake, AT) is real


def test_pairs_are_refused():
    with pytest.raises(SpiderUsageError, match=r"kind=apa cannot go with objective\.kind=relativistic"):
        load_config("dcgan", ["augment=[{kind: apa}]", "objective.kind=relativistic"])
