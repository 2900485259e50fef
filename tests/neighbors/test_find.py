"""A neighbour search ranks what is near first, says under which protocol, and is the same however images are stored."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neighbors.find import neighbors
from neighbors.matrix_report import MatrixReport
from neighbors.report import NeighborReport
from neighbors.request import NeighborOptions
from shards.dataset import ShardDataset
from shards.errors import ShardsUsageError
from shards.pack import pack
from spider.errors import SpiderError, SpiderUsageError
from spider.judge.sid.rules import RULES

NAMES = ("letters", "patches", "digits2")
RANKS = "rank under each rule, order -1; - dropped by it"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two disjoint parts of the digits, letters, and patches: a few hundred small images of each."""
    root = tmp_path_factory.mktemp("packed")
    for name, count in (("digits", 600), ("letters", 500), ("patches", 500)):
        pack(f"builtin:{name}", root / name, resolution=16, subset=count, workers=1, progress=False)
    whole = ShardDataset(root / "digits")
    for part, name in enumerate(("digits1", "digits2")):
        folder = root / f"{name}-images"
        folder.mkdir()
        for i in range(part, len(whole), 2):
            Image.fromarray(whole.read(i)[0][0]).save(folder / f"{i:05d}.png")
        pack(folder, root / name, workers=1, progress=False)
    return root


def search(
    packed: Path, out: Path, target: str = "digits1", sources: tuple[str, ...] = NAMES, **options
) -> NeighborReport:
    options = {"embedding": "offline", "cache": packed / "cache", "progress": False} | options
    options = NeighborOptions(**options)
    return neighbors(packed / target, [packed / name for name in sources], out=out, options=options)


@pytest.fixture(scope="module")
def report(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[NeighborReport, Path]:
    out = tmp_path_factory.mktemp("neighbors")
    return search(packed, out, orders=(-1, 1)), out


def test_the_nearest_comes_first(report):
    rows = report[0].rows
    same = next(row for row in rows if row.source == "digits2")
    assert abs(same.curves[0].csid) < 3 * same.curves[0].csid_stderr
    assert [row.source for row in sorted(rows, key=lambda row: row.fd)] == ["digits2", "letters", "patches"]
    assert [row.source for row in sorted(rows, key=lambda row: abs(row.curves[0].csid))] == [
        "digits2",
        "letters",
        "patches",
    ]


def test_the_document_keeps_its_contract(report):
    found, out = report
    document = json.loads((out / "neighbors.json").read_text())
    assert document["target"] == "digits1"
    assert document["embedding"]["name"] == "offline"
    assert [row["rank"] for row in document["rows"]] == [1, 2, 3]
    for row in document["rows"]:
        assert {"source", "rank", "fid", "kid", "csid", "friendly", "why"} <= row.keys()
        assert set(row["csid"]) == {"-1", "1"}
        assert {"value", "stderr"} <= row["csid"]["-1"].keys()
        assert document["protocol"]["sources"][row["source"]]["fingerprint"]
    assert [row["source"] for row in document["rows"] if row["friendly"]] == found.picks
    lines = list(csv.DictReader((out / "neighbors.csv").open()))
    assert [line["source"] for line in lines] == [row["source"] for row in document["rows"]]
    assert float(lines[0]["csid[-1]"]) == document["rows"][0]["csid"]["-1"]["value"]
    for name in ("curves.png", "heatmap.png", "picks.png"):
        with Image.open(out / name) as figure:
            assert min(figure.size) > 200


def test_offline_never_poses_as_inception(report):
    found, out = report
    document = json.loads((out / "neighbors.json").read_text())
    assert all(row["fid"] is None and row["kid"] is None and row["fd"] > 0 for row in document["rows"])
    text = found.table() + (out / "neighbors.csv").read_text()
    assert "FD[offline]" in text
    assert "FID" not in text
    assert "KID" not in text


def test_the_table_shows_everything(report):
    found, _ = report
    lines = found.table().splitlines()
    assert "neighbours of digits1, offline, mode robust" in lines[0]
    assert "CSID[-1]" in lines[1]
    measures, ranks = lines[: lines.index(RANKS)], lines[lines.index(RANKS) :]
    assert len([line for line in measures if any(name in line for name in NAMES)]) == 3
    assert ranks[1].split() == list(RULES)
    assert {line.split()[0] for line in ranks[2:5]} == set(NAMES)
    assert any(line.startswith("!") and "digits2" in line for line in lines)  # 300 images for 288 dimensions


def test_shards_threads_and_the_cache_do_not_matter(packed: Path, report, tmp_path: Path):
    for name in NAMES:
        pack(packed / name, tmp_path / name, shard_mb=0.05, workers=1, progress=False)
    assert len(ShardDataset(tmp_path / "letters").index.shards) > len(ShardDataset(packed / "letters").index.shards)
    sources = {name: tmp_path / name for name in NAMES}
    for _ in range(2):  # the second time from the cache
        options = NeighborOptions(embedding="offline", orders=(-1, 1), cache=tmp_path / "cache", progress=False)
        again = neighbors(packed / "digits1", sources, out=tmp_path / "out", options=options)
        for row, expected in zip(again.rows, report[0].rows, strict=True):
            assert row.source == expected.source
            assert row.fd == pytest.approx(expected.fd, rel=1e-9)
            for curve, other in zip(row.curves, expected.curves, strict=True):
                np.testing.assert_allclose(curve.values, other.values, rtol=1e-9)


def test_the_target_and_gray_sources_are_no_friends(packed: Path, tmp_path: Path):
    options = {"target": "patches", "sources": ("patches", "letters", "digits2"), "mode": "screen"}
    found = search(packed, tmp_path, **options)
    assert {row.source: row.place.why for row in found.rows} == {
        "patches": "the target itself",
        "letters": "grey, and the target has colour",
        "digits2": "grey, and the target has colour",
    }
    assert found.picks == []
    legend = "CSID from means and variances alone. friendly: the first 3 by rule paper (--picks) of the sources that "
    why = "nothing was picked (digits2, letters: grey, and the target has colour); --keep-gray and --keep-negative"
    assert len([line for line in found.table().splitlines() if line.startswith((legend, f"! {why}"))]) == 2
    matrix = MatrixReport([found]).table().splitlines()
    assert len([line for line in matrix if line.startswith((legend, f"! patches: {why}"))]) == 2
    kept = search(packed, tmp_path, **options, keep_gray=True, keep_negative=True, picks=1)
    assert len(kept.picks) == 1


@pytest.mark.parametrize("rule", ["tolerant_csid", "fd", "mean_rank"])
def test_the_rule_that_is_asked_for_picks_and_the_others_stand_beside_it(rule: str, packed: Path, report, tmp_path):
    found = search(packed, tmp_path, rule=rule, orders=(-1, 1), picks=1)
    assert found.protocol["rule"] == rule
    assert found.table().splitlines()[0].endswith(f"rule {rule}; * friendly")
    for row in found.rows:
        (same,) = (other for other in report[0].rows if other.source == row.source)
        assert row.place == row.by_rule[rule]
        assert {name: (place.rank, place.score) for name, place in row.by_rule.items()} == {
            name: (place.rank, place.score) for name, place in same.by_rule.items()
        }
    assert all(rule in rules for source, rules in found.first_picks().items() if source in found.picks)


class Faded:
    """A set with less contrast: nearer to it than anything else, and less diverse."""

    def __init__(self, images: ShardDataset) -> None:
        self._images, self.name, self.fingerprint = images, "faded", f"faded {images.fingerprint}"

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, start: int, stop: int) -> torch.Tensor:
        return (0.9 * self._images.batch(start, stop)).byte()


def test_a_line_says_when_rules_disagree_about_the_first_pick(packed: Path, tmp_path: Path):
    options = NeighborOptions(embedding="offline", cache=packed / "cache", progress=False)
    letters, digits = ShardDataset(packed / "letters"), packed / "digits2"
    found = neighbors(letters, [digits, Faded(letters)], out=tmp_path, options=options)
    assert {"paper", "standard_csid"} <= set(found.first_picks()["digits2"])
    assert {"tolerant_csid", "fd", "kd"} <= set(found.first_picks()["faded"])
    (line,) = (line for line in found.table().splitlines() if line.startswith("! the rules disagree"))
    assert "digits2 (paper, " in line
    agreed = neighbors(letters, [digits, packed / "patches"], out=tmp_path, options=options)
    assert list(agreed.first_picks()) == agreed.picks[:1]
    assert "disagree" not in agreed.table()


def test_what_the_rule_is_after_gets_the_full_measure(packed: Path, tmp_path: Path):
    letters = ShardDataset(packed / "letters")

    def measured(rule: str) -> list[str]:
        options = NeighborOptions(
            embedding="offline", cache=packed / "cache", progress=False, rule=rule, shortlist=1, picks=1
        )
        found = neighbors(letters, [packed / "digits2", Faded(letters)], out=tmp_path, options=options)
        return [row.source for row in found.rows if row.measured]

    assert measured("paper") == ["digits2"]
    assert measured("fd") == ["faded", "digits2"]
    assert search(packed, tmp_path, mode="screen", rule="fd", picks=1).picks == ["digits2"]


@pytest.mark.parametrize(("keep_gray", "is_said"), [(False, True), (True, False)])
def test_sources_outside_the_shortlist_are_a_choice_unless_a_rule_drops_them(keep_gray, is_said, packed, tmp_path):
    options = NeighborOptions(
        embedding="offline",
        cache=packed / "cache",
        progress=False,
        rule="fd",
        shortlist=1,
        picks=1,
        keep_gray=keep_gray,
    )
    patches = ShardDataset(packed / "patches")
    found = neighbors(patches, [Faded(patches), packed / "letters"], out=tmp_path, options=options)
    assert [(row.source, row.measured, row.place.takes_part) for row in found.rows] == [
        ("faded", True, True),
        ("letters", False, keep_gray),
    ]
    assert ("every source that the rule does not drop was picked" in found.table()) == is_said


def test_screening_agrees_with_the_full_measure(packed: Path, report, tmp_path: Path):
    screened = search(packed, tmp_path, mode="screen")
    full = {row.source: row.curves[0].csid for row in report[0].rows}
    for row in screened.rows:
        assert row.fd is None
        assert row.curves[0].csid == pytest.approx(full[row.source], rel=0.15, abs=300)
    assert "-" in screened.table()


def test_images_are_drawn_by_the_seed(packed: Path, tmp_path: Path):
    first, again, other = (search(packed, tmp_path, images=150, seed=seed, mode="screen") for seed in (1, 1, 2))
    assert {row.count for row in first.rows} == {150}
    assert first.protocol["sources"]["letters"]["measured"] == 150
    assert first.rows[0].curves[0].csid == again.rows[0].curves[0].csid != other.rows[0].curves[0].csid


def test_datasets_need_their_own_names(packed: Path, tmp_path: Path):
    with pytest.raises(SpiderUsageError, match="two sources are named letters"):
        search(packed, tmp_path, sources=("letters", "letters"))
    two = {"a": packed / "letters", "b": packed / "letters"}
    options = NeighborOptions(embedding="offline", mode="screen", cache=tmp_path / "cache", progress=False)
    found = neighbors(packed / "digits1", two, out=tmp_path, options=options)
    assert [row.source for row in found.rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sources": ()}, SpiderUsageError, "no sources"),
        ({"mode": "fast"}, SpiderUsageError, "robust, paper, screen"),
        ({"orders": ()}, SpiderUsageError, "no kernel order"),
        ({"rule": "fid"}, SpiderUsageError, "rule 'fid' is unknown; known: paper, abs_csid"),
        ({"picks": 0}, SpiderUsageError, "picks: a whole number from 1"),
        ({"mode": "paper"}, SpiderUsageError, "digits1: 300 images; mode paper needs 500"),
        ({"target": "nowhere"}, ShardsUsageError, "nowhere"),
        ({"embedding": "inception"}, SpiderError, "spider weights get inception"),
    ],
)
def test_what_cannot_be_is_refused_and_writes_nothing(options, error, words, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(error, match=words):
        search(packed, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
