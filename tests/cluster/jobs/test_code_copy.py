"""A job runs a copy of the code of its submission."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.errors import ClusterUsageError
from cluster.jobs import code_copy
from cluster.jobs.code_copy import copy_code, origin_of, shell_lines

ORIGIN = {"commit": "c0ffee", "dirty": True}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one beneath it, data, and what Python compiled."""
    root = tmp_path / "checkout" / "mine"
    for name, text in {
        "__init__.py": "V = 1",
        "deep/__init__.py": "",
        "deep/a.yaml": "x: 1",
        "__pycache__/x": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(str(root.parent))
    return root


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_copy_has_all_but_what_python_compiled(mine: Path, tmp_path: Path) -> None:
    copy = copy_code(["mine"], tmp_path / "code", ORIGIN)
    assert files(copy) == {"mine/__init__.py", "mine/deep/__init__.py", "mine/deep/a.yaml", "origin.json"}
    assert origin_of(copy / "mine") == ORIGIN
    assert origin_of(mine) is None


def test_a_module_of_one_file_is_copied_too(mine: Path, tmp_path: Path) -> None:
    (mine.parent / "alone.py").write_text("x = 1")
    assert files(copy_code(["mine", "alone"], tmp_path / "code", None)) >= {"alone.py", "mine/__init__.py"}


@pytest.mark.parametrize(
    ("name", "message"),
    [("nosuchmod", "no such package or module to copy for the job"), ("sys", "is no file that can be copied")],
)
def test_what_cannot_be_copied_is_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ClusterUsageError, match=f"^{name}: {message}"):
        copy_code([name], tmp_path / "code", None)


def test_content_names_a_copy_and_it_is_used_again(mine: Path, tmp_path: Path) -> None:
    first = copy_code(["mine"], tmp_path / "code", ORIGIN)
    made = (first / "origin.json").stat().st_mtime_ns
    (mine / "__pycache__" / "y").touch()
    assert copy_code(["mine"], tmp_path / "code", None) == first
    assert (first / "origin.json").stat().st_mtime_ns == made
    (mine / "deep" / "a.yaml").write_text("x: 2")
    second = copy_code(["mine"], tmp_path / "code", ORIGIN)
    assert second != first
    assert (first / "mine" / "deep" / "a.yaml").read_text() == "x: 1"
    (mine / "deep" / "a.yaml").rename(mine / "deep" / "b.yaml")
    assert copy_code(["mine"], tmp_path / "code", ORIGIN) not in (first, second)  # names count too
    assert len(list((tmp_path / "code").iterdir())) == 3


def test_a_copy_is_complete_or_not_there(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(source: Path, target: Path) -> None:
        target.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(code_copy.shutil, "copyfile", fill)
    with pytest.raises(OSError, match="No space left"):
        copy_code(["mine"], tmp_path / "code", None)
    assert list((tmp_path / "code").iterdir()) == []


@pytest.mark.parametrize("before", ["", "checkout"])
def test_a_process_imports_the_copy_rather_than_what_lies_where_it_runs(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    copy = copy_code(["mine"], tmp_path / "code of a job", None)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / before) if before else "")
    lines = [
        *shell_lines(copy),
        f"{sys.executable} -c 'import mine, os; print(mine.__file__, os.environ[\"PYTHONPATH\"])'",
    ]
    said = subprocess.check_output(["bash", "-c", "\n".join(lines)], cwd=mine.parent, text=True).strip()
    path = os.pathsep.join([str(copy), *([str(tmp_path / before)] if before else [])])
    assert said == f"{copy}/mine/__init__.py {path}"
