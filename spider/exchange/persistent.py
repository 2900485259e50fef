"""Networks as the public codes pickle them. StyleGAN2-ADA's and its heirs': the module's source, its class, its state.

    _reconstruct_persistent_obj({"type": "class", "version": 6, "module_src": TEXT, "class_name": "Generator",
                                 "state": {"_parameters": ..., "_buffers": ..., "_modules": ..., "z_dim": 512, ...}})

That code runs the text when it reads such a pickle (NVlabs/stylegan2-ada-pytorch, torch_utils/persistence.py). Here the
text is only hashed. Other codes pickle torch's modules as any object, by the name of the class alone. What a class
computes must be known by its name and by what its state says of it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from spider.exchange import pickled_tensors
from spider.exchange.pickled_tensors import is_tensor
from untrusted.errors import UnreadableError
from untrusted.files import read_regular
from untrusted.pickles import Opaque, Record, read_pickle
from untrusted.terminal import one_line

MAX_BYTES = 4 << 30  # of a pickle; those of StyleGAN-XL at 1024 px have one or two

_OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
_DICTS = ("collections.OrderedDict", "dnnlib.util.EasyDict")
_NUMPY = (
    *("numpy.ndarray", "numpy.dtype"),
    *("numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy.core.numeric._frombuffer"),
    *("numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar", "numpy._core.numeric._frombuffer"),
)
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_NUMBERS = ("f4", "f8", "i4", "i8")
_DTYPES = ("torch.float32", "torch.bfloat16")  # that R3GAN's stages compute in
_NAMES = frozenset({_OBJECT, "builtins.set", *_DICTS, *_NUMPY, *_DTYPES, *pickled_tensors.NAMES})
_OPTIMIZER = "_opt_state"  # how the names of optimizers' states end at the top; nothing of them is noted
# Of projected discriminators, which are pickled whole, with their backbones: nothing of them is read
_UNREAD = (
    *("torch.nn.", "torch.ao.nn.", "torch.Size", "timm.", "torchvision.", "pg_modules.", "feature_networks."),
    *("dill.", "functools.partial", "builtins.getattr", "builtins.setattr"),
)
_VERSION = 6
_MAX_VALUES = 200_000  # of the modules of a network: a network of StyleGAN-XL has about 5,000
_MAX_SOURCE = 1 << 20  # letters of the text of a module
_MAX_MODULES = 2_000  # of a network; one that is shared counts as often as it is found
_MAX_TENSORS = 2_000  # of a network: one of StyleGAN-XL has about 500
_LONGEST = 200  # characters of a text, and items of a list or a dict, in what `plain` gives
_MOST = 10_000  # values in it; a pickle of a few bytes may hold one list in many places


@dataclass(frozen=True)
class PickledModule:
    """A module of a network.

    Attributes:
        path: from the pickle: `G_ema.synthesis.b8`.
        class_name: as the pickle says; of one that is pickled by its name alone, as `module.name`.
        source: sha256 of the source text that comes with it, in hex; None: none comes.
        attributes: all that it is besides its tensors and modules, as the pickle has it.
        kwargs: the named arguments that it was made with, as far as the pickle says.
        tensors: its own parameters and buffers, as records.
        children: by name.
    """

    path: str
    class_name: str
    source: str | None
    attributes: Mapping[str, Any]
    kwargs: Mapping[str, Any]
    tensors: Mapping[str, Record]
    children: Mapping[str, PickledModule]

    def modules(self) -> Iterator[PickledModule]:
        """This one and all within it."""
        yield self
        for child in self.children.values():
            yield from child.modules()

    def all_tensors(self) -> dict[str, Record]:
        """Those of this module and all within it, by dotted names; `array_of` reads one."""
        found = dict(self.tensors)
        for name, child in self.children.items():
            found |= {f"{name}.{inner}": record for inner, record in child.all_tensors().items()}
        return found


@dataclass(frozen=True)
class NetworkPickle:
    """A pickle of networks.

    Attributes:
        sha256: of the file, in hex.
        networks: those that are asked for and there, by name.
        unread: those that are there in a form that is not read, by name, and what they are.
        rest: all else at its top but the states of optimizers, as plain data.
    """

    sha256: str
    bytes: int
    networks: Mapping[str, PickledModule]
    unread: Mapping[str, str]
    rest: Mapping[str, Any]


def read_network_pickle(path: Path, names: tuple[str, ...], classes: Collection[str]) -> NetworkPickle:
    """Read a pickle of networks without running anything of it.

    Args:
        names: of the networks wanted, at the top of the pickle.
        classes: of modules that are pickled by their names alone, as `module.name`.

    Raises:
        UnreadableError: it is no such pickle; it names what is not known; it is damaged or beyond a limit.
        OSError: it is not there, or the storage refuses.
    """
    content = read_regular(path, MAX_BYTES)
    where = str(path)
    tree = read_pickle(io.BytesIO(content), where, names={*_NAMES, *classes}, plain=_DICTS, opaque=_Unread())
    walk = _Walk(where, classes)
    found = {name: tree[name] for name in names if tree.get(name) is not None} if isinstance(tree, dict) else {}
    unread = {name: one_line(value.name) for name, value in found.items() if isinstance(value, Opaque)}
    if not any(map(walk.is_module, found.values())):
        for name, what in unread.items():
            raise UnreadableError(f"{where}: {name} is a {what}, which is not read")
        raise UnreadableError(f"{where}: none of {', '.join(names)} is in it, as the public codes pickle networks")
    networks = {name: walk.network(value, name) for name, value in found.items() if name not in unread}
    rest: dict[str, Any] = plain(
        {key: value for key, value in tree.items() if key not in names and not str(key).endswith(_OPTIMIZER)}
    )
    return NetworkPickle(hashlib.sha256(content).hexdigest(), len(content), networks, unread, rest)


def plain(value: Any) -> Any:
    """What can be noted in JSON: short texts, numbers, lists and dicts; of a record its name; "..." after 10,000."""
    return _Noted().of(value)


class _Noted:
    """What is noted of a value, within a limit."""

    def __init__(self) -> None:
        self._left = _MOST

    def of(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            return "..."
        match value:
            case dict():
                return {str(key)[:_LONGEST]: self.of(item) for key, item in islice(value.items(), _LONGEST)}
            case list() | tuple():
                return [self.of(item) for item in value[:_LONGEST]]
            case str():
                return one_line(value[:_LONGEST])
            case bool() | None:
                return value
            case int() if abs(value) < 1 << 63:
                return value
            case float() if abs(value) < float("inf"):
                return value
            case Record(name=name, args=({"class_name": str() as class_name},)) if name == _OBJECT:
                return f"<{one_line(class_name[:_LONGEST])}>"
            case Record(name=name) | Opaque(name=name):
                return f"<{one_line(name)}>"
            case _:
                return f"<{type(value).__name__}>"


def number_in(value: Any) -> float | None:
    """A number of Python's or of numpy's; None of what is none."""
    match value:
        case bool():
            return None
        case int() | float():
            return float(value)
        case Record(name=name, args=(Record(name="numpy.dtype", args=(str() as kind, *_)), bytes() as stored)) if (
            name in _SCALARS and kind in _NUMBERS and len(stored) == int(kind[1])
        ):
            return float(np.frombuffer(stored, f"<{kind}")[0])
        case _:
            return None


class _Unread:
    """The names of what nobody reads."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.startswith(_UNREAD)


class _Walk:
    """From records to modules, within a limit: a pickle of a few bytes may hold one module in many places."""

    def __init__(self, where: str, classes: Collection[str]) -> None:
        self._where, self._classes = where, classes
        self._left = self._values_left = self._tensors_left = 0

    def is_module(self, value: Any) -> bool:
        """Whether a value of the pickle stands for a module of some class."""
        return isinstance(value, Record) and (value.name == _OBJECT or value.name in self._classes)

    def network(self, value: Any, name: str) -> PickledModule:
        """A value at the top of the pickle, under this name. Raises UnreadableError."""
        self._left, self._values_left, self._tensors_left = _MAX_MODULES, _MAX_VALUES, _MAX_TENSORS
        return self._module(value, name)

    def _module(self, value: Any, path: str) -> PickledModule:
        where = f"{self._where}: {path}"
        self._left -= 1
        if self._left < 0:
            raise UnreadableError(f"{where}: more than {_MAX_MODULES:,} modules")
        source: str | None
        match value:
            case Record(
                name=name,
                args=({"type": "class", "version": int() as version, "module_src": str() as text,
                       "class_name": str() as class_name, "state": dict() as state},),
            ) if name == _OBJECT:  # fmt: skip
                if len(text) > _MAX_SOURCE:
                    raise UnreadableError(f"{where}: the text of a module has more than {_MAX_SOURCE:,} letters")
                source = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
                if version != _VERSION:
                    raise UnreadableError(f"{where}: version {version} of the pickled form; known: {_VERSION}")
            case Record(name=class_name, args=(), state=dict() as state) if class_name in self._classes:
                source = None
            case _:
                raise UnreadableError(f"{where}: no network as the public codes pickle one")
        self._values_left -= len(state) + sum(len(each) for each in state.values() if isinstance(each, dict))
        if self._values_left < 0:
            raise UnreadableError(f"{where}: the modules hold more than {_MAX_VALUES:,} values")
        parts = {part: self._part(state, part, where) for part in ("_parameters", "_buffers", "_modules")}
        tensors = {**parts["_parameters"], **parts["_buffers"]}
        self._tensors_left -= len(tensors)
        if self._tensors_left < 0:
            raise UnreadableError(f"{where}: the modules hold more than {_MAX_TENSORS:,} tensors")
        for tensor, record in tensors.items():
            if not is_tensor(record):
                raise UnreadableError(f"{where}.{tensor}: no tensor as torch pickles one")
        kwargs = state.get("_init_kwargs", {})
        return PickledModule(
            path=where,
            class_name=one_line(class_name[:_LONGEST]),
            source=source,
            attributes={key: item for key, item in state.items() if key not in parts},
            kwargs=kwargs if isinstance(kwargs, dict) else {},
            tensors=tensors,
            children={name: self._module(child, f"{path}.{name}") for name, child in parts["_modules"].items()},
        )

    def _part(self, state: Mapping[str, Any], part: str, where: str) -> dict[str, Any]:
        """`_parameters`, `_buffers` or `_modules`, without what is None."""
        found = state.get(part)
        if not isinstance(found, dict) or not all(isinstance(name, str) and len(name) <= _LONGEST for name in found):
            raise UnreadableError(f"{where}: has no {part}")
        return {name: item for name, item in found.items() if item is not None}
