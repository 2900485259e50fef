"""StyleGAN2's networks in a pickle of the public code -> our settings and weights.

Read are the networks of NVlabs/stylegan2-ada-pytorch (training/networks.py) and of NVlabs/stylegan3
(training/networks_stylegan2.py), which have the same classes, weights and outputs, and other defaults: so the settings
come from what each layer says of itself, not from the arguments that a network was made with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cluster.world import World
from spider.arguments import MAX_ITEMS, MAX_RESOLUTION
from spider.errors import SpiderError, shown
from spider.exchange.persistent import PickledModule
from spider.gan.networks.config import Stylegan2DiscriminatorConfig, Stylegan2GeneratorConfig
from spider.gan.networks.stylegan2 import Stylegan2Discriminator, Stylegan2Generator
from spider.gan.networks.stylegan2_names import discriminator_name, generator_name
from spider.gan.saved import saved_tensors

_FC, _CONV = "FullyConnectedLayer", "Conv2dLayer"
# The class of each part, by the class that it is in. The number at the end of a name is left out
_PARTS: Mapping[str, Mapping[str, str]] = {
    "Generator": {"mapping": "MappingNetwork", "synthesis": "SynthesisNetwork"},
    "MappingNetwork": {"embed": _FC, "fc": _FC},
    "SynthesisNetwork": {"b": "SynthesisBlock"},
    "SynthesisBlock": {"conv": "SynthesisLayer", "torgb": "ToRGBLayer", "skip": _CONV},
    "SynthesisLayer": {"affine": _FC},
    "ToRGBLayer": {"affine": _FC},
    "Discriminator": {"mapping": "MappingNetwork", "b4": "DiscriminatorEpilogue", "b": "DiscriminatorBlock"},
    "DiscriminatorBlock": {"fromrgb": _CONV, "conv": _CONV, "skip": _CONV},
    "DiscriminatorEpilogue": {"fromrgb": _CONV, "mbstd": "MinibatchStdLayer", "conv": _CONV, "fc": _FC, "out": _FC},
}
_LINEAR = ("affine", "embed", "out", "skip")  # layers without an activation
_MAPPING_LR = 0.01
_FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


@dataclass(frozen=True)
class Imported:
    """A network that was in a pickle.

    Attributes:
        settings: of its section, with `kind`.
        image_shape: (C, H, W).
        classes: 0: none.
        z_dim: of a generator; 0 of a discriminator.
        tensors: by our names, float32.
    """

    settings: dict[str, Any]
    image_shape: tuple[int, int, int]
    classes: int
    z_dim: int
    tensors: dict[str, Tensor]


def import_generator(network: PickledModule, max_bytes: int) -> Imported:
    """The generator, with constant noise: the maps of noise that the public code keeps with it, and generates with.

    Args:
        max_bytes: of all its tensors.

    Raises:
        SpiderError: it is not StyleGAN2's, or has what this one cannot be told.
    """
    _require_known(network, "Generator")
    synthesis, mapping = network.children["synthesis"], network.children["mapping"]
    layers = [module for module in synthesis.modules() if module.class_name in ("SynthesisLayer", "ToRGBLayer")]
    noisy = _same((layer for layer in layers if layer.class_name == "SynthesisLayer"), "use_noise", bool)
    config: dict[str, Any] = {
        **_common(network, network.kwargs.get("synthesis_kwargs"), mapping),
        "architecture": _same(synthesis.children.values(), "architecture", str),
        "conv_clamp": _same(layers, "conv_clamp", (int, float), none=True),
        "w_dim": _whole(network, "w_dim"),
        "w_avg_beta": _same([mapping], "w_avg_beta", (int, float)),
        "noise": "const" if noisy else "none",
    }
    z_dim, classes, image_shape = _whole(network, "z_dim"), _whole(network, "c_dim"), _image_shape(network)
    made = _made(network, lambda: Stylegan2GeneratorConfig(**config))
    here = _made(network, lambda: Stylegan2Generator(made, (z_dim,), image_shape, classes))
    tensors = _tensors(network, generator_name, here, max_bytes)
    return Imported(made.model_dump(mode="json"), image_shape, classes, z_dim, tensors)


def import_discriminator(network: PickledModule, max_bytes: int) -> Imported:
    """The discriminator. Arguments and errors as above."""
    _require_known(network, "Discriminator")
    end, mapping = network.children["b4"], network.children.get("mapping")
    blocks = [child for name, child in network.children.items() if name not in ("b4", "mapping")]
    clamped = [child for block in blocks for name, child in block.children.items() if name != "skip"]
    std = end.children.get("mbstd")
    config: dict[str, Any] = {
        **_common(network, None, mapping),
        "architecture": _same([*blocks, end], "architecture", str),
        "conv_clamp": _same([*clamped, end.children["conv"]], "conv_clamp", (int, float), none=True),
        "mbstd_group": None if std is None else _whole(std, "group_size"),
        **({} if std is None else {"mbstd_features": _whole(std, "num_channels")}),
    }
    classes, image_shape = _whole(network, "c_dim"), _image_shape(network)
    made = _made(network, lambda: Stylegan2DiscriminatorConfig(**config))
    here = _made(network, lambda: Stylegan2Discriminator(made, image_shape, classes, World.single(torch.device("cpu"))))
    tensors = _tensors(network, discriminator_name, here, max_bytes)
    return Imported(made.model_dump(mode="json"), image_shape, classes, 0, tensors)


def _require_known(network: PickledModule, class_name: str) -> None:
    """Refuse classes that StyleGAN2 has not at that place, and layers that compute something else than its own."""
    if network.class_name != class_name:
        raise _unknown(network, class_name)
    required = {"Generator": ("mapping", "synthesis"), "Discriminator": ("b4",), "DiscriminatorEpilogue": ("conv",)}
    for module in network.modules():
        parts = _PARTS.get(module.class_name, {})
        for name, child in module.children.items():
            expected = parts.get(name, parts.get(name.rstrip("0123456789"), ""))
            if child.class_name != expected:
                raise _unknown(child, expected)
            _require_plain_layer(name, child, module)
        for name in required.get(module.class_name, ()):
            if name not in module.children:
                raise SpiderError(f"{module.path}: {module.class_name} has no {name}, which StyleGAN2's has")


def _unknown(module: PickledModule, expected: str) -> SpiderError:
    what = f"StyleGAN2 has {expected} there" if expected else "StyleGAN2 has nothing there"
    return SpiderError(
        f"{module.path}: its class {module.class_name!r} is not known, {what}; read are the networks of StyleGAN2-ADA "
        "(PyTorch), and those of StyleGAN2 in StyleGAN3's repository"
    )


def _require_plain_layer(name: str, layer: PickledModule, inside: PickledModule) -> None:
    kind = name.rstrip("0123456789")
    if "activation" in layer.attributes:
        _require(layer, "activation", "linear" if kind in _LINEAR else "lrelu")
    if "bias_gain" in layer.attributes:
        in_mapping = inside.class_name == "MappingNetwork" and kind == "fc"
        _require(layer, "bias_gain", _MAPPING_LR if in_mapping else 1)


def _require(layer: PickledModule, attribute: str, expected: Any) -> None:
    found = layer.attributes[attribute]
    if type(found) not in (str, int, float) or found != expected:
        raise SpiderError(f"{layer.path}: {attribute} is {shown(found)}; StyleGAN2's is {expected!r}")


def _common(network: PickledModule, inner: Any, mapping: PickledModule | None) -> dict[str, Any]:
    """Channels, which only the arguments tell (the shapes of weights are compared afterwards), and the mapping."""
    kwargs = {**network.kwargs, **(inner if isinstance(inner, dict) else {})}
    channels = {name: kwargs[name] for name in ("channel_base", "channel_max") if name in kwargs}
    return {**channels, **({} if mapping is None else {"mapping_layers": _whole(mapping, "num_layers")})}


def _image_shape(network: PickledModule) -> tuple[int, int, int]:
    side, channels = _whole(network, "img_resolution"), _whole(network, "img_channels")
    if side > MAX_RESOLUTION:
        raise SpiderError(f"{network.path}: img_resolution is {side}; at most {MAX_RESOLUTION} px are made")
    return channels, side, side


def _whole(module: PickledModule, attribute: str) -> int:
    found: int = _same([module], attribute, int)
    if not 0 <= found <= MAX_ITEMS:
        raise SpiderError(f"{module.path}: {attribute} is {found}; at most {MAX_ITEMS:,} is read")
    return found


def _same(modules: Iterable[PickledModule], attribute: str, kind: Any, *, none: bool = False) -> Any:
    """The value that all of them have."""
    found: list[Any] = []
    for module in modules:
        value = module.attributes.get(attribute)
        is_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not is_kind and not (none and value is None):
            raise SpiderError(f"{module.path}: {attribute} is {shown(value)}, which StyleGAN2 has not")
        if found and value != found[0]:
            raise SpiderError(
                f"{module.path}: {attribute} is {value!r}, and {found[0]!r} elsewhere; they must be equal"
            )
        found.append(value)
    if not found:
        raise SpiderError(f"no layer tells its {attribute}: no network of StyleGAN2")
    return found[0]


def _made(network: PickledModule, make: Callable[[], Any]) -> Any:
    """Settings, or a network without memory for its weights: sizes are those that a stranger wrote."""
    try:
        with torch.device("meta"):
            return make()
    except (ValueError, RuntimeError, SpiderError) as error:
        raise SpiderError(
            f"{network.path}: no such network can be made: {' '.join(str(error).split())[:300]}"
        ) from None


def _tensors(
    network: PickledModule, name_of: Callable[[str], str | None], here: nn.Module, max_bytes: int
) -> dict[str, Tensor]:
    """The weights by our names, if they are all there and of the shapes that the settings give."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in network.arrays().items():
        if name.endswith("resample_filter"):
            if array.shape != _FILTER.shape or not np.allclose(array, _FILTER):
                raise SpiderError(
                    f"{network.path}.{name}: is not the filter [1, 3, 3, 1], which StyleGAN2 resamples with"
                )
            continue
        try:
            ours = name_of(name)
        except (KeyError, ValueError):
            raise SpiderError(f"{network.path}.{name}: no weight of StyleGAN2") from None
        if ours is not None:
            arrays[ours] = array
    expected = {name: tuple(tensor.shape) for name, tensor in saved_tensors(here).items()}
    for problem in _misfits({name: array.shape for name, array in arrays.items()}, expected):
        raise SpiderError(f"{network.path}: {problem}; it is not the network that its settings tell of")
    if sum(array.nbytes for array in arrays.values()) > max_bytes:
        raise SpiderError(f"{network.path}: its weights would take more bytes than the pickle has")
    tensors = {}
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise SpiderError(f"{network.path}: {name} holds what is no finite number")
        tensors[name] = torch.from_numpy(np.array(array, np.float32, order="C"))
    return tensors


def _misfits(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name in sorted(found.keys() | expected.keys()):
        if name not in expected:
            yield f"{name} is none of its weights"
        elif name not in found:
            yield f"{name} is missing"
        elif found[name] != expected[name]:
            yield f"{name} has shape {[*found[name]]}, not {[*expected[name]]}"
