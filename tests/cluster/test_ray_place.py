"""A place for Ray's files that is full or closed is named, with the variable that moves it."""

from __future__ import annotations

import shutil

import pytest

from cluster.errors import MachineError
from cluster.ray import connected
from cluster.ray_place import make_folder


def test_rays_files_lie_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert make_folder("r7-").parent == tmp_path


@pytest.mark.parametrize("kind", ["a file", "not there", "full"])
def test_a_place_without_room_is_named(tmp_path, monkeypatch, kind):
    place = tmp_path if kind == "full" else tmp_path / "place"
    if kind == "a file":
        place.touch()
    monkeypatch.setenv("RAY_TMPDIR", str(place))
    if kind == "full":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(MachineError, match=rf"^{place}: .*; RAY_TMPDIR=DIR keeps Ray's files in DIR$"):
        make_folder("r7-")
    assert not [each for each in tmp_path.iterdir() if each.name.startswith("r7-")]
    with pytest.raises(MachineError, match=rf"^{place}: "), connected("local"):
        pass
