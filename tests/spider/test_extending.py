"""The examples of docs/extending.md: choices from outside of the package train, and get all that built-in ones get."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.errors import ShardsUsageError
from spider import api
from spider.errors import SpiderUsageError
from spider.jobs.launch import prepare_launch
from spider.runs.directory import RunDirectory
from spider.runs.request import TrainRequest
from tests.equal_runs import assert_equal_runs

DOCS = Path(__file__).parents[2] / "docs" / "extending.md"
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", DOCS.read_text(), re.DOTALL))
RUN = ["batch=8", "log.samples=4", "log.every_kimg=0.008"]
NO_BOARD = "log.tensorboard=false"  # whose files are made in different seconds, for which a start waits
SMALL = [*RUN, "generator.width=0.05", "discriminator.width=0.05"]
WORDS = {
    "mynets": [*RUN, "generator.kind=mynets:Tiny", "generator.channels=8", "discriminator.kind=mynets:Tiny"],
    "myeyes": [
        *(*RUN, "generator.width=0.05", "discriminator.kind=projected", "discriminator.enlarge_to=128"),
        *("discriminator.width=0.02", "discriminator.mixed_channels=2", "discriminator.heads=2"),
        "discriminator.backbones=[{kind: 'myeyes:Colours'}]",
    ],
    "mylabels": [
        *(*RUN, "generator.width=0.05", "discriminator.kind=mylabels:Projection", "discriminator.channels=4"),
        *("condition.kind=class", "objective.kind=hinge", "penalties.r1_gamma=0.1"),
    ],
    "mynoise": [*RUN, "generator.kind=mynoise:Noisy", "discriminator.width=0.05"],
    "mymean": [
        *(*RUN, "generator.kind=mymean:Centred", "discriminator.width=0.05"),
        *("penalties.r1_gamma=1", "penalties.phase=own", "penalties.interval_steps=2"),  # a step with nothing kept
    ],
    "mysource": [*SMALL, "source.kind=mysource:Thumbnails", "source.pictures=pictures"],
    "mycondition": [*SMALL, "condition.kind=mycondition:Parity"],
    "myloss": [*SMALL, "objective.kind=myloss:Sharp", "objective.sharpness=3"],
    "mymargin": [*SMALL, "objective.kind=mymargin:Margins"],
    "mypenalty": [*SMALL, "penalties.more=[{kind: 'mypenalty:Drift', weight: 0.1}]"],
    "mysmooth": [
        *SMALL,
        "g_penalties.more=[{kind: 'mysmooth:Smooth', weight: 0.1}]",
        "g_penalties.interval_steps=2",
    ],
    "myaugment": [*SMALL, "augment=[{kind: 'myaugment:Brighten', strength: 0.3}, {kind: mirror}]"],
    "myclasses": [
        *(*RUN, "generator.width=0.05", "discriminator.kind=mylabels:Projection", "discriminator.channels=4"),
        *("condition.kind=class", "auxiliary=[{kind: 'myclasses:Classifier'}]"),
    ],
    "mytask": [*SMALL, "auxiliary=[{kind: 'mytask:Palette', weight: 0.3, lr_factor: 2}, {kind: lecam}]"],
}


def pictures(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    for number, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all examples as modules, and with pictures."""
    for name, text in EXAMPLES.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    pictures(tmp_path / "pictures", 0)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_resumes_and_serves(
    here: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole, halves = here / "whole", here / "halves"
    overrides = WORDS[name] if name == "mytask" else [*WORDS[name], NO_BOARD]  # it has the most curves
    api.train("dcgan", whole, data=digits, kimg=0.032, overrides=overrides)
    api.train("dcgan", halves, data=digits, kimg=0.016, overrides=overrides)
    assert api.train(None, halves, kimg=0.032) == "finished"
    assert_equal_runs(whole, halves)
    [summary] = api.ls(halves)
    assert (summary.state, summary.problem) == ("finished", None)
    api.generate(halves, seeds="0-3", out=here / "out")
    assert len(list((here / "out").iterdir())) == 4
    copied: list[str] = []
    monkeypatch.setattr("spider.jobs.submit.submit_local", lambda *_, packages, **__: copied.extend(packages))
    request = TrainRequest("dcgan", here / "job", data=digits, overrides=WORDS[name])
    prepare_launch(request, "local").submit()
    assert {name, "spider"} <= set(copied)


def test_an_example_is_part_of_what_is_learnt(here: Path, digits: Path) -> None:
    rows = {}
    for name, words in {"plain": SMALL, **{name: WORDS[name] for name in WORDS}}.items():
        api.train("dcgan", here / name, data=digits, kimg=0.016, overrides=[*words, NO_BOARD])
        row = RunDirectory(here / name).last_row()
        rows[name] = json.dumps(row and {key: value for key, value in row.items() if key != "timing"})
    assert len(set(rows.values())) == len(rows)
    assert "penalty/more.0" in rows["mypenalty"]


def test_a_marked_field_of_a_source_from_outside_gets_all_that_marks_give(here: Path, digits: Path) -> None:
    words, run = WORDS["mysource"], here / "run"
    with pytest.raises(ShardsUsageError, match=r"^source.pictures: .*/nowhere: no such file or folder$"):
        api.train("dcgan", run, data=digits, kimg=0.016, overrides=[*words, "source.pictures=nowhere"])
    api.train("dcgan", run, data=digits, kimg=0.016, overrides=words)
    assert RunDirectory(run).config().model_dump()["source"]["pictures"] == str(here / "pictures")
    noted = json.loads((run / "inputs.json").read_text())["source.pictures"]
    assert noted["path"] == str(here / "pictures")
    assert (Path(noted["packed"]) / "index.json").is_file()
    assert api.ls(run)[0].source == "mysource:Thumbnails pictures"
    shutil.move(here / "pictures", here / "moved")
    moved, other = f"source.pictures={here / 'moved'}", f"source.pictures={pictures(here / 'other', 1)}"
    with pytest.raises(SpiderUsageError, match=r"^source.pictures: the run has the images of .*holds others"):
        api.train(None, run, kimg=0.032, overrides=[other])
    shutil.rmtree(noted["packed"])
    assert api.train(None, run, kimg=0.032, overrides=[moved]) == "finished"
    assert RunDirectory(run).config().model_dump()["source"]["pictures"] == str(here / "moved")


def test_keys_of_a_class_from_outside_are_explained(here: Path) -> None:
    kind, channels = api.explain("mynets:Tiny")
    assert (kind.name, kind.description) == ("kind", "One hidden layer for each player.")
    assert (channels.name, channels.type, channels.default) == ("channels", "int >= 1 <= 4096", "32")
    with pytest.raises(SpiderUsageError, match=r"^kind=mynets:Small: mynets has no Small$"):
        api.explain("mynets:Small")


WRONG = """
from torch import nn
from spider.gan.networks.config import NetworkChoice
from spider.gan.outputs import DOut, GOut

class Wrong(NetworkChoice):
    returns: str

    def build_generator(self, input_shape, image_shape, told, world, frontend):
        return Network(self.returns)

    def build_discriminator(self, image_shape, told, world):
        return None if self.returns == "no module" else Network(self.returns)

class Network(nn.Module):
    def __init__(self, returns):
        super().__init__()
        self.returns, self.layer = returns, nn.Linear(1, 1)

    def forward(self, given, condition):
        values = self.layer(given.flatten(1).mean(1, keepdim=True))
        return {"a tensor": values, "a vector": DOut(values[:, 0]), "pixels": GOut(values)}[self.returns]
"""


@pytest.mark.parametrize(
    ("role", "returns", "says"),
    [
        ("discriminator", "no module", r"^discriminator.kind=wrong:Wrong: build_discriminator returned NoneType"),
        ("discriminator", "a tensor", r"^the discriminator returned Tensor: it must return DOut"),
        ("discriminator", "a vector", r"^the discriminator returned logits of shape \[8\] for 8 images: .*\[8, 1\]$"),
        ("generator", "a tensor", r"^the generator returned Tensor: it must return GOut"),
        ("generator", "pixels", r"^the generator returned images of shape \[4, 1\]: it must return"),
    ],
)
def test_what_a_network_may_not_return_is_refused_in_one_line(
    here: Path, digits: Path, role: str, returns: str, says: str
) -> None:
    (here / "wrong.py").write_text(WRONG)
    other = "generator" if role == "discriminator" else "discriminator"
    words = [*RUN, f"{other}.width=0.05", f"{role}.kind=wrong:Wrong", f"{role}.returns={returns}"]
    with pytest.raises(SpiderUsageError, match=says):
        api.train("dcgan", here / "run", data=digits, kimg=0.008, overrides=words)


def test_a_class_that_cannot_be_had_is_refused_and_hides_no_other_run(here: Path, digits: Path) -> None:
    empty = "from spider.gan.augment.config import AugmentationChoice\nclass Empty(AugmentationChoice): pass"
    (here / "myempty.py").write_text(empty)
    (here / "mycall.py").write_text(f"{empty[:-4]}\n    def build(self, image_shape): ...")
    (here / "needy.py").write_text("import json\nimport nowhere.deep")
    (here / "broken.py").write_text("raise RuntimeError('no luck\\nat all')")
    for kind, why in {
        "nowhere:Tiny": "cannot import nowhere",
        "broken:Tiny": "no luck at all",
        "needy:Tiny": f"needy: ModuleNotFoundError: No module named 'nowhere' ({here / 'needy.py'}, line 2)",
        "mynets:Nothing": "mynets has no Nothing",
        "mylabels:Projection": "has no method build_generator, so it is no generator",
        "mynets:TinyGenerator": "is no subclass of spider.gan.networks.config.NetworkChoice",
        "antigravity:Tiny": "of Python's own library",
    }.items():
        with pytest.raises(SpiderUsageError) as refused:
            api.train("dcgan", here / "run", data=digits, overrides=[f"generator.kind={kind}"])
        found, _, said = str(refused.value).partition(": ")
        assert found == f"generator.kind={kind}"
        assert why in said
        assert found not in said
    for words, says in {
        ("discriminator.kind=mynets:Tiny", "discriminator.chanels=8"): "did you mean discriminator.channels?",
        ("discriminator.kind=mynets:Tiny", "discriminator.foo=8"): "no such key; mynets:Tiny has channels",
        ("augment=[{kind: 'myempty:Empty'}]",): "augment.0.kind=myempty:Empty: Empty has no method build",
        (
            "augment=[{kind: 'mycall:Empty'}]",
        ): "augment.0.kind=mycall:Empty: Empty.build must take (self, batch, image_shape)",
    }.items():
        with pytest.raises(SpiderUsageError, match=re.escape(says)):
            api.train("dcgan", here / "run", data=digits, overrides=words)
    with pytest.raises(SpiderUsageError, match=r"^generator.channels=5000: must be <= 4096$"):
        api.train("dcgan", here / "run", data=digits, overrides=[*WORDS["mynets"], "generator.channels=5000"])
    assert "antigravity" not in sys.modules
    for name in ("mynets", "myloss"):
        api.train("dcgan", here / "runs" / name, data=digits, kimg=0.008, overrides=WORDS[name])
    (here / "mynets.py").unlink()
    sys.modules.pop("mynets")
    states = {summary.name: summary.state for summary in api.ls(here / "runs")}
    assert states == {"mynets": "unreadable", "myloss": "finished"}
