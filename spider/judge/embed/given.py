"""Features of a reference set that lie in a file, rather than images that go through an embedding.

    .npy      features, [n, d]
    .npz      feats or reps, features [n, d]     as clean-fid and dgm-eval write them
              mu [d] and sigma [d, d]            mean and covariance, as pytorch-fid and clean-fid write them
              spider.json                        which embedding they are of; only files of `write_features` have it

A file of another tool does not say what its numbers were made with; whoever gives it says so, by choosing the
embedding. No pickle is read: arrays are taken byte by byte under the type and shape that their header names.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from typing_extensions import TypedDict

from shards.files import open_whole
from spider.errors import SpiderError
from spider.judge.embed.cache import Features
from spider.judge.embed.embedding import Embedding
from spider.version import VERSION
from untrusted.errors import UnreadableError
from untrusted.files import open_regular
from untrusted.json_data import parse_json
from untrusted.typed import checked

_ROWS = ("feats", "reps")
_ABOUT = "spider.json"
_MAX_BYTES = 1 << 36  # of a file; 1.7 million images in 2,048 dimensions have so many
_MAX_ABOUT = 1 << 16
_LEAST_DATE = (1980, 1, 1, 0, 0, 0)  # zip's; the same features are the same file
_SYMMETRIC = 1e-6  # of the largest entry of sigma, as float32 rounds

Moment = NDArray[np.float64]


@dataclass(frozen=True)
class GivenFeatures:
    """What a file says of a set of images. It has `rows`, or else `mean` and `covariance`.

    Attributes:
        path: absolute.
        sha256: of the file.
        rows: float32 [n, d].
        mean: float64 [d].
        covariance: float64 [d, d], divided by what the file's author chose: N - 1 in pytorch-fid and clean-fid.
        is_known: whether the file itself says that it was made with the embedding; otherwise the user does.
        embedding: the label of that embedding.
    """

    path: Path
    sha256: str
    rows: Features | None
    mean: Moment | None
    covariance: Moment | None
    is_known: bool
    embedding: str

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.path.name

    @property
    def fingerprint(self) -> str:
        """As of images; of a file it is its digest."""
        return self.sha256

    @property
    def count(self) -> int | None:
        """How many images; mean and covariance do not say."""
        return None if self.rows is None else len(self.rows)

    @property
    def known_rows(self) -> Features:
        """The rows: float32 [0, d], none of them, where the file has only mean and covariance."""
        if self.rows is not None:
            return self.rows
        assert self.mean is not None
        return np.zeros((0, len(self.mean)), np.float32)

    def provenance(self) -> dict[str, Any]:
        """What a result says of the reference."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "count": self.count,
            "file": str(self.path),
            "holds": self.holds,
            "made_with": self.embedding,
            "made_with_according_to": "the file" if self.is_known else "the user",
        }

    @property
    def holds(self) -> str:
        """In the words of results."""
        return "features" if self.rows is not None else "mu and sigma"


class _About(TypedDict):
    embedding: str
    embedding_digest: str


def read_features(path: Path, embedding: Embedding) -> GivenFeatures:
    """Features of a .npy or .npz file that are to be compared with the embedding's.

    Raises:
        SpiderError: it cannot be read; the numbers are not finite floats of the embedding's dimension; or the file says
            that another embedding made them. One line, with the array and what was expected.
    """
    try:
        with open_regular(path, _MAX_BYTES) as (file, size):
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            arrays, is_known = _read(path, file, size, embedding)
    except UnreadableError as error:
        raise SpiderError(str(error)) from None
    except OSError as error:
        raise SpiderError(f"{path}: {error.strerror or error}") from error
    except (SpiderError, MemoryError):
        raise
    except Exception as error:  # zipfile fails on a damaged file with whatever its next step raises
        raise SpiderError(f"{path}: no .npz file, or a damaged one: {error}") from error
    rows = next((arrays[name] for name in _ROWS if name in arrays), None)
    if rows is not None:
        return GivenFeatures(path.absolute(), sha256, rows.astype(np.float32), None, None, is_known, embedding.label)
    mean, covariance = (arrays[name].astype(np.float64) for name in ("mu", "sigma"))
    _require_covariance(path, covariance)
    return GivenFeatures(path.absolute(), sha256, None, mean, covariance, is_known, embedding.label)


def write_features(path: Path, rows: Features, embedding: Embedding, images: Mapping[str, Any]) -> None:
    """Write features [n, d], whole or not at all: rows alone as .npy; as .npz also what pytorch-fid and clean-fid read.

    Args:
        images: plain data of the images: name, fingerprint, count.
    """
    with open_whole(path) as file:
        if path.suffix == ".npy":
            np.save(file, rows, allow_pickle=False)
            return
        wide = rows.astype(np.float64)
        arrays = {"feats": rows, "mu": wide.mean(axis=0), "sigma": np.cov(wide, rowvar=False)}
        about = {"embedding": embedding.label, "embedding_digest": embedding.digest, "images": dict(images)}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                member = BytesIO()
                np.save(member, array, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", _LEAST_DATE), member.getvalue(), zipfile.ZIP_DEFLATED)
            text = json.dumps(about | {"spider": VERSION}, indent=2)
            archive.writestr(zipfile.ZipInfo(_ABOUT, _LEAST_DATE), text, zipfile.ZIP_DEFLATED)


def _read(path: Path, file: IO[bytes], size: int, embedding: Embedding) -> tuple[dict[str, NDArray[Any]], bool]:
    """The arrays that are of use, checked, and whether the file says that the embedding made them."""
    dim = embedding.dim
    if path.suffix == ".npy":
        return {_ROWS[0]: _array(file, size, f"{path}", (None, dim))}, False
    with zipfile.ZipFile(file) as archive:
        inside = set(archive.namelist())
        if _ABOUT in inside:
            _require_made_with(path, archive, embedding)
        wanted: dict[str, tuple[int | None, ...]] = {name: (None, dim) for name in _ROWS if f"{name}.npy" in inside}
        if not wanted:
            wanted = {"mu": (dim,), "sigma": (dim, dim)}
        if not all(f"{name}.npy" in inside for name in wanted):
            found = ", ".join(sorted(name.removesuffix(".npy") for name in inside)[:8]) or "nothing"
            raise SpiderError(f"{path}: holds {found}; needed are feats (features [n, d]), or mu and sigma")
        arrays = {}
        for name, shape in wanted.items():
            info = archive.getinfo(f"{name}.npy")
            with archive.open(info) as member:
                arrays[name] = _array(member, info.file_size, f"{path}: {name}", shape)
        return arrays, _ABOUT in inside


def _require_made_with(path: Path, archive: zipfile.ZipFile, embedding: Embedding) -> None:
    with archive.open(_ABOUT) as member:
        about = checked(parse_json(member.read(_MAX_ABOUT), f"{path}: {_ABOUT}"), _About, f"{path}: {_ABOUT}")
    if about["embedding_digest"] != embedding.digest:
        raise SpiderError(
            f"{path}: was made with {about['embedding']} (digest {about['embedding_digest'][:12]}), "
            f"not with {embedding.label} (digest {embedding.digest[:12]})"
        )


def _array(file: IO[bytes], size: int, where: str, wanted: tuple[int | None, ...]) -> NDArray[Any]:
    """One array of finite floats in NumPy's format, `size` bytes with its header.

    Args:
        where: the file and the array, for errors.
        wanted: its shape; None where any length will do.
    """
    try:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read_header is None:
            raise ValueError(f"version {version} of the format")
        shape, is_fortran, dtype = read_header(file)
    except ValueError as error:
        raise SpiderError(f"{where}: not an array of numbers in NumPy's format: {error}") from error
    if dtype.kind != "f" or dtype.itemsize > 8:
        kind = "Python objects, which are code and are not read" if dtype.hasobject else str(dtype)
        raise SpiderError(f"{where}: must be of floats, and is of {kind}")
    if len(shape) != len(wanted) or any(w is not None and n != w for n, w in zip(shape, wanted, strict=True)):
        raise SpiderError(f"{where}: has shape {_shape(shape)}, and the embedding makes {_shape(wanted)}")
    length = dtype.itemsize * int(np.prod(shape, dtype=object))
    data = file.read(length) if length <= size else b""
    if len(data) != length or length == 0:
        raise SpiderError(f"{where}: is empty or cut short: {_shape(shape)} of {dtype} needs {length:,} bytes")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")
    with np.errstate(over="ignore"):  # beyond float32 a float64 is infinite to the metrics
        finite = np.isfinite(array.astype(np.float32)).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        count = int((~finite).sum())
        raise SpiderError(f"{where}: {count} of {len(array)} rows are not finite, first row {int(np.argmin(finite))}")
    return array


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("n" if length is None else str(length) for length in shape) + "]"


def _require_covariance(path: Path, covariance: Moment) -> None:
    """Refuse what is no covariance matrix: [d, d] that is not symmetric, or has a variance below 0."""
    largest = float(np.abs(covariance).max())
    if float(np.abs(covariance - covariance.T).max()) > _SYMMETRIC * largest:
        raise SpiderError(f"{path}: sigma is no covariance: it is not symmetric")
    variances = covariance.diagonal()
    if float(variances.min()) < -_SYMMETRIC * largest:
        worst = int(variances.argmin())
        raise SpiderError(f"{path}: sigma is no covariance: variance {worst} is {variances[worst]:.3g}")
