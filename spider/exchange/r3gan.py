"""R3GAN's networks in a pickle of the public code (brownvc/R3GAN) -> our settings and weights.

Its modules are pickled by the names of their classes alone. Widths, groups and blocks are those of the layers: the
arguments are not kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from spider.arguments import MAX_RESOLUTION
from spider.errors import SpiderError, shown
from spider.exchange.persistent import PickledModule
from spider.exchange.pickled_tensors import array_of
from spider.exchange.translation import Imported, made, same, tensors, unknown_class, whole
from spider.gan.networks.r3gan import R3ganDiscriminator, R3ganGenerator
from spider.gan.networks.r3gan_config import EXPANSION, R3ganConfig
from spider.gan.networks.r3gan_names import CLASS_VECTORS, discriminator_name, generator_name
from spider.gan.outputs import ConditionShape

_TOP = "training.networks."
_GENERATOR, _DISCRIMINATOR = f"{_TOP}Generator", f"{_TOP}Discriminator"
_MODEL = "R3GAN.Networks."
_STAGES = {_GENERATOR: f"{_MODEL}GeneratorStage", _DISCRIMINATOR: f"{_MODEL}DiscriminatorStage"}
_BASES = {_GENERATOR: f"{_MODEL}GenerativeBasis", _DISCRIMINATOR: f"{_MODEL}DiscriminativeBasis"}
_CHANGES = {_GENERATOR: f"{_MODEL}UpsampleLayer", _DISCRIMINATOR: f"{_MODEL}DownsampleLayer"}
_RESAMPLERS = {
    _GENERATOR: tuple(f"R3GAN.Resamplers.InterpolativeUpsampler{code}" for code in ("CUDA", "Reference")),
    _DISCRIMINATOR: tuple(f"R3GAN.Resamplers.InterpolativeDownsampler{code}" for code in ("CUDA", "Reference")),
}
_BLOCK, _CONVOLUTION = f"{_MODEL}ResidualBlock", f"{_MODEL}Convolution"
_ACTIVATIONS = ("R3GAN.FusedOperators.BiasedActivationCUDA", "R3GAN.FusedOperators.BiasedActivationReference")
_LIST, _CONV, _LINEAR = (
    f"torch.nn.modules.{name}" for name in ("container.ModuleList", "conv.Conv2d", "linear.Linear")
)
CLASSES = frozenset(  # that are pickled by their names alone
    {
        *(_GENERATOR, _DISCRIMINATOR, f"{_MODEL}Generator", f"{_MODEL}Discriminator"),
        *(*_STAGES.values(), *_BASES.values(), *_CHANGES.values()),
        *(name for names in _RESAMPLERS.values() for name in names),
        *(_BLOCK, _CONVOLUTION, *_ACTIVATIONS, _LIST, _CONV, _LINEAR),
    }
)

_KERNEL = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64  # [1, 2, 1] over pixels that are doubled
_FILTER_RADIUS = 1
_BASE = 4  # pixels
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "forward")  # what would change what a module computes


def is_r3gan(network: PickledModule) -> bool:
    """Whether a network is one of R3GAN's, by its class."""
    return network.class_name in _STAGES


def import_generator(network: PickledModule, max_bytes: int) -> Imported:
    """The generator.

    Args:
        max_bytes: of all its tensors.

    Raises:
        SpiderError: it is not R3GAN's, or has what this one cannot be told.
    """
    found = _Found(network, _GENERATOR, "AggregationLayer")
    shape = found.image_shape(0)
    if (whole(network, "img_resolution"), whole(network, "c_dim")) != (shape[1], found.classes):
        raise SpiderError(
            f"{network.path}: its layers make images of {shape[1]} px of {found.classes} classes, which img_resolution "
            "or c_dim do not say"
        )
    z_dim = whole(network, "z_dim")
    here = made(network, lambda: R3ganGenerator(found.settings(), (z_dim,), shape, ConditionShape(found.classes)))
    weights = tensors(network, generator_name, here, {}, max_bytes, {CLASS_VECTORS: np.transpose})
    return Imported(found.settings().model_dump(mode="json"), shape, found.classes, z_dim, weights)


def import_discriminator(network: PickledModule, max_bytes: int) -> Imported:
    """The discriminator. Arguments and errors as above."""
    found = _Found(network, _DISCRIMINATOR, "ExtractionLayer")
    shape = found.image_shape(1)
    here = made(network, lambda: R3ganDiscriminator(found.settings(), shape, ConditionShape(found.classes)))
    weights = tensors(network, discriminator_name, here, {}, max_bytes, {CLASS_VECTORS: np.transpose})
    return Imported(found.settings().model_dump(mode="json"), shape, found.classes, 0, weights)


class _Found:
    """What the modules of a network tell, each of which is known: refused is whatever else stands among them.

    Args:
        role: its class.
        images: the name of its layer at the images.
    """

    def __init__(self, network: PickledModule, role: str, images: str) -> None:
        if network.class_name != role:
            raise unknown_class(network, role)
        for module in network.modules():
            for name in _HOOKS:
                if module.attributes.get(name):
                    raise SpiderError(f"{module.path}: {name} would change what {module.class_name} computes")
        self._network, self._role = network, role
        model = _part(network, "Model", f"{_MODEL}{role.removeprefix(_TOP)}")
        _require_only(network, ("Model",))
        _require_only(model, ("MainLayers", images, "EmbeddingLayer"))
        self._at_images = _convolution(model, images)
        self.classes, self._embedding_dim = 0, None
        if "EmbeddingLayer" in model.children:
            self._embedding_dim, self.classes = _sides(_part(model, "EmbeddingLayer", _LINEAR), "weight", 2)
        stages = [self._stage(stage, at_4_px) for stage, at_4_px in self._stages(model)]
        if role == _DISCRIMINATOR:
            stages.reverse()
        self._channels, self._groups, blocks = ([stage[i] for stage in stages] for i in range(3))
        if len({*blocks}) != 1:
            raise SpiderError(f"{model.path}: has {blocks} blocks from 4 px up; as many at each side can be told here")
        self._blocks = blocks[0]

    def settings(self) -> R3ganConfig:
        """Of such a network."""
        config: dict[str, Any] = {
            "channels": self._channels,
            "groups": self._groups,
            "blocks": self._blocks,
            "embedding_dim": self._embedding_dim,
        }
        made_of: R3ganConfig = made(self._network, lambda: R3ganConfig(**config))
        return made_of

    def image_shape(self, side_of_channels: int) -> tuple[int, int, int]:
        """(C, H, W). Args: side_of_channels: of the weight at the images, that which counts their channels."""
        levels = len(self._channels)
        if _BASE << (levels - 1) > MAX_RESOLUTION:
            raise SpiderError(f"{self._network.path}: has {levels} stages; at most {MAX_RESOLUTION} px are made")
        side = _BASE << (levels - 1)
        return self._at_images[side_of_channels], side, side

    def _stages(self, model: PickledModule) -> Iterator[tuple[PickledModule, bool]]:
        """Each, and whether it has the basis of 4 px."""
        stages = _listed(model, "MainLayers", _STAGES[self._role])
        end = 0 if self._role == _GENERATOR else len(stages) - 1
        return ((stage, number == end) for number, stage in enumerate(stages))

    def _stage(self, stage: PickledModule, at_4_px: bool) -> tuple[int, int, int]:
        """Channels, groups and blocks."""
        _require_only(stage, ("Layers",))
        known = (_BASES if at_4_px else _CHANGES)[self._role]
        layers = _listed(stage, "Layers", known, _BLOCK)
        first = self._role == _GENERATOR
        other, blocks = (layers[0], layers[1:]) if first else (layers[-1], layers[:-1])
        if not blocks:
            raise SpiderError(f"{stage.path}: has no blocks; R3GAN's stages have some")
        if other.class_name != known:
            raise unknown_class(other, known)
        for block in blocks:
            if block.class_name != _BLOCK:
                raise unknown_class(block, _BLOCK)
        if at_4_px:
            self._require_basis(other)
        else:
            self._require_resampling(other)
        channels, groups = zip(*map(_block, blocks), strict=True)
        if len({*groups}) != 1:
            raise SpiderError(f"{stage.path}: its blocks have {[*groups]} groups; as many in each can be told here")
        return channels[0], groups[0], len(blocks)  # that all have these channels is seen by their weights

    def _require_basis(self, basis: PickledModule) -> None:
        _part(basis, "LinearLayer", _LINEAR)
        _require_only(basis, ("LinearLayer", "Basis"))
        if self._role == _DISCRIMINATOR:
            layer = _part(basis, "Basis", _CONV)
            shape = _sides(layer, "weight", 4)
            _require_conv(layer, shape[0], 0)

    def _require_resampling(self, layer: PickledModule) -> None:
        _require_only(layer, ("Resampler", "LinearLayer"))
        if "LinearLayer" in layer.children:
            _convolution(layer, "LinearLayer")
        resampler = _part(layer, "Resampler", *_RESAMPLERS[self._role])
        _require_only(resampler, ())
        kernel = resampler.tensors.get("Kernel")
        values = None if kernel is None else array_of(kernel, f"{resampler.path}.Kernel")
        if (
            values is None
            or values.shape != _KERNEL.shape
            or not np.allclose(values, _KERNEL)
            or resampler.attributes.get("FilterRadius", _FILTER_RADIUS) != _FILTER_RADIUS
        ):
            raise SpiderError(f"{resampler.path}: its filter is not R3GAN's, [1, 2, 1]")


def _block(block: PickledModule) -> tuple[int, int]:
    """Channels and groups."""
    layers = [f"LinearLayer{number}" for number in (1, 2, 3)]
    activations = [f"NonLinearity{number}" for number in (1, 2)]
    _require_only(block, (*layers, *activations))
    for name in activations:
        _require_only(_part(block, name, *_ACTIVATIONS), ())
    inner, channels, *_ = _convolution(block, layers[0])
    groups = same([_part(_part(block, layers[1], _CONVOLUTION), "Layer", _CONV)], "groups", int)
    _, _, height, width = _convolution(block, layers[1], groups)
    _convolution(block, layers[2])
    if inner != EXPANSION * channels:
        raise SpiderError(
            f"{block.path}: has {inner} channels inside of {channels}; {EXPANSION} times as many can be told here"
        )
    if (height, width) != (3, 3):
        raise SpiderError(f"{block.path}: has kernels of {width}x{height} px; 3x3 can be told here")
    return channels, groups


def _convolution(holder: PickledModule, name: str, groups: int = 1) -> tuple[int, ...]:
    """The shape of the weight of a convolution that keeps the side of its images."""
    convolution = _part(holder, name, _CONVOLUTION)
    _require_only(convolution, ("Layer",))
    layer = _part(convolution, "Layer", _CONV)
    shape = _sides(layer, "weight", 4)
    _require_conv(layer, groups, (shape[2] - 1) // 2)
    return shape


def _require_conv(layer: PickledModule, groups: int, padding: int) -> None:
    """Refuse a convolution of torch's that computes something else."""
    _require_only(layer, ())
    expected = {
        "groups": groups, "padding": (padding, padding), "stride": (1, 1), "dilation": (1, 1), "padding_mode": "zeros",
    }  # fmt: skip
    for attribute, value in expected.items():
        found = layer.attributes.get(attribute)
        if found != value:
            raise SpiderError(f"{layer.path}: {attribute} is {shown(found)}; the public code's is {value!r}")


def _listed(holder: PickledModule, name: str, *classes: str) -> list[PickledModule]:
    """The modules of a list, in order."""
    listed = _part(holder, name, _LIST)
    if not listed.children or [*listed.children] != [str(number) for number in range(len(listed.children))]:
        raise SpiderError(f"{listed.path}: no list of modules as torch has it")
    return [_part(listed, number, *classes) for number in listed.children]


def _part(holder: PickledModule, name: str, *classes: str) -> PickledModule:
    """A part, of one of these classes."""
    child = holder.children.get(name)
    if child is None:
        raise SpiderError(f"{holder.path}: {holder.class_name} has no {name}, which R3GAN's has")
    if child.class_name not in classes:
        raise unknown_class(child, classes[0])
    return child


def _require_only(holder: PickledModule, names: Collection[str]) -> None:
    """Refuse parts of other names."""
    for name, child in holder.children.items():
        if name not in names:
            raise unknown_class(child, "")


def _sides(module: PickledModule, tensor: str, count: int) -> tuple[int, ...]:
    """The shape of a tensor of so many dimensions."""
    found = module.tensors.get(tensor)
    shape = () if found is None else array_of(found, f"{module.path}.{tensor}").shape
    if len(shape) != count or not all(shape):
        raise SpiderError(f"{module.path}: its {tensor} has shape {[*shape]}; {count} sides are needed")
    return shape
