"""Networks of timm with weights from a file, frozen: four of their feature maps. timm is an extra of this package.

Any of its networks will do that has maps of 1/4, 1/8, 1/16 and 1/32 of the side: the last of each are taken, as
`forward_intermediates` gives them. Nothing is downloaded, so files hold the tensors under the names of timm's own
networks, as its safetensors files do. A classifier in the file may be of any classes: maps do without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spider import weights as pretrained
from spider.backbones.layers import Layers
from spider.backbones.normalisation import Normalisation
from spider.errors import SpiderError, SpiderUsageError

STRIDES = (4, 8, 16, 32)

_BLANK = 128  # px, the least that heads judge


class TimmStages(nn.Module):
    """The network in evaluation mode, whatever `train` says.

    Attributes:
        channels: of the maps of `stages`.
        side: of the images, squares, in px, of a network that takes no others; or None.
        normalisation: of the images that it was trained on.
        weights_digest: sha256 of the file; checkpoints of a network with this part hold it, not the weights.
    """

    weights_digest: str

    def __init__(self, model: Any, places: Sequence[int]) -> None:
        """Of timm's network, in evaluation mode, and the places of the maps of `STRIDES` among its maps.

        Raises ValueError: the maps have other sides than it tells.
        """
        super().__init__()
        facts = model.pretrained_cfg
        self.model, self._places = model, [*places]
        self.side: int | None = facts["input_size"][-1] if facts.get("fixed_input_size") else None
        self.channels = self._channels(self.side or _BLANK)
        self.normalisation = Normalisation(tuple(facts["mean"]), tuple(facts["std"]))
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> TimmStages:
        """Nothing changes."""
        return super().train(False)

    def stages(self, images: Tensor) -> list[Tensor]:
        """float [N, 3, H, W], sides multiples of 32 -> feature maps of `STRIDES`. Differentiable by the images."""
        maps: list[Tensor] = self.model.forward_intermediates(
            images, indices=self._places, output_fmt="NCHW", intermediates_only=True
        )
        return maps

    @torch.no_grad()
    def _channels(self, side: int) -> tuple[int, ...]:
        """Those of the maps of a blank image of that side, in px. Raises ValueError: the maps have other sides."""
        shapes = [tuple(each.shape[1:]) for each in self.stages(torch.zeros(1, 3, side, side))]
        if [shape[1:] for shape in shapes] != [(side / stride, side / stride) for stride in STRIDES]:
            found = ", ".join(f"{height}x{width}" for _, height, width in shapes)
            raise ValueError(
                f"maps an image of {side} px to {found} px, and not to 1/4, 1/8, 1/16 and 1/32 of the side"
            )
        return tuple(channels for channels, _, _ in shapes)


def read_timm(name: str, path: Path) -> TimmStages:
    """timm's network of that name with the weights of a file.

    Raises:
        SpiderUsageError: timm has no such network, or none with such maps.
        SpiderError: timm is not installed; or the file cannot be read, or is another network's.
    """
    try:
        from timm import create_model
    except ImportError as error:
        raise SpiderError("discriminator.backbones: kind=timm needs a package: pip install timm") from error
    weights = pretrained.read_file(path)
    try:
        with torch.random.fork_rng(devices=[]), _plain_attention():  # timm draws weights, which the file's replace
            model = create_model(name, pretrained=False)
    except RuntimeError as error:
        raise SpiderUsageError(f"discriminator.backbones: kind=timm network={name}: {error}") from error
    places = _places(name, model)
    whole = model.state_dict()
    model.reset_classifier(0)
    own = {key: each for key, each in model.state_dict().items() if not key.endswith(".num_batches_tracked")}
    classifier = whole.keys() - own.keys()
    layers = Layers({key: each for key, each in weights.state.items() if key not in classifier})
    try:
        tables = [key for key, each in own.items() if not each.is_floating_point()]
        for key in tables:
            layers.take_equal(key, own.pop(key))
        state = {key: layers.take(key, tuple(each.shape)) for key, each in own.items()}
        layers.require_none_left()
    except ValueError as error:
        raise SpiderError(f"{path}: not the weights of timm's {name}: {error}") from error
    model.load_state_dict(state, strict=False)
    try:
        network = TimmStages(model.eval(), places)
    except ValueError as error:
        raise SpiderUsageError(f"discriminator.backbones: kind=timm network={name} {error}") from error
    network.weights_digest = weights.sha256
    return network


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Networks that are created within do without torch's fused attention, which cannot be differentiated twice.

    timm's layers ask its flag when they are created.
    """
    from timm.layers import set_fused_attn, use_fused_attn

    fused, experimental = use_fused_attn(), use_fused_attn(experimental=True)
    set_fused_attn(False)
    try:
        yield
    finally:
        set_fused_attn(fused, experimental)


def _places(name: str, model: Any) -> list[int]:
    """Those of the last map of each of `STRIDES`, among all that the network tells."""
    strides = [each["reduction"] for each in getattr(model, "feature_info", ())]
    if not hasattr(model, "forward_intermediates"):
        raise SpiderUsageError(
            f"discriminator.backbones: kind=timm network={name} has no forward_intermediates in this version of timm"
        )
    if not set(STRIDES) <= set(strides):
        raise SpiderUsageError(
            f"discriminator.backbones: kind=timm network={name} has no maps of 1/4, 1/8, 1/16 and 1/32 of the side, "
            f"found strides {sorted(set(strides))}"
        )
    return [max(place for place, each in enumerate(strides) if each == stride) for stride in STRIDES]
