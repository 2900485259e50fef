"""Mirror images."""

import torch

from spider.draws import Address
from spider.gan.augment.mirror import Mirror


def test_half_of_the_images_are_mirrored_each_by_its_own_draw():
    at = Address(1, "d_main", range(400), torch.device("cpu"))
    images = torch.randn(400, 3, 4, 6)
    found = Mirror()(images, at, "real")
    is_mirrored = (found == images.flip(3)).flatten(1).all(1)
    assert torch.equal(found[~is_mirrored], images[~is_mirrored])
    assert 150 < is_mirrored.sum() < 250
    alone = Mirror()(images[1::2], Address(1, "d_main", range(1, 400, 2), at.device), "real")
    assert torch.equal(alone, found[1::2])
    assert not torch.equal(Mirror()(images, at, "fake"), found)
