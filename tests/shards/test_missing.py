"""What is said of a path that leads nowhere."""

from __future__ import annotations

from pathlib import Path

from shards.missing import no_such


def test_a_path_that_leads_nowhere_is_told_why(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "away")
    (tmp_path / "file").touch()
    assert no_such(tmp_path / "lettres").endswith(f": no such folder; did you mean {tmp_path / 'letters'}?")
    assert no_such(tmp_path / "link").endswith(f": a link to {tmp_path / 'away'}, which is not there")
    assert no_such(tmp_path / "file").endswith(": not a folder")
