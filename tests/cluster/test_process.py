"""A process is told from every other that had its number."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cluster.process import birth


def test_a_process_keeps_its_birth_until_it_ends() -> None:
    with subprocess.Popen(["sh", "-c", "read line"], stdin=subprocess.PIPE) as child:
        born = birth(child.pid)
        assert born is not None
        assert born == birth(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert birth(child.pid) is None  # it has ended, and nobody has asked how
    assert birth(child.pid) is None


def test_processes_of_one_number_have_different_births(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = birth(os.getpid())
    boot = tmp_path / "boot_id"
    boot.write_text("another\n")
    monkeypatch.setattr("cluster.process._BOOT", boot)  # the machine has started again
    assert birth(os.getpid()) not in (before, None)
