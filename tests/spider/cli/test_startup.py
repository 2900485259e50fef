"""What answers from small files answers at once: nothing of it waits for torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LOADED = """
import sys
try:
    {statement}
except SystemExit as stop:
    code = stop.code
else:
    code = None
import json
print(json.dumps([code, "torch" in sys.modules, "pydantic" in sys.modules]), file=sys.stderr)
"""


def loaded(statement):
    """Exit code, whether torch and whether pydantic were imported."""
    done = subprocess.run([sys.executable, "-c", LOADED.format(statement=statement)], capture_output=True, text=True)
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("train --help", 0),
        ("presets", 0),
        ("config explain penalties.r1_gamma", 0),
        ("config explain penalties.r1_gama", 2),
        ("train dcgan --data builtin:digits --run nowhere batch=0", 2),
        ("train dcgan --data nowhere --run run", 2),
        ("train dcgan --data builtin:digits --run run evaluate.every_kimg=1", 1),
        ("ls", 0),
        ("evaluate nowhere", 2),
        ("evaluate builtin:digits --reference builtin:letters", 1),
        ("evaluate nowhere@best", 2),
        ("generate nowhere --out out", 2),
        ("interpolate nowhere --out out.png", 2),
        ("project nowhere neither --out out", 2),
        ("import nowhere out", 2),
        ("export nowhere out", 2),
        ("compare nowhere neither", 2),
        ("verify nowhere", 2),
        ("neighbors nowhere neither --out out", 2),
        ("instances nowhere --out out.safetensors", 2),
        ("classes nowhere --out out.safetensors", 2),
        ("weights list", 0),
        ("launch dcgan --data . --run run --slurm time=5 --dry-run", 0),
        ("launch stages.yaml --run run --slurm time=5 --dry-run", 0),
        ("launch dcgan --data . --run run --slurm nodes=3,time=5", 2),
        ("launch dcgan --data nowhere --run run --slurm local", 2),
        ("launch dcgan --data . --run run --slurm tim=5", 2),
        ("status .", 0),
        ("status . --json", 0),
        ("logs run", 1),
        ("cancel run", 1),
    ],
)
def test_answers_without_torch(arguments, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = "{verb: train, config: dcgan, data: ., init: '{run}/one', run: '{run}/two'}"
    Path("stages.yaml").write_text(
        f"stages: {{one: {{verb: import_pickle, file: stages.yaml, out: '{{run}}/one'}}, two: {train}}}"
    )
    assert loaded(f"from spider.cli.main import app; app({arguments.split()!r})")[:2] == [code, False]


def test_help_loads_no_configuration_either():
    assert loaded("from spider.cli.main import app; app(['--help'])") == [0, False, False]


def test_the_verbs_import_without_torch():
    assert loaded("from spider.api import *; import spider.judge.compare, spider.data, spider.runs.request")[1] is False


SLOW = (
    *("deepspeed", "optuna", "pandas", "pytorch_fid", "ray", "scipy", "sklearn", "submitit"),
    *("tensorboard", "torch._dynamo", "torch._inductor", "torchvision", "webdataset"),
)


def slow_ones_of(statements, names=SLOW):
    """Which of `names` a process has imported after `statements`, as it prints them."""
    script = f"import sys\n{statements}\nprint([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("module", ["spider.judge.evaluation", "neighbors.find"])
def test_what_measures_waits_for_torch_alone(module):
    """Each of these takes as long to import as torch, or half as long, and only some of what is measured needs it."""
    offline = "from spider.judge.embed.load import load_embedding; load_embedding('offline')"
    assert slow_ones_of(f"import {module}; {offline}") == "[]"


def test_a_training_waits_for_torch_alone(tiny, digits, tmp_path, monkeypatch):
    """A dry run, and one that steps networks with Adam, draws samples, is measured and refuses to be inexact."""
    monkeypatch.chdir(tmp_path)
    words = ["train", "dcgan", "--data", str(digits), "--run", "run", "--kimg", "0.016", *tiny]
    words += ["evaluate.every_kimg=0.016", "evaluate.embedding=offline", "evaluate.count=8"]
    words += ["compute.deterministic=true"]
    run = f"""
from spider.cli.main import app
for more in (["--dry-run"], []):
    try:
        app({words!r} + more)
    except SystemExit as end:
        assert not end.code
"""
    assert slow_ones_of(run, (*SLOW, "matplotlib")) == "['scipy']"  # of the Fréchet distance
