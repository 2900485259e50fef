"""Only a regular file is read, and no more of it than was asked for."""

from __future__ import annotations

import os
import socket

import pytest

from untrusted.errors import UnreadableError
from untrusted.files import open_regular, read_regular


def test_a_file_and_a_link_to_it_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert read_regular(tmp_path / name, 5) == b"12345"
        with open_regular(tmp_path / name, 5) as (file, size):
            assert (file.read(), size) == (b"12345", 5)


def test_what_is_no_file_is_named_and_not_read(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "empty").symlink_to("/dev/null")
    for name, kind in (("folder", "a folder"), ("pipe", "a pipe"), ("endless", "a device"), ("empty", "a device")):
        with pytest.raises(UnreadableError, match=f"{tmp_path / name}: {kind}, not a file"):
            read_regular(tmp_path / name, 100)


def test_a_socket_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises((UnreadableError, OSError)):
            read_regular(tmp_path / "socket", 100)


def test_a_file_that_has_grown_is_refused_by_its_size(tmp_path):
    with (tmp_path / "grown").open("wb") as file:
        file.truncate(200 << 30)
    with pytest.raises(UnreadableError, match=r"grown: has 214,748,364,800 bytes; at most 1,000 are read"):
        read_regular(tmp_path / "grown", 1000)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "growing"
    path.write_bytes(b"x" * 10)
    fdopen = os.fdopen

    def grow_first(descriptor, *rest):
        with path.open("ab") as file:
            file.write(b"x" * 10)
        return fdopen(descriptor, *rest)

    monkeypatch.setattr(os, "fdopen", grow_first)
    with pytest.raises(UnreadableError, match=r"growing: has more than 10 bytes"):
        read_regular(path, 10)


def test_a_limit_costs_no_memory(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 1 << 60) == b"12345"


def test_what_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nothing", 1)


def test_no_descriptor_is_left_open(tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    (tmp_path / "file").write_bytes(b"12345")
    for _ in range(5):
        with pytest.raises(UnreadableError):
            read_regular(tmp_path, 5)
        with pytest.raises(UnreadableError):
            read_regular(tmp_path / "file", 4)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before
