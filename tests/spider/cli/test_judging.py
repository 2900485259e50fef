"""spider evaluate, generate, interpolate."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from shards import progress
from spider.gan.outputs import Condition
from spider.gan.pixels import to_uint8
from spider.gan.sources.config import GaussianConfig, ImagesConfig
from spider.gan.sources.frozen import BLOCK
from spider.gan.sources.gaussian import Gaussian
from spider.gan.sources.images import Images
from spider.judge import evaluation
from spider.judge.embed.load import load_embedding
from spider.pictures.generate import _from_files
from spider.pictures.interpolate import Interpolation, _run, stages
from spider.pictures.steps import grid_steps, loop_steps, measure_steps
from spider.pictures.ways import grid_weights, loop_weights
from spider.runs.generator import open_generator

OFFLINE = ["--embedding", "offline", "--count", "100"]


def pixels(path):
    return np.asarray(Image.open(path))


def opened(run):
    return open_generator(str(run), torch.device("cpu"))


class Bare:
    """A stage whose images are what it is fed."""

    device = torch.device("cpu")
    noises = ()

    def __init__(self, source):
        self.source = source

    def __call__(self, fed, condition):
        return fed

    def condition_at(self, seed, indices, label=None):
        return Condition()


# ------------------------------------------------------------------------------------------------------------ evaluate


def test_a_run_is_measured_under_every_seed(spider, runs, tmp_path):
    words = ["evaluate", runs / "gaussian@0.08", *OFFLINE, "--seeds", "3", "--metrics", "fid,recall"]
    done = spider(*words, "--out", tmp_path / "result.json", "--json")
    assert done.code == 0, done.err
    assert done.json == json.loads((tmp_path / "result.json").read_text())
    assert [(each["label"], each["seeds"]) for each in done.json["summary"]] == [
        ("FD[offline]", [0, 1, 2]),
        ("recall[offline]", [0, 1, 2]),
        ("nearest training[offline]", [0, 1, 2]),  # with the page that a run of few images gets
    ]
    assert len({each["value"] for each in done.json["results"][::3]}) == 3
    assert done.json["provenance"]["images"] == 80
    assert done.json["provenance"]["versions"].keys() >= {"spider", "torch"}


def test_a_reference_of_training_images_is_said(spider, runs, patches):
    words = ["evaluate", runs / "gaussian", *OFFLINE, "--seeds", "1", "--metrics", "fid"]
    assert "the reference is the run's own training images" in spider(*words).out
    features = ["--reference-out", runs.parent / "digits.npz", "--metrics", "fid,nearest"]
    images = spider(*words, *features, "--json").json
    with np.load(features[1]) as file:
        np.save(runs.parent / "shuffled.npy", np.random.default_rng(0).permutation(file["feats"]))
    for file in (features[1], runs.parent / "shuffled.npy"):
        given = spider(*words, "--reference", file, *features[2:], "--json").json
        assert given["summary"][1]["mean"] == images["summary"][1]["mean"], "it holds nothing out either"
        assert given["provenance"]["reference"] == images["provenance"]["reference"] == "training"
    given = spider(*words, "--reference", patches)
    assert "own training images" not in given.out
    assert "against patches (200 images)" in given.out


def test_sets_of_images_are_measured_against_each_other(spider, digits, photos):
    same = spider("evaluate", digits, "--reference", digits, "--embedding", "offline", "--metrics", "fid", "--json")
    assert same.json["results"][0]["value"] == pytest.approx(0, abs=1e-6)
    other = spider("evaluate", photos, "--reference", digits, "--embedding", "offline", "--metrics", "fid")
    assert "photos (10 images) against digits (300 images)" in other.out


def test_another_size_than_the_references_is_said(spider, runs, digits, tmp_path):
    spider("pack", digits, tmp_path / "larger", "--resolution", "16")
    words = ["evaluate", runs / "gaussian", *OFFLINE, "--seeds", "1", "--metrics", "fid", "--reference"]
    assert "! the images are 8x8 grey, the reference 16x16 grey" in spider(*words, tmp_path / "larger").out
    assert spider(*words, tmp_path / "larger", "--json").json["provenance"]["notes"]
    assert "reference 8x8" not in spider(*words, digits).out


def test_a_training_says_that_its_reference_has_another_size(spider, digits, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    spider("pack", digits, tmp_path / "larger", "--resolution", "16")
    measured = ["evaluate.every_kimg=0.04", "evaluate.embedding=offline", "evaluate.count=16"]
    words = ["--data", digits, "--kimg", "0.08", *tiny, *measured, f"evaluate.reference={tmp_path / 'larger'}"]
    done = spider("train", "dcgan", "--run", tmp_path / "run", *words)
    assert done.err.count("warning: the images are 8x8 grey, the reference 16x16 grey") == 1
    assert len(re.findall(r"warning: FD\[offline\]: .*\d samples and .* are few", done.err)) == 1, (
        "that so few images are biased, as evaluate says"
    )
    assert "features of run@000000.040-kimg: 100% 1/1 block" in done.err
    assert "evaluation seed 2 of 2: 100% 2/2 seed" in spider("evaluate", tmp_path / "run", *OFFLINE, "--seeds", "2").err
    [first, *_] = sorted((tmp_path / "run" / "evaluations").iterdir())
    assert json.loads(first.read_text())["provenance"]["notes"]


def test_a_run_of_few_images_gets_a_memorisation_page(spider, runs, digits, patches, tmp_path, monkeypatch):
    """In the run, beside the results, or where the figures go; without its images, it says that there is none."""
    run = tmp_path / "run"
    shutil.copytree(runs / "gaussian", run)
    words = ["evaluate", run, *OFFLINE, "--seeds", "1", "--metrics", "fid", "--reference", patches]
    page_file = "memorisation-offline.png"
    places = {
        run / "evaluations" / f"000000.160-kimg-{page_file}": [],
        tmp_path / f"result-{page_file}": ["--out", tmp_path / "result.json"],
        tmp_path / "figures" / page_file: ["--figures", tmp_path / "figures", "--out", tmp_path / "b.json"],
    }
    for page, more in places.items():
        done = spider(*words, *more)
        assert done.out.splitlines()[-1] == f"are they copies? look at {page}"
        assert pixels(page).shape[1] > 1000
    dim = load_embedding("offline").dim
    np.savez(tmp_path / "moments.npz", mu=np.zeros(dim), sigma=np.eye(dim))
    done = spider(*words[:-1], tmp_path / "moments.npz")
    assert f"! no memorisation page: {tmp_path / 'moments.npz'} holds mu and sigma" in done.out
    monkeypatch.setattr(evaluation, "FEW_IMAGES", 300)  # as many as the digits are
    done = spider(*words, "--json").json
    assert done["provenance"]["memorisation_page"] is None
    assert [each["name"] for each in done["summary"]] == ["fid"]
    monkeypatch.undo()
    (run / "inputs.json").write_text((run / "inputs.json").read_text().replace(str(digits), "/nowhere"))
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(digits), "/nowhere"))
    done = spider(*words)
    assert done.code == 0, done.err
    assert "! no memorisation page: " in done.out


# ------------------------------------------------------------------------------------------------------------ generate


def test_image_n_is_the_same_whatever_else_is_asked_for(spider, runs, tmp_path):
    last = BLOCK + 5
    spider("generate", runs / "patches", "--out", tmp_path / "many", "--seeds", f"0-{last}")
    spider("generate", runs / "patches", "--out", tmp_path / "few", "--seeds", f"{last},7")
    assert len(list((tmp_path / "many").iterdir())) == last + 1
    for number in (7, last):
        name = f"seed{number:06d}.png"
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
    evaluated = opened(runs / "patches").numbered("", 0, last + 1).batch(last, last + 1)
    assert np.array_equal(pixels(tmp_path / "few" / f"seed{last:06d}.png"), evaluated[0, 0].numpy())


def test_a_zip_has_the_same_bytes_every_time(spider, runs, tmp_path):
    for name in ("a.zip", "b.zip"):
        assert spider("generate", runs / "gaussian", "--out", tmp_path / name, "--seeds", "0-9").code == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [f"seed{number:06d}.png" for number in range(10)]
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}  # not that of the day
    assert not list(tmp_path.glob(".*"))


def test_a_given_source_image_takes_the_place_of_the_sources_own(spider, runs, patches, tmp_path):
    """A file with the very image that the source has at number 3 is fed with that number's noise, and once."""
    source = opened(runs / "patches").source
    Image.fromarray(to_uint8(source.images_at(0, [3]))[0, 0].numpy()).save(tmp_path / "three.png")
    [part] = _from_files(Bare(source), [3], [tmp_path / "three.png"])
    torch.testing.assert_close(part.images, source.at(0, [3]), atol=1 / 127, rtol=0)

    words = ["--source-image", tmp_path / "three.png", "--seeds", "3,3", "--grid", tmp_path / "grid.png", "--json"]
    made = spider("generate", runs / "patches", "--out", tmp_path / "made", *words).json
    assert made["files"] == ["three-seed000003.png"]
    height, width, _ = pixels(tmp_path / "grid.png").shape
    assert width == 64 + 8 + 64  # source, gap, output
    assert height >= 64 + 15 + 15  # seed; legend, in as many lines as it needs


# --------------------------------------------------------------------------------------------------------- interpolate


@pytest.mark.parametrize(("run", "stage"), [("gaussian", 1), ("patches", 1), ("cascade", 1), ("cascade", 2)])
def test_the_corners_are_the_images_of_those_numbers(runs, run, stage):
    generator = opened(runs / run)
    numbers = [2, 3, 5, 8]
    blend = "spherical" if stage == 1 and run != "patches" else "linear"
    blocks = _run(stages(generator)[stage - 1 :], numbers, grid_weights(4), blend, Condition(), "z")
    images = torch.cat([made for made, _ in blocks])
    torch.testing.assert_close(images[[0, 3, 12, 15]], generator.images(0, numbers), atol=1e-5, rtol=0)


def test_a_loop_visits_every_input_and_comes_back():
    weights = loop_weights(3, 4)
    assert torch.equal(weights[::4], torch.eye(3))
    torch.testing.assert_close(weights[10], torch.tensor([0.5, 0.0, 0.5]))
    torch.testing.assert_close(weights.sum(1), torch.ones(12))


def test_a_spherical_blend_of_normal_vectors_is_normal():
    stage = Bare(Gaussian(GaussianConfig(dim=50_000)))
    fed = {
        blend: next(_run([stage], [0, 1, 2, 3], grid_weights(5), blend, Condition(), "z"))[0]
        for blend in ("spherical", "linear")
    }
    torch.testing.assert_close(fed["spherical"].std(1), torch.ones(25), atol=0.02, rtol=0)
    assert fed["linear"][12].std() < 0.51  # the middle: half as long as anything drawn


def test_images_blend_pixel_by_pixel_and_their_noise_keeps_its_deviation(patches):
    config = ImagesConfig(path=str(patches), noise_std=0.25)
    source = Images(config, (3, 64, 64), torch.device("cpu"))
    fed, clean = next(_run([Bare(source)], [0, 1, 2, 3], grid_weights(3), "linear", Condition(), "image"))
    torch.testing.assert_close(clean[4], source.images_at(0, [0, 1, 2, 3]).mean(0))
    torch.testing.assert_close((fed - clean).flatten(1).std(1), torch.full((9,), 0.25), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["gaussian"], ("z", 1, "spherical")),
        (["gaussian", "--blend", "linear"], ("z", 1, "linear")),
        (["patches"], ("image", 1, "linear")),
        (["cascade"], ("z", 1, "spherical")),
        (["cascade", "--space", "image"], ("image", 2, "linear")),
    ],
)
def test_where_to_interpolate_follows_from_the_cascade(spider, runs, tmp_path, words, found):
    run, *options = words
    done = spider("interpolate", runs / run, "--out", tmp_path / "grid.png", "--steps", "3", *options, "--json")
    assert tuple(done.json[key] for key in ("space", "stage", "blend")) == found
    assert done.json["images"] == 9


@pytest.mark.parametrize(
    ("numbers", "classes", "told"),
    [
        ([3, 3], ["A", "H"], "the classes A, H at seed 3"),
        ([1, 2], ["A", "H"], "the vectors (spherical) and the classes A, H"),
        ([1, 2], ["A", "A"], "the vectors (spherical)"),
        ([1, 2], [], "the vectors (spherical)"),
    ],
)
def test_what_is_blended_is_what_differs(numbers, classes, told):
    assert Interpolation("a.png", "z", 1, "spherical", numbers, 9, classes).blended() == told


def test_a_stage_is_named_where_there_are_several(spider, runs, tmp_path):
    """A generator that grew by stages is one generator."""
    for run, said in (
        ("gaussian", "the vectors (spherical)"),
        ("cascade", "the vectors (spherical) fed to stage 1 of 2"),
    ):
        done = spider("interpolate", runs / run, "--out", tmp_path / f"{run}.png", "--steps", "3")
        assert done.out.rstrip().endswith(f", blending {said}")


def test_the_images_of_a_grid_can_be_had_by_themselves(spider, runs, tmp_path):
    words = ["interpolate", runs / "gaussian", "--steps", "3"]
    assert spider(*words, "--out", tmp_path / "grid.png").code == 0
    assert spider(*words, "--out", tmp_path / "folder").code == 0
    assert len(list((tmp_path / "folder").iterdir())) == 9
    grid = pixels(tmp_path / "grid.png")
    top, left = 16 + (64 + 14 + 16), 16 + 2 * (64 + 16)  # the second row's third image
    small = grid[top : top + 64 : 8, left : left + 64 : 8, 0]
    assert np.array_equal(small, pixels(tmp_path / "folder" / "r2c3.png"))
    spider("generate", runs / "gaussian", "--seeds", "1", "--out", tmp_path / "one")
    corner = pixels(tmp_path / "folder" / "r1c3.png").astype(int)
    assert abs(corner - pixels(tmp_path / "one" / "seed000001.png")).max() <= 1


def brightness(a, b):
    return (a - b).abs().mean((1, 2, 3))


brightness.label = "light"


def test_the_longest_step_of_a_way_is_found_and_named():
    light = torch.tensor([0.0, 0.1, 0.3, 0.1, 0.2, 0.9, 0.2, 0.3, 0.6])[:, None, None, None].expand(-1, 1, 2, 2)
    places = [f"r{row}c{column}" for row in (1, 2, 3) for column in (1, 2, 3)]
    found = measure_steps(light, places, grid_steps(3), (0, 2, 6, 8), brightness)
    assert len(found.values) == 12
    assert (found.largest, max(found.values)) == (("r2c2", "r2c3"), pytest.approx(0.7))
    assert found.mean == pytest.approx((0.1 + 0.2 + 0.1 + 0.7 + 0.1 + 0.3 + 0.1 + 0.1 + 0.6 + 0.1 + 0.1 + 0.3) / 12)
    assert found.between_inputs == pytest.approx((0.3 + 0.2 + 0.6 + 0.1 + 0.3 + 0.4) / 6)
    around = measure_steps(light[:4], "abcd", loop_steps(4), (0, 2), brightness)
    assert around.values == pytest.approx([0.1, 0.2, 0.2, 0.1])
    said = "light from an image to the next: 0.15 on average, 0.2 at most (b to c); 0.3 between the inputs"
    assert around.told() == said


def test_steps_of_grids_and_loops_are_measured_where_asked_for(spider, runs, tmp_path):
    words = ["interpolate", runs / "gaussian", "--steps", "3"]
    grid = spider(*words, "--out", tmp_path / "grid.png", "--distance", "efficientnet", "--json").json["steps"]
    assert (grid["label"], len(grid["values"])) == ("PD[efficientnet]", 12)
    assert 0 < max(grid["values"]) < 4
    loop = spider(*words, "--out", tmp_path / "loop.gif", "--seeds", "0,1", "--distance", "efficientnet")
    assert "PD[efficientnet] from an image to the next: " in loop.out
    assert spider(*words, "--out", tmp_path / "grid.png", "--json").json["steps"] is None
    refused = spider(*words, "--out", tmp_path / "grid.png", "--weights", "w.pth")
    assert (refused.code, refused.error) == (2, "error: --weights w.pth: of a --distance or of --instance only")


def test_a_gif_has_all_frames(spider, runs, tmp_path):
    words = ["interpolate", runs / "patches", "--out", tmp_path / "loop.gif", "--seeds", "0-2", "--steps", "4"]
    assert spider(*words).code == 0
    with Image.open(tmp_path / "loop.gif") as movie:
        assert (movie.n_frames, movie.info["loop"], movie.info["duration"]) == (12, 0, 80)
    assert spider(*words, "--fps", "50").code == 0
    with Image.open(tmp_path / "loop.gif") as movie:
        assert (movie.n_frames, movie.info["duration"]) == (12, 20)
    refused = spider(*words, "--fps", "60")
    assert refused.error == "error: --fps 60: a .gif has at most 50 frames a second; .mp4 takes more"


def test_mp4_is_ffmpegs_and_says_so(spider, runs, tmp_path, monkeypatch):
    words = ["interpolate", runs / "gaussian", "--out", tmp_path / "loop.mp4", "--seeds", "0,1", "--steps", "3"]
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = spider(*words)
    assert refused.code == 1
    assert refused.error.endswith(".mp4 needs ffmpeg on PATH, and there is none; .gif needs nothing")

    fake = tmp_path / "ffmpeg"  # writes what it is sent into its last argument
    fake.write_text('#!/bin/sh\nfor last; do :; done\n/bin/cat > "$last"\n')
    fake.chmod(0o755)
    assert spider(*words).code == 0
    assert os.path.getsize(tmp_path / "loop.mp4") == 6 * 64 * 64 * 3
