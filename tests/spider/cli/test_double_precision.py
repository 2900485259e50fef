"""A run with compute.precision=fp64 goes through every verb that looks at its images."""

from __future__ import annotations

import pytest

SMALL = [
    *("generator.channel_base=256", "generator.channel_max=8", "generator.w_dim=8", "generator.mapping_layers=2"),
    *("discriminator.channel_base=256", "discriminator.channel_max=8", "discriminator.mbstd_group=4", "batch=4"),
    *("source.dim=8", "compute.precision=fp64", "log.tensorboard=false", "log.samples=4"),
]


@pytest.fixture(scope="module")
def made(spider, digits, tmp_path_factory):
    """A run that is told classes, and two of its images."""
    root = tmp_path_factory.mktemp("double")
    words = ["--data", digits, "--run", root / "run", "--kimg", "0.004", "condition.kind=class", *SMALL]
    for command in (
        ["train", "stylegan2-ada/cifar", *words],
        ["generate", root / "run", "--seeds", "0,1", "--out", root / "images"],
    ):
        done = spider(*command)
        assert done.code == 0, done.err
    return root


@pytest.mark.parametrize(
    "words",
    [
        "generate {run} --seeds 0,1 --trunc 0.5 --grid {out}.png",
        "generate {run} --seeds 0,1 --styles 2,3 --grid {out}.png",
        "interpolate {run} --seeds 0,1 --space z --distance efficientnet --out {out}.gif",
        "interpolate {run} --seeds 0,1,2,3 --space w --out {out}.png",
        "interpolate {run} --seeds 0,1 --space w --blend cubic --class 1 --class 2 --out {out}.gif",
        "evaluate {run} --metrics ppl_wend,ppl_zfull,diversity --count 2 --seeds 1",
        "evaluate {run} --metrics fid,precision --embedding offline --count 16 --seeds 1",
        "project {run} {images} --class 1 --steps 1 --samples 2 --tune 1 --out {out}",
        "project {run} {images} --class 1 --steps 1 --samples 2 --space w+ --out {out}",
        "project {run} {images} --class 1 --steps 1 --samples 2 --space z --out {out}",
        "export {run} {out}",
    ],
)
def test_every_verb_takes_it(spider, made, tmp_path, words):
    places = {"run": made / "run", "images": made / "images", "out": tmp_path / "out"}
    done = spider(*words.format(**places).split())
    assert done.code == 0, done.err
