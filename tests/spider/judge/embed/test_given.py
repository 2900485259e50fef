"""Features from a file are numbers of a known shape, or one line that says what they are instead."""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pytorch_fid import fid_score

from spider.errors import SpiderError
from spider.judge.embed.given import read_features, write_features

DIM = 5


@dataclass
class Eyes:
    """An embedding, as far as a file is compared with it."""

    label: str = "inception/tf"
    digest: str = "d1" * 32
    dim: int = DIM


def rows(count: int = 40, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)


def test_features_are_read_as_peers_write_them(tmp_path: Path):
    """clean-fid calls them feats, dgm-eval reps, beside an object that is not unpickled."""
    np.save(tmp_path / "rows.npy", np.asfortranarray(rows().astype(">f8")))
    np.savez_compressed(tmp_path / "clean.npz", feats=rows())
    np.savez(tmp_path / "dgm.npz", model="dinov2", reps=rows().astype(np.float64), hparams={"an": "object"})
    for name in ("rows.npy", "clean.npz", "dgm.npz"):
        given = read_features(tmp_path / name, Eyes())
        assert (given.rows == rows()).all()
        assert (given.rows.dtype, given.count, given.holds, given.is_known) == (np.float32, 40, "features", False)


def test_moments_are_read_as_pytorch_fid_writes_them(tmp_path: Path):
    wide = rows().astype(np.float64)
    np.savez_compressed(tmp_path / "ref.npz", mu=wide.mean(axis=0), sigma=np.cov(wide, rowvar=False))
    given = read_features(tmp_path / "ref.npz", Eyes())
    assert (given.mean == wide.mean(axis=0)).all()
    assert (given.covariance == np.cov(wide, rowvar=False)).all()
    assert (given.rows, given.count, given.holds) == (None, None, "mu and sigma")


def test_what_was_written_is_read_by_us_and_by_peers(tmp_path: Path):
    path = tmp_path / "ours.npz"
    write_features(path, rows(), Eyes(), {"name": "letters", "count": 40})
    once = path.read_bytes()
    write_features(path, rows(), Eyes(), {"name": "letters", "count": 40})
    assert path.read_bytes() == once
    given = read_features(path, Eyes())
    assert (given.rows == rows()).all()
    assert given.is_known
    wide = rows().astype(np.float64)
    mean, covariance = fid_score.compute_statistics_of_path(str(path), None, None, None, None)
    np.testing.assert_allclose(mean, wide.mean(axis=0))
    np.testing.assert_allclose(covariance, np.cov(wide, rowvar=False))
    with pytest.raises(SpiderError, match=r"ours.npz: was made with inception/tf \(digest d1d1.* not with other"):
        read_features(path, Eyes(label="other", digest="e2" * 32))


def saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def single(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def with_nan() -> np.ndarray:
    bad = rows()
    bad[7, 2] = np.nan
    return bad


def promise() -> bytes:
    """A header of more than there is, or than any memory holds."""
    return single(rows()).replace(b"(40, 5), }" + 9 * b" ", b"(99999999999, 5), }")


class Code:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


UPPER = np.triu(np.ones((DIM, DIM)))
DAMAGED = {
    "dim.npy": (single(rows(dim=4)), r"has shape \[40, 4\], and the embedding makes \[n, 5\]"),
    "flat.npy": (single(rows().ravel()), r"has shape \[200\]"),
    "ints.npy": (single(rows().astype(np.int64)), "must be of floats, and is of int64"),
    "objects.npy": (single(np.array([Code()], dtype=object), True), "Python objects, which are code"),
    "nan.npy": (single(with_nan()), "1 of 40 rows are not finite, first row 7"),
    "huge.npy": (single(rows().astype(np.float64) * 1e300), "40 of 40 rows are not finite"),
    "cut.npy": (single(rows())[:-8], r"cut short: \[40, 5\] of float32 needs 800 bytes"),
    "none.npy": (single(rows()[:0]), "is empty"),
    "promise.npy": (promise(), "cut short: .*99999999999"),
    "text.npy": (b"not an array", "not an array of numbers in NumPy's format"),
    "text.npz": (b"not a zip", "no .npz file, or a damaged one"),
    "images.npz": (saved(arr_0=np.zeros((2, 4, 4, 3), np.uint8)), "holds arr_0; needed are feats"),
    "half.npz": (saved(mu=np.zeros(DIM)), "holds mu; needed"),
    "sigma.npz": (saved(mu=np.zeros(DIM), sigma=np.zeros((4, 4))), r"sigma: has shape \[4, 4\], .* \[5, 5\]"),
    "upper.npz": (saved(mu=np.zeros(DIM), sigma=UPPER), "no covariance: it is not symmetric"),
    "below.npz": (saved(mu=np.zeros(DIM), sigma=-np.eye(DIM)), "no covariance: variance 0 is -1"),
    "pickle.npy": (pickle.dumps(Code()), "not an array of numbers"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, name: str):
    content, said = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpiderError, match=said) as caught:
        read_features(tmp_path / name, Eyes())
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_is_refused(tmp_path: Path):
    path = tmp_path / "ours.npz"
    write_features(path, rows(), Eyes(), {})
    whole, mean = path.read_bytes(), rows().mean(axis=0)
    for place in [*range(0, len(whole) - 400, 97), *range(len(whole) - 400, len(whole))]:  # the last are the directory
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            given = read_features(path, Eyes())
        except SpiderError:
            continue
        # A byte that says nothing of the numbers, or one that hides the features beside their mean
        np.testing.assert_allclose(given.mean if given.rows is None else given.rows.mean(axis=0), mean, rtol=1e-5)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("feats.npy", single(rows()))
        archive.writestr("spider.json", "{}")
    with pytest.raises(SpiderError, match=r"spider.json: embedding: field required"):
        read_features(path, Eyes())
