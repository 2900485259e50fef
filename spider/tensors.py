"""Tensors by name in files that others wrote: read without running their code, and known by a digest.

torch is imported where it is needed, so that a digest does not wait for it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shards.files import open_whole
from spider.errors import SpiderError

if TYPE_CHECKING:
    from torch import Tensor


def load_state_dict(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a .pth or .safetensors file, and the file's sha256, from one reading of it.

    A file that holds nothing but `model`, as some are published, holds the tensors there.

    Raises:
        SpiderError: it cannot be read, or holds anything but tensors by name, such as code.
    """
    import torch
    from safetensors.torch import load

    try:
        blob = path.read_bytes()
    except OSError as error:
        raise SpiderError(f"{path}: {error.strerror}") from error
    try:
        if path.suffix == ".safetensors":
            state = load(blob)
        else:
            state = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except (OSError, MemoryError):  # the machine's
        raise
    except Exception as error:  # both readers fail on damaged files with whatever their next step raises
        what = "it is not a file of tensors alone"
        if blob.startswith(b"PK") and b"/constants.pkl" in blob:
            what = (
                "it is a TorchScript archive, which holds code; its state dict, saved by "
                "torch.save(torch.jit.load(FILE).state_dict(), OTHER), is read"
            )
        raise SpiderError(f"{path}: refused, because {what}") from error
    if isinstance(state, dict) and set(state) == {"model"} and isinstance(state["model"], dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(name, str) and _is_plain(state[name]) for name in state):
        raise SpiderError(f"{path}: refused, because it is not a file of tensors by name")
    return state, hashlib.sha256(blob).hexdigest()


def save_state_dict(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all."""
    import torch
    from safetensors.torch import save

    # Copies, because safetensors wants each tensor to lie in C order in memory of its own
    copies = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    with open_whole(path) as file:
        file.write(save(copies))


def sha256_of_state_dict(state: Mapping[str, Tensor]) -> str:
    """sha256, in hex, over names, types, shapes and values in the order of the names: the same in any container."""
    return _sha256({name: _entry(tensor.detach().contiguous()) for name, tensor in state.items()})


def sha256_of_safetensors(path: Path) -> str:
    """`sha256_of_state_dict` of a file. Of one that is no safetensors, "none", which is nobody's."""
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError:
        return "none"
    if not all(entry["dtype"] in _TYPES for _, entry in entries):
        return "none"
    return _sha256({name: _Entry(_TYPES[entry["dtype"]], entry["shape"], entry["data"]) for name, entry in entries})


# How a digest names the types of safetensors: as numpy does, and where numpy has none, as torch does
_TYPES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


class _Entry(NamedTuple):
    """One tensor as it is digested: its values are little-endian, in C order."""

    type: str
    shape: Sequence[int]
    values: bytes


def _is_plain(value: object) -> bool:
    """Whether it is a dense tensor in memory, whose bytes are its values."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and not (value.is_nested or value.is_quantized or value.is_conj() or value.is_neg())
    )


def _entry(tensor: Tensor) -> _Entry:
    """Of a tensor in C order."""
    import torch

    try:
        type_ = tensor.numpy().dtype.str
    except TypeError:  # bfloat16 and what is smaller, which numpy has not
        type_ = str(tensor.dtype).removeprefix("torch.")
    return _Entry(type_, tensor.shape, tensor.flatten().view(torch.uint8).numpy().tobytes())


def _sha256(entries: Mapping[str, _Entry]) -> str:
    digest = hashlib.sha256()
    for name in sorted(entries):
        type_, shape, values = entries[name]
        digest.update(f"{name} {type_} {list(shape)} ".encode())
        digest.update(values)
    return digest.hexdigest()
