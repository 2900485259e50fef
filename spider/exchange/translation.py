"""What is the same for every kind of network in a pickle: its classes, its attributes, its weights -> ours.

A network is known by the class of each part, by what each layer says of itself, and by the names and shapes of its
weights. The arguments that it was made with tell less: the public codes have the same ones with other defaults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spider.arguments import MAX_ITEMS, MAX_RESOLUTION
from spider.errors import SpiderError, shown
from spider.exchange.persistent import PickledModule, number_in
from spider.exchange.pickled_tensors import array_of
from spider.gan.saved import saved_tensors

KNOWN = (
    "those of StyleGAN2-ADA (PyTorch), of StyleGAN2 and StyleGAN3 in StyleGAN3's repository, of StyleGAN-XL, "
    "and of R3GAN"
)

FC, CONV = "FullyConnectedLayer", "Conv2dLayer"
# Patterns of names of parts to their class, by the class that they are in
Parts = Mapping[str, Mapping[str, str]]
MAPPING: Parts = {"MappingNetwork": {"embed": FC, r"fc\d+": FC}}

_LINEAR = ("affine", "embed", "out", "skip")  # layers without an activation
_MAPPING_LR = 0.01


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


def require_known(network: PickledModule, class_name: str, parts: Parts, required: Mapping[str, Iterable[str]]) -> None:
    """Refuse a network with classes of another kind, or with layers that compute something else than its own.

    Args:
        class_name: of the network.
        required: parts that a class cannot be without, by the class.

    Raises:
        SpiderError: names the part and its class.
    """
    if network.class_name != class_name:
        raise unknown_class(network, class_name)
    for module in network.modules():
        known = parts.get(module.class_name, {})
        for name, child in module.children.items():
            expected = next((each for pattern, each in known.items() if re.fullmatch(pattern, name)), "")
            if child.class_name != expected:
                raise unknown_class(child, expected)
            _require_plain_layer(name, child, module)
        for name in required.get(module.class_name, ()):
            if name not in module.children:
                raise SpiderError(f"{module.path}: {module.class_name} has no {name}, which the public code's has")


def unknown_class(module: PickledModule, expected: str) -> SpiderError:
    """That a part is of another class than the `expected` one; "": nothing is expected there."""
    what = f"{expected} stands there" if expected else "nothing stands there"
    return SpiderError(
        f"{module.path}: its class {module.class_name!r} is not known; {what} in the networks that are read, {KNOWN}"
    )


def _require_plain_layer(name: str, layer: PickledModule, inside: PickledModule) -> None:
    kind = name.rstrip("0123456789")
    if "activation" in layer.attributes:
        require(layer, "activation", "linear" if kind in _LINEAR else "lrelu")
    if "bias_gain" in layer.attributes:
        in_mapping = inside.class_name == "MappingNetwork" and kind == "fc"
        require(layer, "bias_gain", _MAPPING_LR if in_mapping else 1.0)


def require(layer: PickledModule, attribute: str, expected: str | float | bool) -> None:
    """Refuse another value of an attribute. Raises SpiderError."""
    found = layer.attributes.get(attribute)
    if isinstance(expected, float):
        number = number_in(found)
        is_so = number is not None and math.isclose(number, expected, rel_tol=1e-6, abs_tol=1e-9)
    else:
        is_so = type(found) is type(expected) and found == expected
    if not is_so:
        raise SpiderError(f"{layer.path}: {attribute} is {shown(found)}; the public code's is {expected!r}")


def channels_and_mapping(network: PickledModule, inner: Any, mapping: PickledModule | None) -> dict[str, Any]:
    """Channels, which only the arguments tell (the shapes of weights are compared afterwards), and the mapping."""
    kwargs = {**network.kwargs, **(inner if isinstance(inner, dict) else {})}
    channels = {name: kwargs[name] for name in ("channel_base", "channel_max") if name in kwargs}
    return {**channels, **({} if mapping is None else {"mapping_layers": whole(mapping, "num_layers")})}


def image_shape(network: PickledModule) -> tuple[int, int, int]:
    """(C, H, W) of the images."""
    side, channels = whole(network, "img_resolution"), whole(network, "img_channels")
    if side > MAX_RESOLUTION:
        raise SpiderError(f"{network.path}: img_resolution is {side}; at most {MAX_RESOLUTION} px are made")
    return channels, side, side


def whole(module: PickledModule, attribute: str) -> int:
    """A whole number that a network may have for a size."""
    found: int = same([module], attribute, int)
    if not 0 <= found <= MAX_ITEMS:
        raise SpiderError(f"{module.path}: {attribute} is {found}; at most {MAX_ITEMS:,} is read")
    return found


def same(modules: Iterable[PickledModule], attribute: str, kind: Any, *, none: bool = False) -> Any:
    """The value that all of them have."""
    found: list[Any] = []
    for module in modules:
        value = module.attributes.get(attribute)
        is_kind = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not is_kind and not (none and value is None):
            raise SpiderError(f"{module.path}: {attribute} is {shown(value)}, which the public codes have not")
        if found and value != found[0]:
            raise SpiderError(
                f"{module.path}: {attribute} is {shown(value)}, and {shown(found[0])} elsewhere; they must be equal"
            )
        found.append(value)
    if not found:
        raise SpiderError(f"no layer tells its {attribute}: no network of the public codes")
    return found[0]


def made(network: PickledModule, make: Callable[[], Any]) -> Any:
    """Settings, or a network without memory for its weights: sizes are those that a stranger wrote."""
    try:
        with torch.device("meta"):
            return make()
    except (ValueError, RuntimeError, SpiderError) as error:
        raise SpiderError(
            f"{network.path}: no such network can be made: {' '.join(str(error).split())[:300]}"
        ) from None


def tensors(
    network: PickledModule,
    name_of: Callable[[str], str | None],
    here: nn.Module,
    constants: Mapping[str, NDArray[Any]],
    max_bytes: int,
    changes: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """The weights by our names, if they are all there and of the shapes that the settings give.

    Args:
        name_of: from a name in the pickle to ours; None of what is no weight.
        here: the network that the settings make.
        constants: what must have these values, by how its name ends.
        max_bytes: of all weights.
        changes: what makes ours of a weight there, by our name, where they differ.

    Raises:
        SpiderError: names the weight.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in saved_tensors(here).items()}

    def require_shapes(found: Mapping[str, tuple[int, ...]]) -> None:
        for problem in _misfits(found, expected):
            raise SpiderError(f"{network.path}: {problem}; it is not the network that its settings tell of")

    records = network.all_tensors()
    names = {name: _our_name(network, name, name_of) for name in records}
    # Before any is read, which takes a while of each
    require_shapes({ours: expected.get(ours, ()) for ours in names.values() if ours is not None})
    arrays: dict[str, NDArray[Any]] = {}
    for name, ours in names.items():
        where = f"{network.path}.{name}"
        for constant in (constants[ending] for ending in constants if name.endswith(ending)):
            array = array_of(records[name], where)
            if array.shape != constant.shape or not np.allclose(array, constant):
                raise SpiderError(f"{where}: has other values than the public code's")
        if ours is not None:
            array = array_of(records[name], where)
            arrays[ours] = changes[ours](array) if ours in changes else array
    require_shapes({name: array.shape for name, array in arrays.items()})
    if sum(array.nbytes for array in arrays.values()) > max_bytes:
        raise SpiderError(f"{network.path}: its weights would take more bytes than the pickle has")
    tensors = {}
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise SpiderError(f"{network.path}: {name} holds what is no finite number")
        tensors[name] = torch.from_numpy(np.array(array, np.float32, order="C"))
    return tensors


def _our_name(network: PickledModule, name: str, name_of: Callable[[str], str | None]) -> str | None:
    try:
        return name_of(name)
    except (KeyError, ValueError):
        raise SpiderError(f"{network.path}.{name}: no weight of such a network") from None


def _misfits(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for name in sorted(found.keys() | expected.keys()):
        if name not in expected:
            yield f"{name} is none of its weights"
        elif name not in found:
            yield f"{name} is missing"
        elif found[name] != expected[name]:
            yield f"{name} has shape {[*found[name]]}, not {[*expected[name]]}"
