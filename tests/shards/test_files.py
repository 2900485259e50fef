"""Files appear whole, and caches live in one place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards.files import cache_root, open_whole, write_whole


@pytest.mark.parametrize(
    ("own", "xdg", "root"),
    [
        ("/own", "/xdg", "/own"),
        (None, "/xdg", "/xdg/spider"),
        ("", "/xdg", "/xdg/spider"),
        (None, None, "/home/me/.cache/spider"),
        (None, "", "/home/me/.cache/spider"),
    ],
)
def test_caches_live_where_the_environment_says(monkeypatch, own, xdg, root):
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in (("SPIDER_CACHE", own), ("XDG_CACHE_HOME", xdg)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert cache_root() == Path(root)


def test_a_file_takes_its_place_when_it_is_on_disk(tmp_path, monkeypatch):
    """A rename that reaches the disk before the content leaves an empty file after a crash."""
    done = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, original=original: (done.append(name), original(*args))[1]
        )
    write_whole(tmp_path / "deep" / "file", b"content")
    assert done == ["fsync", "replace", "fsync"]  # the last is the folder's
    assert (tmp_path / "deep" / "file").read_bytes() == b"content"


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "file", b"old")
    with pytest.raises(TypeError), open_whole(tmp_path / "file") as file:
        file.writelines([b"new", "no bytes"])
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_two_may_write_a_file_at_once(tmp_path):
    with open_whole(tmp_path / "file") as first, open_whole(tmp_path / "file") as second:
        first.write(b"first, and last to end")
        second.write(b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first, and last to end"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_is_for_those_whom_the_umask_lets(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
