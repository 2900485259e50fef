"""What is exported is the run's averaged generator; in ONNX it makes the same images."""

from __future__ import annotations

import json
import sys

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from spider import api
from spider.errors import SpiderUsageError
from spider.exchange import exporting
from spider.gan.saved import saved_tensors
from spider.runs.generator import open_generator

CPU = torch.device("cpu")
QUICK = [
    "batch=4",
    "log.samples=4",
    "log.tensorboard=false",
    "discriminator.width=0.05",
    "objective.kind=non_saturating",
]
GENERATORS = {
    "dcgan": ["generator.width=0.05", "condition.kind=class"],
    "r3gan": ["generator.kind=r3gan", "generator.width=0.05"],
    "stylegan2": [
        *("generator.kind=stylegan2", "generator.channel_base=64", "generator.w_dim=16", "generator.mapping_layers=2"),
        *("condition.kind=class", "generator.bf16_resolutions=1"),
    ],
    **{
        f"stylegan3-{equivariance}": [
            *("generator.kind=stylegan3", f"generator.equivariance={equivariance}", "generator.channel_base=64"),
            *("generator.w_dim=16", "generator.mapping_layers=2", "generator.layers=3", "generator.margin=3"),
            "condition.kind=class",
        ]
        for equivariance in ("translation", "rotation")
    },
}


@pytest.fixture(scope="module")
def runs(digits, tmp_path_factory):
    """One step of each generator."""
    folder = tmp_path_factory.mktemp("exported")
    for kind, overrides in GENERATORS.items():
        api.train("dcgan", folder / kind, data=digits, kimg=0.004, overrides=[*QUICK, *overrides])
    return folder


def test_without_onnx_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    monkeypatch.setattr(exporting.platform, "machine", lambda: "x86_64")
    file = f"py3{sys.version_info.minor}-linux-x86_64.txt"
    with pytest.raises(
        SpiderUsageError, match=rf"onnx and onnxscript, .* pip install -e .\[onnx\] -c constraints/{file}$"
    ):
        exporting._require_packages()
    monkeypatch.setattr(exporting.platform, "machine", lambda: "other")
    with pytest.raises(SpiderUsageError, match=r"\[onnx\]$"):
        exporting._require_packages()


def test_weights_are_no_pickle_and_begin_a_training(tmp_path):
    file = tmp_path / "b.safetensors"
    file.touch()
    with pytest.raises(SpiderUsageError, match=rf"no pickle: a training begins with them by .* --init {file}$"):
        api.import_pickle(file, tmp_path / "out")


@pytest.mark.parametrize("kind", GENERATORS)
def test_the_weights_are_those_of_the_average(runs, kind, tmp_path):
    files = api.export(runs / kind, tmp_path / "out")
    assert [file.name for file in files] == ["generator.safetensors", "generator.json"]
    frozen = open_generator(str(runs / kind), CPU)
    mine = saved_tensors(frozen.module)
    found = load_file(files[0])
    assert found.keys() == mine.keys()
    assert all(torch.equal(found[name], mine[name]) for name in mine)
    about = json.loads(files[1].read_text())
    assert about["generator"]["kind"] == kind.split("-")[0]
    assert about["digest"] == frozen.digest
    assert about["images"]["shape"] == ["N", 1, 8, 8]


def test_a_training_begins_with_what_was_exported(runs, digits, tmp_path):
    api.export(runs / "r3gan", tmp_path / "out")
    with pytest.raises(SpiderUsageError, match=r"exported weights: spider train --init .*/out/generator\.safetensors"):
        api.train("r3gan-32", tmp_path / "refused", data=digits, init=tmp_path / "out")
    init = ["init.kind=weights", f"init.file={tmp_path / 'out' / 'generator.safetensors'}", "init.require=all"]
    api.train("dcgan", tmp_path / "run", data=digits, kimg=0.004, overrides=[*QUICK, *GENERATORS["r3gan"], *init])
    assert json.loads((tmp_path / "run" / "init.json").read_text())["generator"]["missing"] == {}


@pytest.mark.parametrize("kind", GENERATORS)
def test_onnx_makes_the_same_images(runs, kind, tmp_path):
    *_, network = api.export(runs / kind, tmp_path / "out", onnx=True)
    about = json.loads((tmp_path / "out" / "generator.json").read_text())["onnx"]
    assert about["opset"] == exporting.OPSET
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    frozen = open_generator(str(runs / kind), CPU)
    told = frozen.condition_at(0, [0] * 3)  # the draws of image 0 for each of them
    inputs = frozen.source.at(0, range(3))
    given = {"inputs": inputs.numpy(), **({} if told.labels is None else {"labels": told.labels.numpy()})}
    [images] = session.run(None, given)
    expected = frozen(inputs, told)
    assert images.shape == expected.shape
    assert (torch.from_numpy(images) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_what_onnx_needs_is_named(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(SpiderUsageError, match="onnxscript, the extra onnx"):
        api.export(runs / "dcgan", tmp_path / "out", onnx=True)
    assert not [*tmp_path.iterdir()]


def test_nothing_is_written_over(runs, tmp_path):
    api.export(runs / "dcgan", tmp_path / "out")
    with pytest.raises(SpiderUsageError, match="something is there already"):
        api.export(runs / "dcgan", tmp_path / "out")
