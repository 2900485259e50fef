"""A discriminator that asks for further views is shown each augmented by draws of its own."""

import torch
from torch import nn

from spider.draws import Address
from spider.gan.augment.config import DiffAugmentConfig
from spider.gan.augment.diffaugment import DiffAugment
from spider.gan.augment.shown import shown
from spider.gan.outputs import Condition

AT = Address(0, "d_main", range(2), torch.device("cpu"))
AUGMENTATIONS = [DiffAugment(DiffAugmentConfig())]


class Asking(nn.Module):
    views = ("one", "two")

    def __init__(self):
        super().__init__()
        self.sizes = {"small": (4, 4)}


def test_every_view_has_draws_of_its_own():
    images = (torch.rand(2, 3, 8, 8) * 2 - 1).requires_grad_()
    plain, untold = shown(images, Condition(), nn.Identity(), AUGMENTATIONS, AT, "real")
    assert not untold.views
    for _ in range(2):  # what is asked for twice is the same
        seen, told = shown(images, Condition(), Asking(), AUGMENTATIONS, AT, "real")
        assert torch.equal(seen, plain)
        views = [seen, *(told.views[name] for name in Asking.views)]
        assert [each.shape for each in views] == [images.shape] * 3
        assert not any(torch.equal(views[a], views[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
        assert told.sizes["small"].shape == (2, 3, 4, 4)
        assert torch.equal(told.views["one"], AUGMENTATIONS[0](images, AT, "real.one"))
    for view in views:
        (slope,) = torch.autograd.grad(view.sum(), images, retain_graph=True)
        assert slope.abs().sum() > 0
    assert torch.equal(shown(images, Condition(), Asking(), [], AT, "real")[1].views["two"], images)
