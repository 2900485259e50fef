"""`spider toy`: the trainer on points of a plane, and what is shown of it."""

import json
import re
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from PIL import Image

from shards.points import modes, points, stored
from spider import api
from spider.config.load import load_config
from spider.errors import SpiderUsageError
from spider.toy.lab import Laboratory, Variant
from spider.toy.score import score

SMALL = ["batch=32", "generator.hidden=16", "discriminator.hidden=16", "generator.layers=1", "discriminator.layers=1"]


def real(name):
    pixels, labels, classes = points(name)
    return pixels[:, 0].astype(float) / 127.5 - 1, labels, classes


@pytest.mark.parametrize("name", ["gaussians8", "gaussians25", "unbalanced"])
def test_points_are_of_the_law_that_their_set_states(name):
    x, labels, classes = real(name)
    law = modes(name)
    assert len(classes) == len(law.centres) == labels.max() + 1
    for number, (centre, share) in enumerate(zip(law.centres, law.shares, strict=True)):
        own = x[labels == number]
        assert abs(len(own) / len(x) - share) < 0.02
        if len(own) > 500:
            assert np.abs(own.mean(axis=0) - centre).max() < 0.01
            assert abs(own.std() - np.sqrt(law.std**2 + own.mean(axis=0).std() ** 2)) < 0.01


def test_a_spiral_has_no_modes_and_stays_in_the_plane():
    x, labels, classes = real("swissroll")
    assert (modes("swissroll"), labels, classes) == (None, None, [])
    assert np.abs(x).max() < 1
    radius, angle = np.linalg.norm(x, axis=1), np.arctan2(x[:, 1], x[:, 0]) % np.pi
    expected = (angle + np.pi * np.arange(4)[:, None]) / (3 * np.pi) * 0.9  # of each half turn
    assert np.abs(np.abs(radius - expected).min(axis=0)).mean() < 0.03


def test_a_score_counts_modes_and_tells_distances():
    x, labels, _ = real("gaussians8")
    law = modes("gaussians8")
    half, other = x[:1000], x[1000:2000]
    same = score(half, other, law)
    assert same.modes == 8
    assert same.good == pytest.approx(0.989, abs=0.01)  # of a normal law in the plane, within 3 deviations
    assert same.distance < 0.05
    three = score(x[labels < 3][:1000], other, law)
    assert three.modes == 3
    assert three.distance > 0.3
    shifted = score(half + 0.5, other, law)
    assert shifted.good < 0.1
    assert shifted.distance == pytest.approx(score(other, half + 0.5, law).distance)


def test_stored_points_come_back_to_half_a_step():
    x = np.linspace(-1, 1, 501)[:, None].repeat(2, axis=1)
    assert np.abs(stored(x)[:, 0].astype(float) / 127.5 - 1 - x).max() <= 0.5 / 127.5 + 1e-9


def test_it_shows_all_variants_of_all_seeds(tmp_path):
    variants = ["plain", "SAN: objective.slicing=true", "top-k <b>: selection.kind=fixed selection.k=16"]
    found = api.toy("gaussians8", SMALL, out=tmp_path, variants=variants, seeds="0,3", kimg=0.64, frames=3)
    document = json.loads((tmp_path / "toy.json").read_text())
    assert [(each["name"], each["seed"]) for each in document["variants"]] == [
        (name, seed) for seed in (0, 3) for name in ("plain", "SAN", "top-k <b>")
    ]
    for each in document["variants"]:
        assert [row["kimg"] for row in each["rows"]] == [0, 0.32, 0.64]
        assert ("slicing/optimality" in each["rows"][-1]) == (each["name"] == "SAN")
        assert all(-1 <= row["optimality"] <= 1 for row in each["rows"])
        assert each["config"]["objective"]["slicing"] == (each["name"] == "SAN")
        assert each["config"]["data"]["path"] == "builtin:gaussians8"
    with Image.open(tmp_path / "toy.gif") as movie:
        assert movie.n_frames >= 3
    page = (tmp_path / "report.html").read_text()
    assert "data:image/gif;base64" in page
    assert "top-k &lt;b&gt;" in page
    assert "<b>" not in page
    assert re.search(r"mean, lowest and highest over 2 seeds", page)
    *lines, last = found.text().splitlines()
    assert last == f"look at {tmp_path / 'report.html'}"
    assert len(lines) == 6 + 2 * 4  # each variant and seed; and two variants minus the first, by four measures
    ends = {(each["name"], each["seed"]): each["rows"][-1]["distance"] for each in document["variants"]}
    apart = fmean(ends["SAN", seed] - ends["plain", seed] for seed in (0, 3))
    assert any(line.startswith(f"SAN minus plain, energy distance: {apart:+.3g}. 95 % interval of") for line in lines)
    assert "SAN minus plain, energy distance" in page
    with Image.open(tmp_path / "seeds.png") as figure:
        assert figure.width > figure.height


def test_variants_that_come_to_the_same_are_called_identical(tmp_path):
    found = api.toy(
        "gaussians8", SMALL, out=tmp_path, variants=["plain", "again: batch=32"], seeds="0-1", kimg=0.064, frames=2
    )
    differences = found.text().splitlines()[4:-1]
    assert len(differences) == 4
    assert all(re.fullmatch("again minus plain, .*: identical", line) for line in differences)


def test_optimality_is_that_of_the_training_and_measured_without_san_too(tmp_path):
    """With SAN the trainer logs it of one batch, the toy of 1,000 points."""
    found = api.toy("gaussians8", [*SMALL, "batch=256"], out=tmp_path, kimg=10.24, frames=5)
    for each in found.variants:
        assert each.outcome("optimality") == pytest.approx(fmean(row["optimality"] for row in each.rows[3:]))
        assert each.outcome("distance") == each.rows[-1]["distance"]
    plain, san = (each.rows[-1] for each in found.variants)
    assert san["optimality"] == pytest.approx(san["slicing/optimality"], abs=0.2)
    assert -1 < plain["optimality"] < 1
    assert "slicing/optimality" not in plain


def test_a_discriminator_without_a_last_layer_has_no_direction(tmp_path):
    variants = ["exact: discriminator.kind=poly objective.kind=wasserstein"]
    found = api.toy("swissroll", ["batch=32"], out=tmp_path, variants=variants, kimg=0.32, frames=2)
    assert found.variants[0].rows[-1]["optimality"] is None


def test_drawing_is_told(tmp_path, capsys):
    api.toy("swissroll", SMALL, out=tmp_path, variants=["plain"], kimg=0.064, frames=2, progress=True)
    assert "toy: drawing 2 frames\n" in capsys.readouterr().err


def test_the_same_seed_learns_the_same(tmp_path):
    rows = []
    for name in ("a", "b"):
        found = api.toy("swissroll", SMALL, out=tmp_path / name, variants=["plain"], kimg=0.32, frames=2)
        rows.append(found.variants[0].rows)
    assert rows[0] == rows[1]
    assert rows[0][-1]["modes"] is None


@pytest.mark.parametrize(
    ("plane", "given", "said"),
    [
        ("gausians8", {}, "plane 'gausians8' is unknown; .*did you mean gaussians8"),
        ("gaussians8", {"variants": ["batch=3"]}, r"--variant batch=3: write NAME: KEY=VALUE"),
        ("gaussians8", {"variants": ["a", "a: batch=64"]}, "the name a is given twice"),
        ("gaussians8", {"variants": []}, "1 to 6 variants, found 0"),
        ("gaussians8", {"variants": ["a: objectiv.kind=hinge"]}, r"objectiv.*did you mean"),
        ("gaussians8", {"overrides": ["data.path=builtin:digits"]}, "no points of a plane"),
        ("gaussians8", {"frames": 1}, "frames: a whole number from 2"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, plane, given, said):
    with pytest.raises(SpiderUsageError, match=said):
        api.toy(plane, out=tmp_path, **given)


@pytest.mark.parametrize(
    ("k", "said"), [([128, 128], "k stayed 128: D did not overfit"), ([128, 37], "k fell to 37 of 128")]
)
def test_what_adaptive_top_k_came_to_is_said(k, said):
    config = load_config("toy", ["data.path=points", "selection.kind=adaptive"])
    row = {"kimg": 1.0, "optimality": None, "distance": 0.5}
    variant = Variant("ATop-k", 0, config, [{**row, "selection/k_now": each} for each in k])
    assert Laboratory(None, [variant], [Path("page")]).text().splitlines()[0].endswith(said)
