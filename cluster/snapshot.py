"""One checkpoint on the disk: a directory of tensors and JSON, vouched for by a manifest.

    000120-kimg/
        manifest.json               see cluster/manifest.py: name, and the size and SHA-256 of every other file
        generator.safetensors       one file per group of tensors
        ...
        state.json                  everything that is not a tensor

Each file is read once and what was read is verified, the sizes of all files before the content of any: a link may lead
to a device that never ends. Nothing here can run code: tensors are safetensors, the rest is JSON, and a directory that
holds anything else is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from cluster.errors import PASSING, ClusterUsageError, MachineError
from cluster.manifest import (
    FORMAT,
    MANIFEST,
    STATE,
    TENSORS_SUFFIX,
    DamagedCheckpointError,
    ListedFile,
    check_name,
    is_name,
    read_manifest,
)
from untrusted.errors import UnreadableError
from untrusted.files import open_regular, read_regular
from untrusted.json_data import parse_json

_MAX_STATE_BYTES = 64 << 20

SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Snapshot:
    """What a run is, at one moment.

    Attributes:
        tensors: groups of named tensors; each group becomes one file. Loaded tensors are on the CPU.
        state: the rest, as JSON: finite numbers, strings, booleans, None, lists, and dicts with string keys.
    """

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


@dataclass(frozen=True)
class EncodedSnapshot:
    """A snapshot that is known to be writable: the state as text, the tensors by file name."""

    files: dict[str, dict[str, Tensor]]
    state: bytes

    def copy(self) -> EncodedSnapshot:
        """The same in CPU memory of its own: as many bytes as will be written, also of views of a larger buffer."""
        files = {
            file: {
                name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            }
            for file, tensors in self.files.items()
        }
        return EncodedSnapshot(files, self.state)


def encode(snapshot: Snapshot) -> EncodedSnapshot:
    """Check everything that can be refused before the disk is touched.

    Raises:
        ClusterUsageError: naming the entry that neither JSON nor safetensors can hold.
    """
    files = {group + TENSORS_SUFFIX: tensors for group, tensors in snapshot.tensors.items()}
    for file, tensors in files.items():
        check_name(file)
        _check_tensors(tensors, file)
    _check_json(snapshot.state, "state")
    return EncodedSnapshot(files, json.dumps(snapshot.state, indent=1, allow_nan=False).encode())


def write_directory(directory: Path, name: str, snapshot: EncodedSnapshot) -> int:
    """Write all files into an empty directory and, last, the manifest; all is on the disk when this returns.

    Args:
        name: of the checkpoint, which the directory may not bear yet.

    Returns:
        How many bytes the manifest lists.
    """
    listed = {file: _write_file(directory / file, _safetensors(tensors)) for file, tensors in snapshot.files.items()}
    listed[STATE] = _write_file(directory / STATE, [snapshot.state])
    manifest = {"format": FORMAT, "name": name, "files": listed}
    _write_file(directory / MANIFEST, [json.dumps(manifest, indent=1).encode()])
    fsync_directory(directory)
    return sum(entry["bytes"] for entry in listed.values())


def read_directory(directory: Path) -> Snapshot:
    """Read and verify.

    Raises:
        DamagedCheckpointError: naming the file that is missing, superfluous, or not what the manifest says.
        MachineError: the storage does not answer; nothing is known of the checkpoint.
        ClusterUsageError: it was written by a version of this program that this one does not know.
    """
    manifest = read_manifest(directory)
    if not manifest.is_of(directory):
        raise DamagedCheckpointError(f"checkpoint {directory} is a copy: its {MANIFEST} is that of {manifest.name}")
    try:
        _check_listing(directory, manifest.files)
        for file, entry in manifest.files.items():
            _check_size(directory / file, entry)
        contents = {file: _read_verified(directory / file, entry) for file, entry in manifest.files.items()}
    except OSError as error:
        if error.errno in PASSING:
            raise MachineError(f"checkpoint {directory} could not be read: {error}") from error
        raise DamagedCheckpointError(f"checkpoint {directory} is damaged: {error}") from error
    state = _parse_state(directory / STATE, contents.pop(STATE))
    tensors = {
        file.removesuffix(TENSORS_SUFFIX): _parse_tensors(directory / file, content)
        for file, content in contents.items()
    }
    return Snapshot(tensors, state)


def fsync_directory(directory: Path) -> None:
    """Wait until the disk knows the names in a directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_json(value: Any, where: str) -> None:
    """Refuse, by key, what JSON would change on its way or cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ClusterUsageError(f"checkpoint: {where} is {value}, which JSON cannot hold; use None")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ClusterUsageError(f"checkpoint: {where} has the key {key!r}, but JSON's keys are strings")
            _check_json(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json(item, f"{where}[{i}]")
    elif not isinstance(value, str | int | float | None):
        raise ClusterUsageError(f"checkpoint: {where} is a {type(value).__name__}, which JSON cannot hold")


def _check_tensors(tensors: Mapping[str, Tensor], file: str) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in SAFETENSORS_DTYPES:
            raise ClusterUsageError(f"checkpoint: {name} of {file} is {tensor.dtype}, which safetensors cannot hold")
        if tensor.layout != torch.strided:
            raise ClusterUsageError(f"checkpoint: {name} of {file} has layout {tensor.layout}; make it dense first")
        if name == "__metadata__":
            raise ClusterUsageError(f"checkpoint: {name} of {file} bears a name that safetensors keeps for itself")


def _write_file(path: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write, hashing on the way, and wait for the disk; the file's entry in the manifest."""
    digest = hashlib.sha256()
    with open(path, "xb", buffering=0) as file:
        for part in parts:
            view = memoryview(part)
            digest.update(view)
            while view:  # An unbuffered write may take less than it is given.
                view = view[file.write(view) :]
        os.fsync(file.fileno())
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def _safetensors(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The parts of a safetensors file: length of the header, header, and each tensor's bytes.

    Written here and not by the library because that copies everything before the first byte can be hashed (twice the
    time, measured in benchmarks/checkpoint.py) and refuses tied parameters. Reading is the library's.
    """
    header: dict[str, Any] = {}
    end = 0
    widest_first = sorted(tensors.items(), key=lambda item: -item[1].itemsize)  # So that every tensor is aligned.
    for name, tensor in widest_first:
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in widest_first:
        raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        yield raw.numpy().data


def _check_listing(directory: Path, files: Mapping[str, ListedFile]) -> None:
    """The directory holds what the manifest lists, all of kinds that cannot run code."""
    present = {entry.name for entry in directory.iterdir()} - {MANIFEST}
    for file in sorted({*files, *present}):
        if file != STATE and not (file.endswith(TENSORS_SUFFIX) and is_name(file)):
            raise DamagedCheckpointError(
                f"checkpoint {directory} is refused: it holds {file!r}, but only {TENSORS_SUFFIX} and {STATE} are read"
            )
        if file not in files:
            raise DamagedCheckpointError(f"checkpoint {directory} is damaged: {MANIFEST} does not list {file}")
        if file not in present:
            raise DamagedCheckpointError(f"checkpoint {directory} is damaged: {file} is missing")
    if STATE not in files:
        raise DamagedCheckpointError(f"checkpoint {directory} is damaged: {STATE} is missing")


def _check_size(path: Path, entry: ListedFile) -> None:
    limit = _MAX_STATE_BYTES if path.name == STATE else sys.maxsize
    try:
        with open_regular(path, limit) as (_, size):
            pass
    except UnreadableError as error:
        raise DamagedCheckpointError(f"checkpoint file {error}") from None
    if size != entry.bytes:
        raise DamagedCheckpointError(f"checkpoint file {path} is damaged: it has {size} bytes, not {entry.bytes}")


def _read_verified(path: Path, entry: ListedFile) -> bytes:
    try:
        content = read_regular(path, entry.bytes)
    except UnreadableError as error:  # since its size was compared
        raise DamagedCheckpointError(f"checkpoint file {error}") from None
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise DamagedCheckpointError(f"checkpoint file {path} is damaged: its SHA-256 is not the manifest's")
    return content


def _parse_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return parse_safetensors(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedCheckpointError(f"checkpoint file {path} is not safetensors: {error}") from error


def _parse_state(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = parse_json(content, str(path))
    except UnreadableError as error:
        raise DamagedCheckpointError(f"checkpoint file {error}") from None
    if not isinstance(value, dict):
        raise DamagedCheckpointError(f"checkpoint file {path} holds a JSON {type(value).__name__}, not an object")
    return value
