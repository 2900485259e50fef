"""IC-GAN's files of centres: read without running what they pickle."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from spider import api
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.conditions.bank import InstanceBank
from spider.judge.instances.published import read_centres


@pytest.mark.parametrize("dtype", ["<i8", ">i4", "u2"])
def test_their_numbers_are_read(tmp_path, dtype):
    np.save(tmp_path / "c.npy", {"center_examples": np.array([[7], [1], [7], [3]], dtype)})
    assert read_centres(tmp_path / "c.npy", 8).tolist() == [1, 3, 7]
    with pytest.raises(SpiderUsageError, match="none of 0 to 6"):
        read_centres(tmp_path / "c.npy", 7)


def test_a_bank_takes_them(digits, tmp_path):
    np.save(tmp_path / "c.npy", {"center_examples": np.array([[9], [4]])})
    words = {"embedding": "offline", "neighbors": 2, "centres": tmp_path / "c.npy"}
    report = api.instances(digits, tmp_path / "b.safetensors", **words)
    assert report.centres == 2
    assert InstanceBank.open(tmp_path / "b.safetensors").centres.tolist() == [4, 9]


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    "content",
    [
        {"centres": np.array([1])},
        {"center_examples": "text"},
        {"center_examples": np.array([0.5])},
        {"center_examples": Malicious()},
        Malicious(),
        [1, 2],
    ],
)
def test_others_are_refused_and_nothing_runs(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    np.save("c.npy", np.array(content, dtype=object) if not isinstance(content, dict) else content)
    with pytest.raises(SpiderError, match=r"c\.npy: "):
        read_centres(tmp_path / "c.npy", 10)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "c.npy").write_bytes(pickle.dumps({"center_examples": [1]}))
    with pytest.raises(SpiderError, match=r"no \.npy file"):
        read_centres(tmp_path / "c.npy", 10)
    with pytest.raises(SpiderUsageError, match="no such file"):
        read_centres(tmp_path / "none.npy", 10)
