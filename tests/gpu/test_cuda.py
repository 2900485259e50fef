"""Laws whose other side needs a GPU: the same numbers there, exact resume, reduced precision, one NCCL rank."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from cluster.world import World
from shards.dataset import ShardDataset
from shards.stream import BatchStream
from spider import draws
from spider.config.load import make_config
from spider.draws import Address
from spider.gan.augment.ada import Ada
from spider.gan.augment.augmentation import Augmentation
from spider.gan.augment.config import AdaConfig, DiffAugmentConfig
from spider.gan.augment.diffaugment import DiffAugment
from spider.judge.embed.load import load_embedding
from spider.precision import exact_float32, set_numerics
from spider.train.trainer import Trainer

CPU = torch.device("cpu")
SMALL = ["batch=16", "generator.width=0.1", "discriminator.width=0.1", "penalties.r1_gamma=1"]
R3GAN = [
    "generator={kind: r3gan, width: 0.05}",
    "discriminator={kind: r3gan, width: 0.05}",
    "objective.kind=relativistic",
    "penalties.r2_gamma=1",
]
STYLEGAN2 = [
    "generator={kind: stylegan2, channel_base: 256, w_dim: 32, mapping_layers: 2}",
    "discriminator={kind: stylegan2, channel_base: 256, mapping_layers: 2}",
    "condition.kind=class",
]
FED = [*STYLEGAN2, "source.kind=images", "source.adapter=luma-23x23"]
ATOPK = ["selection.kind=adaptive", "selection.k_unit=4", "overfit.rise_kimg=0.3", "overfit.target=-0.5"]
AUGMENTED = ["augment=[{kind: ada, control: {p_start: 0.5}}, {kind: diffaugment}, {kind: mirror}]"]
METHODS = {"dcgan": [], "atopk": ATOPK, "augmented": AUGMENTED}


@pytest.fixture(autouse=True)
def _numerics() -> Iterator[None]:
    """Each test sets the switches that it needs; the next one finds torch as it was."""
    yield
    set_numerics(deterministic=False, tf32=False, compiled=False)


def trainer(data: Path, world: World, *overrides: str) -> Trainer:
    config = make_config({"data": {"path": str(data)}}, [*SMALL, *overrides])
    set_numerics(deterministic=config.compute.deterministic, tf32=config.compute.tf32, compiled=config.compute.compile)
    return Trainer(config, world)


def state_of(trained: Trainer) -> dict[str, torch.Tensor]:
    groups = trained.snapshot().tensors
    return {f"{group}.{name}": tensor.cpu() for group, tensors in groups.items() for name, tensor in tensors.items()}


def after(steps: int, trained: Trainer) -> dict[str, torch.Tensor]:
    for _ in range(steps):
        trained.iterate()
    trained.close()
    return state_of(trained)


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Of the networks' weights, as a part of their length."""
    names = [name for name, tensor in expected.items() if tensor.is_floating_point() and "optimizer" not in name]
    difference = sum((found[name].double() - expected[name].double()).square().sum() for name in names)
    return float((difference / sum(expected[name].double().square().sum() for name in names)).sqrt())


@pytest.mark.parametrize("indices", [range(3, 40), [5, 2, 2**40]])
def test_draws_are_those_of_the_cpu(device: torch.device, indices: range | list[int]) -> None:
    """Uniform numbers and integers to the bit; normals but for the last bit of a few."""
    for draw, extra in ((draws.uniform, ()), (draws.integers, (1000,))):
        assert torch.equal(draw(1, "s", indices, (7, 5), *extra, device).cpu(), draw(1, "s", indices, (7, 5), *extra))
    found, expected = draws.normal(1, "s", indices, (300,), device).cpu(), draws.normal(1, "s", indices, (300,))
    torch.testing.assert_close(found, expected, rtol=3e-7, atol=3e-7)


AUGMENTATIONS = {
    "ada": lambda: Ada(AdaConfig(pipe="bgcfnc", p=0.5), 8, (3, 32, 32)),
    "diffaugment": lambda: DiffAugment(DiffAugmentConfig()),
}


@pytest.mark.parametrize("make", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_augmented_images_and_gradients_are_those_of_the_cpu(
    device: torch.device, make: Callable[[], Augmentation]
) -> None:
    images = draws.normal(0, "images", range(8), (3, 32, 32)).clamp(-1, 1)
    found = []
    with exact_float32():
        for place in (device, CPU):
            leaf = images.to(place).requires_grad_()
            output = make()(leaf, Address(1, "d_main", range(8), place), "real")
            (gradient,) = torch.autograd.grad(output.square().sum(), leaf)
            found.append((output.detach().cpu(), gradient.cpu()))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("overrides", METHODS.values(), ids=METHODS)
def test_a_resume_is_bit_equal(digits: Path, world: World, overrides: list[str]) -> None:
    """With compute.deterministic, as the docs say."""
    exact = [*overrides, "compute.deterministic=true"]
    whole = after(12, trainer(digits, world, *exact))
    first = trainer(digits, world, *exact)
    after(5, first)
    second = trainer(digits, world, *exact)
    second.load(first.snapshot())
    found = after(7, second)
    assert [name for name in whole if not torch.equal(whole[name], found[name])] == []


def test_a_step_in_float64_is_that_of_the_cpu(digits: Path, world: World) -> None:
    exact = ["compute.precision=fp64", *AUGMENTED]
    found, expected = after(3, trainer(digits, world, *exact)), after(3, trainer(digits, World.single(), *exact))
    assert distance(found, expected) < 1e-6  # draws of normals are float32


@pytest.mark.parametrize(
    ("overrides", "bound"),
    [
        (["compute.precision=bf16"], 2e-2),
        (["compute.precision=fp16", "compute.loss_scale=256"], 2e-2),
        (["compute.tf32=true"], 2e-2),
        (["compute.channels_last=true"], 1e-3),
        (["compute.compile=true"], 1e-3),
        (["compute.channels_last=true", "compute.precision=bf16", "compute.compile=true"], 2e-2),
    ],
)
def test_what_makes_it_faster_changes_little(digits: Path, world: World, overrides: list[str], bound: float) -> None:
    """After four steps the weights are near those of float32, and every step was taken."""
    fast = trainer(digits, world, *overrides)
    assert distance(after(4, fast), after(4, trainer(digits, world))) < bound
    assert fast.warnings == []


@pytest.mark.parametrize(
    "overrides",
    [[], ATOPK, AUGMENTED, R3GAN, STYLEGAN2, FED],
    ids=["dcgan", "atopk", "augmented", "r3gan", "stylegan2", "stylegan2, fed images"],
)
def test_an_iteration_waits_for_the_gpu_once(digits: Path, world: World, overrides: list[str]) -> None:
    """torch counts the waits that it knows of."""
    overrides = [*overrides, f"source.path={digits}"] if overrides is FED else overrides
    trained = trainer(digits, world, "penalties.interval_steps=1", *overrides)
    after(4, trained)
    counted = 0
    with counting_waits() as waits:
        trained.iterate()
        counted = len(waits)
    trained.close()
    print(f"waits in an iteration: {counted}")
    assert counted <= 1


@contextmanager
def counting_waits() -> Iterator[list[warnings.WarningMessage]]:
    if not torch.cuda.is_available():
        yield []
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            yield waits
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_pinned_batches_hold_the_same_images(digits: Path, device: torch.device) -> None:
    def batches(pin: bool) -> list[torch.Tensor]:
        stream = BatchStream(ShardDataset(digits), seed=1, global_batch=16, rank=0, world=1, pin=pin)
        return [next(source).images for source in [stream.batches(0)] for _ in range(5)]

    pinned = batches(pin=device.type == "cuda")
    assert all(images.is_pinned() == (device.type == "cuda") for images in pinned)
    copies = [images.to(device, non_blocking=True).cpu() for images in pinned]
    assert all(torch.equal(here, there) for here, there in zip(copies, batches(pin=False), strict=True))


class Forced(int):
    """A world's size of one that does not look like one, so that nothing is left out."""

    def __eq__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def test_one_rank_of_nccl_trains_as_one_process(digits: Path, device: torch.device, tmp_path: Path) -> None:
    exact = ["compute.deterministic=true"]
    expected = after(4, trainer(digits, World.single(device.type), *exact))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        world = World(0, Forced(1), 0, device)
        assert world.any(True)
        assert world.all_gather_json({"rank": 0}) == [{"rank": 0}]
        found = after(4, trainer(digits, world, "engine.kind=ddp", *exact))
    finally:
        dist.destroy_process_group()
    assert distance(found, expected) < 1e-6


def test_features_are_those_of_the_cpu(device: torch.device) -> None:
    images = (draws.uniform(0, "images", range(16), (3, 32, 32)) * 256).to(torch.uint8)
    with exact_float32():
        found, expected = (
            load_embedding("offline", device=place).features(images.to(place)).cpu() for place in (device, CPU)
        )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
