"""What a discriminator is shown of images: augmented, in every size that it asks for, and as often as it asks for.

A discriminator that looks at an image more than once names further views in an attribute `views`, and finds them in
`Condition.views`. Each is the image in its own size, augmented by draws of its own. (StyleGAN-XL's discriminator looks
through several pretrained networks, and augments for each of them anew.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from spider.draws import Address
from spider.gan.augment.augmentation import Augmentation
from spider.gan.outputs import Condition
from spider.gan.sizes import asked_sizes


def shown(
    images: Tensor,
    condition: Condition,
    network: nn.Module,
    augmentations: Sequence[Augmentation],
    draws: Address,
    use: str,
) -> tuple[Tensor, Condition]:
    """Augmented images [N, C, H, W], and the condition with what a network asks for besides. Differentiable by images.

    Args:
        condition: theirs, with those sizes that the generator made.
        draws, use: as of Augmentation.

    Raises:
        SpiderUsageError: see `spider.gan.sizes`.
    """

    def augmented(each: Tensor, use: str) -> Tensor:
        for augmentation in augmentations:
            each = augmentation(each, draws, use)
        return each

    views: Sequence[str] = getattr(network, "views", ())
    sizes = asked_sizes(network, images, condition.sizes)
    for augmentation in augmentations:
        condition = augmentation.told(condition, draws, use)
    return augmented(images, use), replace(
        condition,
        sizes={name: augmented(each, use) for name, each in sizes.items()},
        views={name: augmented(images, f"{use}.{name}") for name in views},
        use=f"{draws.phase}.{use}",
    )
