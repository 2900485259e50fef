"""Tensors by name in files that others wrote: read without running their code, and known by a digest.

torch is imported where it is needed, so that a digest does not wait for it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.files import open_whole
from spider.errors import SpiderError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def load_state_dict(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a .pth or .safetensors file, and the file's sha256, from one reading of it.

    Raises:
        SpiderError: it cannot be read, or holds anything but tensors by name, such as code.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        blob = path.read_bytes()
        if path.suffix == ".safetensors":
            state = load(blob)
        else:
            state = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except OSError as error:
        raise SpiderError(f"{path}: {error.strerror}") from error
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise SpiderError(f"{path}: refused, because it is not a file of tensors alone") from error
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) and value.layout == torch.strided for value in state.values()
    ):
        raise SpiderError(f"{path}: refused, because it is not a file of tensors by name")
    return state, hashlib.sha256(blob).hexdigest()


def save_state_dict(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all."""
    from safetensors.numpy import save

    with open_whole(path) as file:
        file.write(save(_arrays(state)))


def sha256_of_state_dict(state: Mapping[str, Tensor]) -> str:
    """sha256, in hex, over names, types, shapes and values in the order of the names: the same in any container."""
    return _sha256(_arrays(state))


def sha256_of_safetensors(path: Path) -> str:
    """`sha256_of_state_dict` of a file. Of one that is no safetensors, "none", which is nobody's."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return _sha256(load(path.read_bytes()))
    except SafetensorError:
        return "none"


def _arrays(state: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """By name. In C order, because safetensors writes memory as it lies, and files hold transposed tensors."""
    return {name: np.asarray(_array(tensor.detach()), order="C") for name, tensor in state.items()}


def _array(tensor: Tensor) -> NDArray[Any]:
    try:
        return tensor.numpy()
    except TypeError:  # bfloat16 and what is smaller, which numpy has not
        return tensor.double().numpy()


def _sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {list(array.shape)} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
