"""A request is the same whether it is made in Python, by the keys of a stage or by a command line."""

from __future__ import annotations

import pytest

from neighbors.request import NeighborMatrixRequest, NeighborsRequest
from spider import api
from spider.cli.main import app
from spider.errors import SpiderUsageError
from spider.exchange.request import ExportRequest, ImportRequest
from spider.judge.classes.request import ClassesRequest
from spider.judge.instances.request import InstancesRequest
from spider.judge.request import EvaluateRequest
from spider.packing import PackRequest, VerifyRequest
from spider.pictures.request import GenerateRequest, InterpolateRequest, ProjectRequest
from spider.request import _ONLY_IN_PYTHON
from spider.runs.request import TrainRequest
from sweeps.request import SweepRequest

SEARCH = {
    "embedding": "offline", "protocol": "clean", "weights": "w.pt", "orders": "-1,0 log", "mode": "paper", "images": 9,
    "rule": "fd", "shortlist": 3, "seed": 4, "keep_negative": True, "keep_gray": True, "picks": 2, "ray": "auto",
    "workers": 2,
}  # fmt: skip
ASKED = {
    "pack": (PackRequest, {
        "source": "a b", "out": "o", "resolution": 32, "channels": 1, "crop": "pad", "subset": 3, "seed": 5,
        "long_tail": 2.5, "listed": "l.txt", "join": ["b", "c d"],
        "shard_mb": 0.5, "workers": 2, "max_bad": "3%", "encoding": "png", "labels": "none", "max_megapixels": 9.0,
    }),
    "verify": (VerifyRequest, {"shards": "-s", "workers": 3}),
    "neighbors": (NeighborsRequest, {"target": "t", "sources": {"x": "a", "y": "b c"}, "out": "o", **SEARCH}),
    "neighbor_matrix": (NeighborMatrixRequest, {"datasets": ["a", "b"], "out": "o", **SEARCH}),
    "instances": (InstancesRequest, {
        "data": "d", "out": "o.safetensors", "embedding": "offline", "protocol": "clean", "weights": "w.pt",
        "neighbors": 5, "flips": True, "centres": "c.npy", "centre_list": "c.txt", "pixels": "p", "seed": 4,
        "ray": "auto", "workers": 2,
    }),
    "classes": (ClassesRequest, {"data": "d", "out": "o.safetensors", "ray": "auto", "workers": 2}),
    "train": (TrainRequest, {
        "config": "dcgan", "run": "r", "data": "d", "source": "s", "kimg": "+5", "seed": 1, "mirror": True,
        "overrides": ["batch=4", "x.y=[1, 2]"], "from_run": "q@3", "init": "i",
    }),
    "sweep": (SweepRequest, {"file": "s.yaml", "out": "o", "ray": "auto"}),
    "evaluate": (EvaluateRequest, {
        "subject": "r", "reference": "a", "reference_out": "r.npz", "source": "b", "data": "c",
        "metrics": ["fid", "recall"], "protocol": "tf",
        "embedding": "offline", "weights": "w", "distance": "lpips_vgg", "count": 7, "seeds": 2,
        "classes": ["A", 1], "balanced": True, "bank": "b.safetensors", "figures": "f", "out": "o.json",
    }),
    "generate": (GenerateRequest, {
        "run": "r", "seeds": "0-3", "out": "o", "classes": ["A", 1], "source_images": ["a.png", "b.png"],
        "grid": "g.png", "truncation": 0.5, "tuned": "t.safetensors", "source": "s", "points": [],
        "styles": "4,5", "style_layers": [0, 1], "instances": [], "bank": "b.safetensors", "weights": None,
    }),
    "export": (ExportRequest, {"run": "r", "out": "o", "onnx": True}),
    "import_pickle": (ImportRequest, {"file": "a.pkl", "out": "o"}),
    "interpolate": (InterpolateRequest, {
        "run": "r", "out": "o.png", "space": "z", "stage": 2, "seeds": [4, 3], "classes": ["A"], "steps": 3,
        "blend": "linear", "fps": 24, "truncation": 0.7, "distance": "efficientnet", "weights": "w", "source": "s",
        "instances": [], "bank": "b.safetensors",
    }),
    "project": (ProjectRequest, {
        "run": "r", "images": ["a.png", "b c"], "out": "o", "space": "w+", "steps": 3, "tune": 2, "samples": 4,
        "distance": "lpips_vgg", "weights": "w", "classes": ["A", 1], "seed": 5, "video": "gif", "source": "s",
    }),
}  # fmt: skip


class Asked(Exception):
    """What a command has asked the API for."""


def asking(kind):
    """In the place of a function of the API."""

    def ask(*arguments, progress=None, **more):
        raise Asked(kind(*arguments, **more))

    return ask


@pytest.mark.parametrize("verb", ASKED)
def test_the_words_of_a_request_ask_for_the_same(verb, monkeypatch, tmp_path):
    kind, values = ASKED[verb]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, verb, asking(kind))
    request = kind.read(values)
    assert {*values, *_ONLY_IN_PYTHON} >= set(request.values())  # every field is tried
    with pytest.raises(Asked) as asked:
        app(list(request.words()), standalone_mode=False)
    assert asked.value.args[0].words() == request.words()


@pytest.mark.parametrize("sources", [["u=v", "w"], ["a:b=c"], ["d/e=f"], {"x": "y=a", "z": "b"}], ids=str)
def test_a_place_with_an_equals_sign_keeps_its_name(sources, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def ask(target, sources, out, **more):
        raise Asked(sources)

    monkeypatch.setattr(api, "neighbors", ask)
    with pytest.raises(Asked) as asked:
        app(list(NeighborsRequest("t", sources, "o").words()), standalone_mode=False)
    found = asked.value.args[0]
    assert found == sources or [place.removeprefix("./") for place in found] == sources


@pytest.mark.parametrize("name", ["x=y", "a/b", "s3:", ""])
def test_what_can_be_no_name_is_refused(name):
    with pytest.raises(SpiderUsageError, match="is no name: it is empty, or has one of = / : in it"):
        NeighborsRequest("t", {name: "a"}, "o")


@pytest.mark.parametrize("verb", ASKED)
def test_what_is_not_said_has_no_word(verb, monkeypatch, tmp_path):
    kind, values = ASKED[verb]
    needed = {name: values[name] for name in (*kind.alone, "out", "run") if name in values}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, verb, asking(kind))
    words = kind.read(needed).words()
    with pytest.raises(Asked) as asked:
        app(list(words), standalone_mode=False)
    assert asked.value.args[0].words() == words
    assert all(word.startswith(("--out=", "--run=", "--all")) for word in words[1 : words.index("--")])
