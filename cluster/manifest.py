"""What vouches for a checkpoint: manifest.json, by which a folder is told from a copy of one. Needs no torch.

    000120-kimg/manifest.json   {"format": 3, "name": "000120-kimg", "files": {FILE: {"bytes": ..., "sha256": ...}}}

A folder is a checkpoint if its manifest bears its name. People keep copies beside: `000120-kimg.bak`,
`backup-000120-kimg`. Those bear another name than their manifests, are nobody's newest checkpoint, and are neither
moved nor deleted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from cluster.errors import PASSING, ClusterError, ClusterUsageError, MachineError
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.typed import checked

FORMAT = 3
MANIFEST, STATE, TENSORS_SUFFIX = "manifest.json", "state.json", ".safetensors"

_WITHOUT_NAME = 2  # a format whose manifests do not say the checkpoint's name
_USUAL_NAME = re.compile(
    r"\d+(\.\d+)?-[a-z]+"
)  # by which a folder without a readable manifest is known as a checkpoint
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_BYTES = 1 << 20


class DamagedCheckpointError(ClusterError):
    """A checkpoint does not hold what its manifest says."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ListedFile:
    """What a file of a checkpoint must be."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Manifest:
    """A manifest.

    Attributes:
        name: of the checkpoint that it was written for; None in an old one.
        files: by name.
    """

    name: str | None
    files: Mapping[str, ListedFile]

    def is_of(self, directory: Path) -> bool:
        """Whether it was written for a checkpoint of the folder's name."""
        if self.name is None:
            return _USUAL_NAME.fullmatch(directory.name) is not None
        return self.name == directory.name


def read_manifest(directory: Path) -> Manifest:
    """The manifest in a folder, whose name it may not bear.

    Raises:
        DamagedCheckpointError: it is missing, or is none.
        MachineError: the storage does not answer.
        ClusterUsageError: it was written by a version of this program that this one does not know.
    """
    path = directory / MANIFEST
    try:
        tree = read_json(path, _MAX_BYTES)
        if not isinstance(tree, dict):
            raise UnreadableError(f"{path}: holds a JSON {type(tree).__name__}, not an object")
    except FileNotFoundError:
        raise DamagedCheckpointError(f"checkpoint {directory} is damaged: {MANIFEST} is missing") from None
    except OSError as error:
        kind = MachineError if error.errno in PASSING else DamagedCheckpointError
        raise kind(f"checkpoint {directory} could not be read: {error}") from error
    except UnreadableError as error:
        raise DamagedCheckpointError(f"checkpoint file {error}") from None
    version = tree.get("format")
    if type(version) is int and version not in (FORMAT, _WITHOUT_NAME):
        raise ClusterUsageError(f"checkpoint {directory} has format {version}; this version reads format {FORMAT}")
    keys = {"format", "files"} | ({"name"} if version == FORMAT else set())
    if type(version) is not int or set(tree) != keys:
        raise DamagedCheckpointError(f"checkpoint {directory} is damaged: {MANIFEST} is not one")
    return Manifest(_name_in(tree, directory), _files_in(tree, directory))


def checkpoint_names(folder: Path) -> list[str]:
    """The checkpoints in a folder, oldest first: numbers in names count as numbers. Their files are not verified.

    A folder with a usual name whose manifest cannot be read is one as well: a damaged one. Raises OSError if `folder`
    may not be read: who takes that for an empty one begins anew.
    """
    if not folder.is_dir():
        return []
    names = [
        entry.name for entry in folder.iterdir() if is_name(entry.name) and entry.is_dir() and _is_checkpoint(entry)
    ]
    return sorted(names, key=_natural)


def is_name(name: str) -> bool:
    """Whether a checkpoint may be called so."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Refuse what is no plain file name.

    Raises:
        ClusterUsageError: saying what a name may hold.
    """
    if not is_name(name):
        raise ClusterUsageError(f"checkpoint name {name!r} must be letters, digits, '-', '_', '.', and start with one")


def _is_checkpoint(directory: Path) -> bool:
    try:
        return read_manifest(directory).is_of(directory)
    except ClusterError:
        return _USUAL_NAME.fullmatch(directory.name) is not None


def _name_in(tree: Mapping[str, Any], directory: Path) -> str | None:
    name = tree.get("name")
    if name is not None and not (isinstance(name, str) and is_name(name)):
        raise DamagedCheckpointError(f"checkpoint {directory} is damaged: {MANIFEST} is not one")
    return name


def _files_in(tree: Mapping[str, Any], directory: Path) -> dict[str, ListedFile]:
    if not isinstance(tree["files"], dict):
        raise DamagedCheckpointError(f"checkpoint {directory} is damaged: {MANIFEST} is not one")
    found = {}
    for file, entry in tree["files"].items():
        try:
            found[file] = checked(entry, ListedFile, "")
        except UnreadableError:
            raise DamagedCheckpointError(
                f"checkpoint {directory} is damaged: {MANIFEST} has no digest of {file!r}"
            ) from None
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key: runs of digits by their value, before other text."""
    return [(int(part), "") if part.isdigit() else (sys.maxsize, part) for part in re.findall(r"\d+|\D+", name)]
