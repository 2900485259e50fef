"""Whatever the functions of spider.api are given, they do, or refuse in one line that names the argument."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import ClusterError
from shards.errors import ShardsError
from spider import api
from spider.errors import SpiderError

HUGE = 10**5000  # Python refuses to print it
HOSTILE = [
    None, True, 0, -1, 1.5, 1e30, float("nan"), float("inf"), 2**64, HUGE, 1j, "", " ", "a", "a\0b", "\udcff", "٣",
    "nan", "a=[1,", "a=&x *x", "a=!!python/object/apply:os.system ['true']", "x" * 5000, "a\nb", "-5", "5-1",
    "0-99999999999", b"a", bytearray(b"a"), [], [None], [[1]], ["a", 1], (), {}, {1: 2}, {"a": None}, set(), object(),
    object, print, Path("a\0b"), Path("a"), np.int64(3), np.float32(0.5), np.float64("nan"), np.bool_(True),
    np.str_("a"), np.array(3), np.array([1, 2]), np.array([]), np.array(["a"]), np.array([[1], [2]]),
    np.array([1.5]), np.array([None]),
]  # fmt: skip


def verbs():
    """Every function of spider.api, also those of `weights`, with what it may be called with."""
    found = {name: getattr(api, name) for name in api.__all__ if name != "weights"}
    return {**found, "weights.get": api.weights.get, "weights.verify": api.weights.verify}


CALLS = {
    "cancel": {"run": "{run}"},
    "classes": {"data": "{digits}", "out": "{new}.safetensors"},
    "compare": {"runs": ["{run}", "{run}"]},
    "demo": {"out": "{new}"},
    "dry_run": {"config": "dcgan", "run": "{new}", "data": "{digits}"},
    "evaluate": {"subject": "{run}", "embedding": "offline"},
    "explain": {},
    "export": {"run": "{run}", "out": "{new}"},
    "generate": {"run": "{run}", "out": "{new}"},
    "import_pickle": {"file": "{sweep}", "out": "{new}"},
    "instances": {"data": "{digits}", "out": "{new}.safetensors", "embedding": "offline", "neighbors": 3},
    "interpolate": {"run": "{run}", "out": "{new}"},
    "is_pipeline": {"name": "dcgan"},
    "launch": {"config": "dcgan", "run": "{new}", "slurm": "local", "data": "{digits}"},
    "logs": {"run": "{run}"},
    "ls": {"folder": "{run}"},
    "neighbor_matrix": {"datasets": ["{digits}", "{patches}"], "out": "{new}"},
    "neighbors": {"target": "{digits}", "sources": ["{patches}"], "out": "{new}"},
    "pack": {"source": "{patches}", "out": "{new}", "workers": 1},
    "prepare_launch": {"config": "dcgan", "run": "{new}", "slurm": "local", "data": "{digits}"},
    "presets": {},
    "project": {"run": "{run}", "images": "{patches}", "out": "{new}"},
    "read_pipeline": {"file": "{stages}", "run": "{new}", "slurm": "local"},
    "status": {"path": "{run}"},
    "study": {"file": "{study}", "out": "{new}"},
    "study_cost": {"file": "{study}", "out": "{new}"},
    "study_stages": {"file": "{study}", "out": "{new}"},
    "sweep": {"file": "{sweep}", "out": "{new}"},
    "sweep_cost": {"file": "{sweep}", "out": "{new}"},
    "toy": {"out": "{new}"},
    "train": {"config": "dcgan", "run": "{new}", "data": "{digits}"},
    "verify": {"shards": "{digits}", "workers": 1},
    "weights.get": {"name": "inception"},
    "weights.verify": {"name": "inception"},
}
TAKES_OBJECTS = ("checkpoint_bytes", "submit_pipeline")  # what another of these functions has returned


def test_every_verb_is_tried():
    assert verbs().keys() == {*CALLS, *TAKES_OBJECTS}


@pytest.fixture
def places(trained, digits, patches, plane, study_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    (tmp_path / "sweep.yaml").write_text("config: dcgan\nkimg: 1\nspace: {batch: {grid: [1, 2]}}\n")
    (tmp_path / "stages.yaml").write_text("stages: {a: {verb: pack, source: x, out: y}}\n")
    return {
        "run": trained, "digits": digits, "patches": patches, "new": tmp_path / "new",
        "sweep": tmp_path / "sweep.yaml", "stages": tmp_path / "stages.yaml", "study": study_file,
    }  # fmt: skip


def filled(value, places):
    if isinstance(value, list):
        return [filled(each, places) for each in value]
    return value.format(**places) if isinstance(value, str) else value


def arguments_of(function):
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD and name != "otherwise":
            yield name


OF_TRAIN = ("data", "source", "kimg", "seed", "mirror", "overrides", "from_run", "init")
OPTIONS = dict.fromkeys(("dry_run", "launch", "prepare_launch"), OF_TRAIN)


def names_it(said, name, value):
    """Whether an error says which argument is wrong, or what is wrong in it; without a `config` there is no name."""
    found = [value, *value] if isinstance(value, list | np.ndarray) and np.ndim(value) else [value]
    texts = [each for each in found if isinstance(each, str)]
    words = [name.removesuffix("s"), *(str(each) for each in found if each is not HUGE)]
    words += [repr(each)[1:-1][:40] for each in texts]  # errors shorten what is long, and escape what no terminal shows
    return any(word in said.replace("-", "_") or word in said for word in words) or (name == "config" and not value)


@pytest.mark.parametrize("verb", [verb for verb in CALLS if verb != "presets"])
def test_no_argument_makes_a_traceback(verb, places, no_work):
    function = verbs()[verb]
    wrong = []
    for name in [*arguments_of(function), *OPTIONS.get(verb, ())]:
        for value in HOSTILE:
            given = {key: filled(each, places) for key, each in CALLS[verb].items()} | {name: value}
            try:
                function(**given)
            except no_work:
                continue
            except (SpiderError, ShardsError, ClusterError) as error:
                said = str(error)
                if "\n" in said.replace("a\nb", "") or (error.exit_code == 2 and not names_it(said, name, value)):
                    wrong.append(f"{name}: {type(value)}: {said}")
            except Exception as error:
                if not (isinstance(error, OSError) and error.filename):
                    wrong.append(f"{name}: {type(value)}: {error!r}")
    assert not wrong, "\n" + "\n".join(line[:220] for line in dict.fromkeys(wrong))
