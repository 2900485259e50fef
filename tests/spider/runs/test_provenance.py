"""Which source runs is known in a checkout, in a job's copy of one, and nowhere else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from spider.runs import provenance
from spider.runs.provenance import git_state


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this code is taken to lie."""
    file = tmp_path / "spider" / "runs" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(provenance, "__file__", str(file))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path / "spider"


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=x", "-c", "user.email=x"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_is_its_commit_and_whether_it_was_changed(package: Path) -> None:
    assert git_state() is None
    git(package.parent, "init")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-m", "x")
    commit = git(package.parent, "rev-parse", "HEAD")
    assert git_state() == {"commit": commit, "dirty": False}
    (package / "new.py").touch()  # nobody has asked git to keep it
    assert git_state() == {"commit": commit, "dirty": False}
    (package / "runs" / "provenance.py").write_text("changed")
    assert git_state() == {"commit": commit, "dirty": True}


def test_a_copy_is_what_it_was_copied_from(package: Path) -> None:
    origin = {"commit": "c0ffee", "dirty": True}
    (package.parent / "origin.json").write_text(json.dumps(origin))
    assert git_state() == origin


def test_without_git_nothing_is_known(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state() is None
