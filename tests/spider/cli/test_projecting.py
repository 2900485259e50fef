"""spider project."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from shards.pack import pack
from spider.data import open_images
from spider.pictures import project
from spider.pictures.projection.targets import read_targets
from spider.runs.generator import open_generator

LABEL = "PD[efficientnet]"
QUICK = ["--steps", "2", "--samples", "2"]


@pytest.fixture(scope="module")
def given(spider, runs, tmp_path_factory):
    """Three images of the run `gaussian`, the third of them larger and in colour."""
    folder = tmp_path_factory.mktemp("given")
    assert spider("generate", runs / "gaussian", "--seeds", "40,41,42", "--out", folder).code == 0
    with Image.open(folder / "seed000042.png") as image:
        image.convert("RGB").resize((24, 16)).save(folder / "seed000042.png")
    return folder


@pytest.fixture(scope="module")
def found(spider, runs, given, tmp_path_factory):
    """What a projection of them leaves, and what it says."""
    out = tmp_path_factory.mktemp("found")
    words = [*QUICK, "--tune", "2", "--video", "gif", "--json"]
    done = spider("project", runs / "gaussian", given, "--out", out, *words)
    assert done.code == 0, done.err
    return out, done.json


def test_every_image_leaves_its_files(found):
    out, said = found
    assert said == json.loads((out / "project.json").read_text())
    assert list(said["images"]) == ["seed000040", "seed000041", "seed000042"]
    ends = ("", "-target", "-nearest", "-tuned")
    files = {f"{name}{end}.png" for name in said["images"] for end in ends} | {"projections.png", "ways.png"}
    files |= {f"{name}{end}" for name in said["images"] for end in (".npz", ".gif", "-tuned.safetensors")}
    assert {file.name for file in out.iterdir()} == files | {"project.json"}
    for name, each in said["images"].items():
        near, search, tuned = (each[key] for key in ("nearest", "projection", "tuned"))
        assert near.keys() == {LABEL, "L2"}
        assert near[LABEL] + near["L2"] >= search[LABEL] + search["L2"] >= tuned[LABEL] + tuned["L2"]
        arrays = np.load(out / f"{name}.npz")
        assert (len(arrays["way"]), len(arrays["way_tuned"])) == (3, 3)
        assert arrays["way"][0] == pytest.approx(near[LABEL], rel=1e-3)
        with Image.open(out / f"{name}.gif") as movie:
            assert movie.n_frames > 1


def test_an_image_has_the_result_that_it_has_alone(spider, runs, given, found, tmp_path):
    out, _ = found
    words = [*QUICK, "--tune", "2"]
    assert spider("project", runs / "gaussian", given / "seed000041.png", "--out", tmp_path, *words).code == 0
    for end in (".png", ".npz", "-nearest.png", "-tuned.safetensors"):
        assert (tmp_path / f"seed000041{end}").read_bytes() == (out / f"seed000041{end}").read_bytes()


def test_what_was_found_is_generated_again(spider, runs, found, tmp_path):
    out, _ = found
    points = [word for name in ("seed000040", "seed000041") for word in ("--point", out / f"{name}.npz")]
    assert spider("generate", runs / "gaussian", "--out", tmp_path, *points).code == 0
    for name in ("seed000040.png", "seed000041.png"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    tuned = ["--tuned", out / "seed000041-tuned.safetensors"]
    assert spider("generate", runs / "gaussian", "--out", tmp_path, *points[2:], *tuned).code == 0
    assert (tmp_path / "seed000041.png").read_bytes() == (out / "seed000041-tuned.png").read_bytes()


def test_an_interrupt_leaves_what_is_done_and_the_same_command_goes_on(
    spider, runs, given, found, tmp_path, monkeypatch
):
    words = ["project", runs / "gaussian", given, "--out", tmp_path / "out", *QUICK]
    real, calls = project.search, []

    def search(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(project, "search", search)
    assert spider(*words).code == 130
    assert list(json.loads((tmp_path / "out" / "project.json").read_text())["images"]) == ["seed000040"]
    assert {"projections.png", "ways.png"} < {file.name for file in (tmp_path / "out").iterdir()}
    assert spider(*words).code == 0
    assert len(calls) == 4
    assert spider(*words).code == 0
    assert len(calls) == 4
    for name in ("seed000040", "seed000042"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes() == (found[0] / f"{name}.png").read_bytes()
    (tmp_path / "out" / "seed000041.png").unlink()
    assert spider(*words).code == 0
    assert len(calls) == 5
    for option, key in (("--seed", "seed"), ("--samples", "samples"), ("--steps", "steps"), ("--tune", "tune")):
        refused = spider(*words, option, "3")
        assert refused.code == 2
        assert f"holds projections with {key} " in refused.error
        assert "asked for is 3; name another folder" in refused.error


def test_images_are_made_as_pack_makes_them(given, photos, tmp_path):
    pack(photos, tmp_path / "packed", resolution=8, workers=1, progress=False)
    dataset = open_images(tmp_path / "packed")
    targets = read_targets([photos], (3, 8, 8))
    pixels, _ = dataset.read_batch(range(len(dataset)))
    assert {each.name: each.pixels.tobytes() for each in targets} == {
        dataset.key(number).replace("/", "-"): pixels[number].tobytes() for number in range(len(dataset))
    }
    [wide] = read_targets([given / "seed000042.png"], (1, 8, 8))
    with Image.open(given / "seed000042.png") as image:
        middle = image.convert("L").crop((4, 0, 20, 16)).resize((8, 8), Image.Resampling.BOX)
    assert abs(wide.pixels[0].astype(int) - np.asarray(middle)).max() <= 1
    assert [each.name for each in read_targets([tmp_path / "packed"], (3, 8, 8))] == [each.name for each in targets]


def test_a_source_image_is_found_for_a_run_that_is_fed_images(spider, runs, given, tmp_path):
    words = ["project", runs / "patches", given / "seed000040.png", "--out", tmp_path / "out", *QUICK]
    done = spider(*words)
    assert done.code == 0, done.err
    assert "searched in source" in done.out
    assert "look at " in done.out
    run = open_generator(str(runs / "patches"), torch.device("cpu"))
    assert np.load(tmp_path / "out" / "seed000040.npz")["source"].shape == tuple(run.source.shape)


def test_a_find_that_is_farther_than_the_nearest_sample_is_told():
    def done(nearest, found):
        near, projection = ({LABEL: distance, "L2": 0.1} for distance in (nearest, found))
        return {"nearest": near, "projection": projection, "tuned": None}

    asked = {"distance": LABEL, "space": "w", "samples": 2, "steps": 5}
    images = {"worse": done(0.2, 0.3), "better": done(0.3, 0.2), "same": done(0.2, 0.2)}
    lines = project.Projections("out", asked, [*images], images, {}).table().splitlines()
    [line] = [line for line in lines if line.startswith("! ")]
    assert line.startswith("! worse: what was found is farther than the nearest sample: more steps")
    assert "here 5); or --space w+" in line


@pytest.fixture(scope="module")
def told(spider, digits, tiny, tmp_path_factory):
    """A run that is told classes."""
    run = tmp_path_factory.mktemp("told") / "run"
    assert spider("train", "dcgan-class", "--data", digits, "--run", run, "--kimg", "0.016", *tiny).code == 0
    return run


def test_a_class_is_asked_for_where_the_generator_is_told_one(spider, told, given, tmp_path):
    words = ["project", told, given, "--out", tmp_path / "out", *QUICK]
    refused = spider(*words)
    assert (refused.code, "name one for all images, or one for each: 0, 1, 2" in refused.error) == (2, True)
    refused = spider(*words, "--class", "1", "--class", "2")
    assert (refused.code, "2 classes for 3 images" in refused.error) == (2, True)
    done = spider(*words, "--class", "7", "--class", "8", "--class", "9", "--json")
    assert done.code == 0, done.err
    assert [each["label"] for each in done.json["images"].values()] == ["7", "8", "9"]
    again = ["generate", told, "--out", tmp_path / "again", "--point", tmp_path / "out" / "seed000041.npz"]
    assert spider(*again).code == 0
    made = (tmp_path / "again" / "seed000041.png").read_bytes()
    assert made == (tmp_path / "out" / "seed000041.png").read_bytes()
    number = done.json["images"]["seed000041"]["number"]
    sample = ["generate", told, "--out", tmp_path / "again", "--class", "8", "--seeds", f"{number}"]
    assert spider(*sample).code == 0
    made = (tmp_path / "again" / f"class0008-seed{number:06d}.png").read_bytes()
    assert made == (tmp_path / "out" / "seed000041-nearest.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("gaussian {given} --space w", 2, r"--space w: this generator has no mapping network; it has z"),
        ("gaussian {given} --space source", 2, r"--space source: this generator is fed vectors; it has z"),
        ("patches {given} --space z", 2, r"--space z: this generator is fed images; it has source"),
        ("gaussian {given} --class 3", 2, r"--class: class 3: the generator was trained without classes"),
        ("gaussian {given}/none.png", 2, r"none\.png: no such file"),
        ("gaussian {given} {given}/seed000041.png", 2, r"2 images are called seed000041"),
        ("gaussian {empty}", 2, r"holds no image"),
        ("gaussian {text}", 1, r"text\.png: not an image"),
        ("gaussian {given} --distance lpips", 2, r"distance 'lpips' is unknown"),
        ("gaussian {given} --steps 0", 2, r"steps: a whole number from 1"),
        ("gaussian {given} --video mp4", 1, r"\.mp4 needs ffmpeg"),
        ("gaussian {ways}", 2, r"an image is called ways; its files would be the figure's"),
        ("gaussian {given}/seed000041.png {beside}", 2, r"seed000041-target; its files would be those of seed000041"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(spider, runs, given, tmp_path, monkeypatch, words, code, said):
    places = {"given": given, "empty": tmp_path / "empty", "text": tmp_path / "text.png"}
    places |= {"ways": tmp_path / "ways.png", "beside": tmp_path / "seed000041-target.png"}
    places["empty"].mkdir()
    places["text"].write_text("text")
    for name in ("ways", "beside"):
        places[name].write_bytes((given / "seed000040.png").read_bytes())
    monkeypatch.setenv("PATH", str(tmp_path))
    run, *rest = words.format(**places).split()
    refused = spider("project", runs / run, *rest, "--out", tmp_path / "out")
    assert refused.code == code, refused.err
    assert refused.error.startswith("error: ")
    assert re.search(said, refused.error), refused.error


def test_a_point_that_cannot_be_is_said_in_a_line(spider, runs, found, given, tmp_path):
    out, _ = found
    words = ["generate", runs / "gaussian", "--out", tmp_path / "made", "--point"]
    np.savez(tmp_path / "short.npz", z=np.zeros(3, np.float32))
    np.savez(tmp_path / "nan.npz", z=np.full(100, np.nan, np.float32))
    np.savez(tmp_path / "objects.npz", z=np.array([print]))
    (tmp_path / "text.npz").write_text("text")
    for name, said in (
        ("short", "z has shape [3]; needed: [100]"),
        ("nan", "z must be of finite floats"),
        ("objects", "no .npz file, or a damaged one"),
        ("text", "no .npz file, or a damaged one"),
        ("none", "No such file"),
    ):
        refused = spider(*words, tmp_path / f"{name}.npz")
        assert (refused.code, said in refused.error) == (1, True), refused.error
    refused = spider("generate", runs / "patches", "--out", tmp_path / "made", "--point", out / "seed000041.npz")
    assert "needed: source" in refused.error
    refused = spider(*words, out / "seed000041.npz", "--seeds", "3")
    assert (refused.code, "--seeds: not with --point" in refused.error) == (2, True)
    refused = spider(*words, out / "seed000041.npz", "--tuned", given / "seed000041.png")
    assert (refused.code, "is not a file of tensors alone" in refused.error) == (1, True)
    other = spider(
        "generate", runs / "patches", "--out", tmp_path / "m", "--tuned", out / "seed000041-tuned.safetensors"
    )
    assert (other.code, "not weights of this generator" in other.error) == (1, True)
