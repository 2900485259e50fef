"""An image in several sizes, for a discriminator that looks at more than one (MSG-GAN, FastGAN).

A discriminator names the sizes that it asks for in an attribute `sizes`, {name: (H, W)}, and finds them in
`Condition.sizes`:

- Of an image that the generator made: what it returned under that name (`GOut.sizes`).
- Of any other image, or if the generator returned none: the image, resized (bilinear, with a filter that is widened on
  the way down). Gradients flow through that to the image.
- All sizes of an image go through the same augmentations, by the same draws.
- Penalties take the gradient by the image alone, so they have every size resized from it, also of generated images.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from spider.errors import SpiderUsageError
from spider.gan.pixels import resize


def asked_sizes(network: nn.Module, images: Tensor, made: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Images [N, C, H, W] in the sizes that a network asks for, [N, C, h, w] by name.

    Args:
        made: what the generator returned with them; empty if it did not make them.

    Raises:
        SpiderUsageError: it returned another size than is asked for.
    """
    asked: Mapping[str, tuple[int, int]] = getattr(network, "sizes", {})
    sizes = {name: made[name] if name in made else resize(images, *size) for name, size in asked.items()}
    for name, each in sizes.items():
        wanted = (images.shape[1], *asked[name])
        if tuple(each.shape[1:]) != wanted:
            raise SpiderUsageError(
                f"the discriminator asks for images {name} of {[*wanted]}, the generator returns {[*each.shape[1:]]}"
            )
    return sizes
