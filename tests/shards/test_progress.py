"""Who reads a log sees how far long work is, a line at a time."""

from __future__ import annotations

import pytest

from shards import progress
from shards.progress import Bar


def test_a_log_gets_lines_now_and_then_and_a_last_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    with Bar(total=3000, desc="features", unit="image", unit_scale=True) as bar:
        for _ in range(3):
            bar.update(1000)
    lines = capsys.readouterr().err.splitlines()
    assert [line[:34] for line in lines] == [
        f"features: {share:3d}% {done}k/3.00k image [" for share, done in ((33, "1.00"), (67, "2.00"), (100, "3.00"))
    ]


def test_quick_work_is_no_line_and_neither_is_what_nobody_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 1e9)  # so that it is quick on any machine
    with Bar(total=3, desc="pairs") as bar:
        for _ in range(3):
            bar.update()
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    with Bar(total=3, desc="pairs", shown=False) as bar:
        bar.update()
    with Bar(total=3, initial=3, desc="nothing"):
        pass
    assert capsys.readouterr().err == ""
