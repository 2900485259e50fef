"""The verbs as functions: called like the options, and as forgiving."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from spider import api
from spider.errors import SpiderUsageError


def test_metrics_may_be_one_text(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path))
    found = api.evaluate(digits, reference=digits, metrics="fid,recall", embedding="offline")
    assert [result.name for result in found.results] == ["fid", "recall"]
    with pytest.raises(SpiderUsageError, match="'fd' is unknown"):
        api.evaluate(digits, reference=digits, metrics="fd", embedding="offline")


def test_arguments_are_called_as_the_options_are():
    assert {"seeds", "out", "grid"} <= inspect.signature(api.generate).parameters.keys()
    assert "seeds" in inspect.signature(api.interpolate).parameters
    assert {"kimg", "from_run", "world"} <= inspect.signature(api.train).parameters.keys()
    with pytest.raises(TypeError, match="lenght"):
        api.dry_run("dcgan", "run", lenght=3)


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIDER_CACHE", str(tmp_path / "cache"))
    exec(example, {"__name__": "example"})
    assert "FD[offline]" in capsys.readouterr().out
    assert (tmp_path / "runs/quick.png").is_file()
