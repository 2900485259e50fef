"""Searches of many: a shortlist by screening, every ordered pair, datasets that are larger than subsets can use."""

from __future__ import annotations

import csv
import json
import pickle
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from neighbors import report as neighbor_report
from neighbors import search as neighbor_search
from neighbors.find import neighbor_matrix, neighbors
from neighbors.report import NeighborReport
from neighbors.request import NeighborOptions
from neighbors.worker import NeighborPlan, NeighborWorker
from shards.dataset import ShardDataset
from shards.pack import pack
from spider.errors import SpiderError, SpiderUsageError
from spider.judge.embed.features import PIECE
from spider.judge.embed.images import DrawnImages
from spider.judge.sid.figures import short

COUNTS = {"digits": 1200, "letters": 1100, "patches": 700}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    for name, count in COUNTS.items():
        pack(f"builtin:{name}", root / name, resolution=16, subset=count, encoding="raw", workers=1, progress=False)
    return root


def options(cache: Path, **chosen: object) -> NeighborOptions:
    return NeighborOptions(**({"embedding": "offline", "cache": cache, "progress": False} | chosen))


def search(packed: Path, cache: Path, out: Path, **chosen: object) -> NeighborReport:
    sources = [packed / "letters", packed / "patches"]
    return neighbors(packed / "digits", sources, out=out, options=options(cache, **chosen))


def numbers(report: NeighborReport) -> dict[str, tuple[object, ...]]:
    return {row.source: (row.curves[0].values, row.curves[0].csid_stderr, row.fd, row.kd) for row in report.rows}


def assert_same(one: NeighborReport, other: NeighborReport) -> None:
    for name, found in numbers(one).items():
        for a, b in zip(found, numbers(other)[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.fixture(scope="module")
def plain(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> NeighborReport:
    root = tmp_path_factory.mktemp("plain")
    return search(packed, root / "cache", root / "out")


def test_a_sample_of_the_features_is_as_good_as_all(packed, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(NeighborPlan, "uses_all", lambda self, dataset: False)
    assert_same(search(packed, tmp_path / "cache", tmp_path / "out"), plain)
    assert len(list((tmp_path / "cache").rglob("sample-0-*.safetensors"))) == 3


@pytest.mark.parametrize("method", ["extract", "gather", "redraw", "measure", "moments", "law", "distances"])
def test_a_piece_may_be_done_twice(method: str, packed, plain, tmp_path, monkeypatch):
    """By a worker that dies before it can say that it did it, and then by another."""
    done, real = [], getattr(NeighborWorker, method)

    def twice(self, *arguments):
        real(self, *arguments)
        done.append(arguments)
        return real(NeighborWorker(self._plan), *arguments)

    monkeypatch.setattr(NeighborPlan, "uses_all", lambda self, dataset: False)
    monkeypatch.setattr(NeighborWorker, method, twice)
    assert_same(search(packed, tmp_path / "cache", tmp_path / "out"), plain)
    assert done


def test_moments_in_parts_are_those_of_the_whole(packed, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbor_search, "_IMAGES_OF_MOMENTS", PIECE)
    assert_same(search(packed, tmp_path / "cache", tmp_path / "out"), plain)
    assert not list((tmp_path / "cache").rglob("moments-*.safetensors"))  # merged, and not kept twice


def test_paper_mode_is_found_again(packed: Path, tmp_path: Path):
    chosen = options(tmp_path / "cache", mode="paper")
    places = packed / "patches", [packed / "letters"]
    first, again = (neighbors(*places, out=tmp_path / "out", options=chosen) for _ in range(2))
    assert_same(again, first)
    assert {row.curves[0].mode for row in again.rows} == {"paper"}


def test_the_shortlist_is_the_nearest_by_screening(packed: Path, tmp_path: Path):
    many = {f"letters{i}": packed / "letters" for i in range(3)} | {"patches": packed / "patches"}
    screened = neighbors(
        packed / "digits", many, out=tmp_path / "s", options=options(tmp_path / "cache", mode="screen")
    )
    found = neighbors(packed / "digits", many, out=tmp_path / "r", options=options(tmp_path / "cache", shortlist=3))
    assert [row.measured for row in found.rows] == [True, True, True, False]
    last = found.rows[-1]
    assert last.source == screened.rows[-1].source
    assert (last.place.rank, last.place.friendly, last.fd) == (4, False, None)
    assert last.place.why.startswith("not in the shortlist of 3: ")
    line = next(line for line in found.table().splitlines() if last.source in line)
    assert line.split()[4:8] == ["-", "-", "-", "-"]  # no measure that was not made
    row = list(csv.DictReader((tmp_path / "r" / "neighbors.csv").open()))[-1]
    assert row["csid[-1]"] == ""
    assert float(row["csid_screened[-1]"]) == last.screen[0].csid


def test_screening_is_judged_by_what_was_measured(packed: Path, tmp_path: Path):
    many = {name: packed / name for name in COUNTS} | {"half": packed / "letters"}
    found = neighbors(packed / "digits", many, out=tmp_path / "out", options=options(tmp_path / "cache"))
    agreement = json.loads((tmp_path / "out" / "neighbors.json").read_text())["screening"]
    assert (agreement["sources"], agreement["measured"]) == (4, 3)  # the target itself says nothing
    assert 0 < agreement["orders"]["-1"]["relative_error"] < 0.2
    assert "rank correlation" in found.table()


def test_the_matrix_is_each_targets_own_search(packed: Path, tmp_path: Path):
    chosen = options(tmp_path / "cache", orders=(-1, 1), keep_gray=True)
    matrix = neighbor_matrix([packed / name for name in COUNTS], out=tmp_path / "matrix", options=chosen)
    alone = neighbors(packed / "digits", [packed / "letters", packed / "patches"], out=tmp_path / "one", options=chosen)
    assert_same(matrix.reports["digits"], alone)
    document = json.loads((tmp_path / "matrix" / "matrix.json").read_text())
    pairs = [(s, t) for s, of_source in document["csid"]["-1"].items() for t in of_source]
    assert len(pairs) == len(set(pairs)) == 6
    assert all(source != target for source, target in pairs)
    assert document["picks"]["-1"]["digits"] == alone.picks
    assert document["picks"]["1"].keys() == COUNTS.keys()
    assert document["csid"]["1"]["letters"]["digits"]["value"] == alone.rows[0].curves[1].csid
    rows = list(csv.DictReader((tmp_path / "matrix" / "matrix.csv").open()))
    assert [(row["target"], row["source"]) for row in rows] == [
        (target, row.source) for target, report in matrix.reports.items() for row in report.rows
    ]
    for name in ("heatmap.png", "heatmap-order1.png", "heatmap-fd.png", "digits/curves.png", "digits/picks.png"):
        with Image.open(tmp_path / "matrix" / name) as figure:
            assert min(figure.size) > 200
    assert matrix.separation()["-1"]["z"] > 2
    table = matrix.table()
    assert "*" in table
    disputed = [name for name, report in matrix.reports.items() if len(report.first_picks()) > 1]
    assert disputed
    assert f"! the rules disagree about the first pick of {', '.join(disputed)}; see TARGET/picks.png" in table


def test_the_matrix_has_the_names_that_were_given(packed: Path, tmp_path: Path):
    named = {"x": packed / "digits", "y": packed / "letters"}
    matrix = neighbor_matrix(named, out=tmp_path / "m", options=options(tmp_path / "cache", mode="screen"))
    assert json.loads((tmp_path / "m" / "matrix.json").read_text())["csid"]["-1"].keys() == {"x", "y"}
    assert matrix.row("y", "x").source == "y"
    assert (tmp_path / "m" / "x" / "neighbors.json").is_file()


def test_the_matrix_stands_alone_in_its_folder(packed: Path, tmp_path: Path):
    chosen = options(tmp_path / "cache", mode="screen", orders=(-1, 1))
    every = [packed / name for name in ("digits", "letters", "patches")]
    neighbor_matrix(every, out=tmp_path / "m", options=chosen)
    (tmp_path / "m" / "letters" / "mine.txt").touch()
    assert (tmp_path / "m" / "heatmap-order1.png").is_file()
    neighbor_matrix(every[::2], out=tmp_path / "m", options=replace(chosen, orders=(-1,)))
    assert {path.name for path in (tmp_path / "m").iterdir()} == {
        "matrix.json", "matrix.csv", "heatmap.png", "digits", "patches", "letters"
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "m" / "letters").iterdir()] == ["mine.txt"]


def test_figures_mark_the_picks_of_each_order_and_what_was_only_screened(packed: Path, tmp_path: Path, monkeypatch):
    drawn: dict[str, mock.Mock] = {name: mock.Mock() for name in ("draw_curves", "draw_heatmap")}
    for name, draw in drawn.items():
        monkeypatch.setattr(neighbor_report, name, draw)
    found = search(packed, tmp_path / "cache", tmp_path / "out", shortlist=1, orders=(-1, 1))
    rows = list(found.rows)
    no_pick = replace(rows[0].places[1], friendly=False, takes_part=False)
    rows[0] = replace(rows[0], places=[rows[0].places[0], no_pick])
    replace(found, rows=rows).write(tmp_path / "out")
    assert drawn["draw_curves"].call_args.args[3] == [[rows[0].source], []]
    assert drawn["draw_heatmap"].call_args.kwargs["framed"] == [(0, 0)]
    assert drawn["draw_heatmap"].call_args.kwargs["screened"] == [(1, 0), (1, 1)]
    assert drawn["draw_heatmap"].call_args.kwargs["dropped"] == [(0, 1)]


def test_the_target_among_its_sources_is_named_and_not_drawn(packed: Path, tmp_path: Path, monkeypatch):
    drawn: dict[str, mock.Mock] = {name: mock.Mock() for name in ("draw_curves", "draw_heatmap")}
    for name, draw in drawn.items():
        monkeypatch.setattr(neighbor_report, name, draw)
    places = [packed / "letters", packed / "digits"]
    found = neighbors(packed / "digits", places, out=tmp_path / "out", options=options(tmp_path / "cache"))
    assert list(drawn["draw_curves"].call_args.args[2]) == ["letters"]
    assert drawn["draw_heatmap"].call_args.args[2] == ["letters"]
    [line] = [line for line in found.table().splitlines() if "the target itself" in line]
    assert set(line.split()[3:-3]) == {"-"}


@pytest.mark.parametrize(("number", "shown"), [(1.0, "1.000"), (0.3055, "0.3055"), (0.0, "0"), (1234.5, "1,234")])
def test_numbers_of_a_column_have_as_many_digits(number: float, shown: str):
    assert short(number) == shown


def test_a_set_that_is_smaller_than_a_subset_is_told(packed: Path, tmp_path: Path):
    warnings = search(packed, tmp_path / "cache", tmp_path / "out", mode="screen", images=400).warnings
    assert [line.count("(400 images)") for line in warnings if "a subset has 500" in line] == [3], "one line for all"


def test_what_screening_has_on_the_wrong_side_of_0_gets_its_measure(packed: Path, tmp_path: Path, monkeypatch):
    """The nearest are near 0, where screening cannot tell the sign."""
    real = neighbor_search.closed_form

    def less(cube, source, kernels):
        return [
            replace(curve, values=-0.01 * np.abs(curve.values)) if source.count == COUNTS["letters"] else curve
            for curve in real(cube, source, kernels)
        ]

    monkeypatch.setattr(neighbor_search, "closed_form", less)
    found = search(packed, tmp_path / "cache", tmp_path / "out", shortlist=1)
    assert [(row.source, row.measured) for row in found.rows] == [("letters", True), ("patches", False)]
    assert found.picks == ["letters"]


def test_a_cache_that_cannot_be_read_is_not_a_damaged_one(packed: Path, tmp_path: Path, monkeypatch):
    search(packed, tmp_path / "cache", tmp_path / "out", mode="screen")
    kept = list((tmp_path / "cache").rglob("*.safetensors"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", mock.Mock(side_effect=OSError(24, "Too many open files")))
        with pytest.raises(OSError, match="Too many open files"):
            search(packed, tmp_path / "cache", tmp_path / "out", mode="screen")
    assert all(path.exists() for path in kept)


def test_drawn_images_travel_light_and_are_the_same_on_arrival(packed: Path):
    drawn = DrawnImages(ShardDataset(packed / "digits"), 1000, seed=4)
    expected = drawn.batch(0, 50)
    arrived = pickle.loads(pickle.dumps(drawn))
    assert len(pickle.dumps(drawn)) < len(pickle.dumps(ShardDataset(packed / "digits"))) + 500
    assert torch.equal(arrived.batch(0, 50), expected)
    drawn.close()
    assert torch.equal(drawn.batch(0, 50), expected)


def test_kept_features_that_are_damaged_are_made_again(packed: Path, plain: NeighborReport, tmp_path: Path):
    search(packed, tmp_path / "cache", tmp_path / "out")
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        if path.name.startswith("features"):
            path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
        elif path.name.startswith(("curves", "distances", "moments", "law")):
            path.unlink()
    assert_same(search(packed, tmp_path / "cache", tmp_path / "out"), plain)


def test_what_is_computed_from_features_and_damaged_is_named(packed: Path, tmp_path: Path):
    search(packed, tmp_path / "cache", tmp_path / "out")
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        if path.name.startswith("law"):
            path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
        elif path.name.startswith("distances"):
            path.unlink()
    with pytest.raises(SpiderError, match=r"its law is damaged or gone .* the same command makes it again"):
        search(packed, tmp_path / "cache", tmp_path / "out")


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"shortlist": 0}, "shortlist: .*found 0"),
        ({"images": 0}, "images: .*found 0"),
        ({"workers": 2}, "workers are those of a Ray cluster"),
        ({"orders": ("nonsense",)}, "kernel order 'nonsense'"),
    ],
)
def test_choices_that_cannot_be_are_refused(chosen: dict[str, object], words: str, tmp_path: Path):
    with pytest.raises(SpiderUsageError, match=words):
        options(tmp_path, **chosen)


def test_one_dataset_has_no_pairs(packed: Path, tmp_path: Path):
    with pytest.raises(SpiderUsageError, match="at least two"):
        neighbor_matrix([packed / "digits"], out=tmp_path, options=options(tmp_path / "cache"))
