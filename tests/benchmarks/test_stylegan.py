"""The benchmark of StyleGAN's iterations, at a toy size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import stylegan

TOY = [
    *("--device", "cpu", "--presets", "stylegan2-ada/auto", "--sides", "8", "--batch", "4", "--turns", "1"),
    *("--settings", "plain", "p = 0.8", "top-k", "--"),
    *(f"{player}.channel_base=64" for player in ("generator", "discriminator")),
    *("generator.w_dim=8", "source.dim=8", "data.workers=0"),
]


def report(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "report.json").read_text())["rows"]
    return rows


def test_a_window_that_is_over_leaves_the_rest_to_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stylegan.main(["--out", str(tmp_path), "--minutes", "0", *TOY])
    assert "1 of 1 parts are left" in capsys.readouterr().out
    assert report(tmp_path) == []

    stylegan.main(["--out", str(tmp_path), *TOY])
    assert "all is done" in capsys.readouterr().out
    file = tmp_path / "stylegan2-ada-auto-8.json"
    part = json.loads(file.read_text())
    share = part["facts"]["share"]
    assert share == {"main": 12 / 16, "main + g_reg": 3 / 16, "main + g_reg + d_reg": 1 / 16}
    rows = {row["way"]: row for row in report(tmp_path)}
    for way in ("plain", "p = 0.8", "top-k"):
        mean = sum(share[kind] * part["turns"][0][way][kind] for kind in share)
        assert rows[way]["s / kimg"] == pytest.approx(250 * mean)
        assert rows[way]["peak GB"] > 0
    assert rows["top-k"]["ratio"] == pytest.approx(rows["top-k"]["s / kimg"] / rows["plain"]["s / kimg"])
    assert 0 < rows["floor"]["s / kimg"] < rows["unfused floor"]["s / kimg"]

    written = file.stat().st_mtime_ns
    stylegan.main(["--out", str(tmp_path), "--minutes", "0", *TOY])
    assert "all is done" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == written
