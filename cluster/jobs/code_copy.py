"""The code that runs a job, copied beside it, so that a job that is started again runs what was submitted.

    FOLDER/0a1b2c3d4e5f/             the first digits of the copy's digest
        origin.json                  {"commit": ..., "dirty": ...}: where it was copied from
        cluster/ spider/ ...

Whoever goes on developing in the checkout that a job was submitted from would otherwise change the job. A copy is
complete or not there; one that is there already is used again. `shell_lines` makes a process import it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cluster.errors import ClusterUsageError
from untrusted.json_data import read_json

CODE = "code"  # of a job's folder, for the copies
ORIGIN = "origin.json"
_LEFT_OUT = ("__pycache__",)


def copy_code(packages: Sequence[str], folder: Path, origin: dict[str, Any] | None) -> Path:
    """Copy packages as they are now.

    Args:
        packages: names of top-level packages, or of single modules, as this process would import them.
        folder: for the copies.
        origin: what is known of where they come from.

    Returns:
        The copy's folder.

    Raises:
        ClusterUsageError: Python finds no such package or module, or no files of it.
    """
    files = {path.relative_to(root.parent): path for root in map(_root, packages) for path in _files(root)}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    copy = folder / digest.hexdigest()[:12]
    if copy.is_dir():
        return copy
    beside = folder / f".{uuid.uuid4().hex[:8]}"
    try:
        for name, path in files.items():
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, beside / name)
        (beside / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")
        beside.rename(copy)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return copy


def shell_lines(copy: Path) -> tuple[str, ...]:
    """What a script says so that Python finds the copy first: before what is installed, and in place of the folder."""
    return (f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(copy))}${{PYTHONPATH:+:$PYTHONPATH}}",)


def origin_of(package: Path) -> dict[str, Any] | None:
    """What was known when the copy was made that a package's folder lies in; None outside a copy."""
    file = package.parent / ORIGIN
    if not file.is_file():
        return None
    origin: dict[str, Any] | None = read_json(file)
    return origin


def _root(package: str) -> Path:
    """The folder of a package, or the file of a module."""
    spec = find_spec(package)
    if spec is None:
        raise ClusterUsageError(
            f"{package}: no such package or module to copy for the job; is its folder in PYTHONPATH?"
        )
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if spec.origin is None or not spec.has_location:
        raise ClusterUsageError(f"{package}: is no file that can be copied for the job")
    return Path(spec.origin)


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    return [path for path in sorted(root.rglob("*")) if path.is_file() and not set(path.parts) & set(_LEFT_OUT)]
