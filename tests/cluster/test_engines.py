"""Every engine gives the gradients of plain autograd on the global batch, however that is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from cluster.engines.ddp import bucket_layout
from cluster.engines.engine import EngineName, build_engine
from cluster.errors import ClusterError, ClusterUsageError
from cluster.world import World

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks

BATCH = 32


class SyncedNorm(nn.Module):
    """Normalises by the statistics of a micro-batch over all ranks, so that gradients cross ranks within the graph."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0] * self.world.size
        mean = self.world.sum_with_grad(x.sum(0)) / count
        variance = self.world.sum_with_grad((x - mean).square().sum(0)) / count
        return (x - mean) / (variance + 1e-5).sqrt()


def _discriminator(world: World, dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 6), SyncedNorm(world), nn.Softplus(), nn.Linear(6, 1)).to(dtype)


def _images(dtype: torch.dtype) -> Tensor:
    return torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def _share_of_loss(module: nn.Module, images: Tensor, loss: str) -> Tensor:
    """These images' part of the global batch's mean of a first-order loss, of R1, or of both."""
    images = images.clone().requires_grad_()
    logits = module(images)
    share = images.new_zeros(())
    if loss != "r1_only":
        share = share + nn.functional.softplus(-logits).sum() / BATCH
    if loss != "first_order":
        (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        share = share + 5.0 * slope.square().sum() / BATCH
    return share


def _engine_gradients(
    world: World, engine_name: EngineName, dtype: torch.dtype, loss: str, accumulation: int
) -> list[Tensor]:
    module = _discriminator(world, dtype)
    parameters = list(module.parameters())
    engine = build_engine(engine_name, module, parameters, torch.optim.SGD(parameters, lr=1.0, fused=True), world)
    mine = _images(dtype)[world.rank :: world.size]
    for micro in range(accumulation):
        engine.backward(_share_of_loss(module, mine[micro::accumulation], loss), last=micro == accumulation - 1)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _plain_gradients(dtype: torch.dtype, loss: str, size: int, accumulation: int) -> list[Tensor]:
    """Slot s belongs to micro-batch (s div W) mod A; the statistics are those of a micro-batch."""
    module = _discriminator(World.single(), dtype)
    micro = torch.arange(BATCH) // size % accumulation
    shares = [_share_of_loss(module, _images(dtype)[micro == a], loss) for a in range(accumulation)]
    return list(torch.autograd.grad(sum(shares), list(module.parameters()), materialize_grads=True))  # type: ignore[arg-type]


def _assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    tolerance = 1e-12 if expected[0].dtype == torch.float64 else 1e-5
    scale = max(gradient.abs().max().item() for gradient in expected)
    assert len(found) == len(expected)
    for gradient, plain in zip(found, expected, strict=True):
        assert (gradient - plain).abs().max().item() <= tolerance * scale


CUTS = [("local", 1), ("ddp", 1), ("ddp", 2), ("ddp", 4)]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("loss", ["first_order", "with_r1", "r1_only"])
@pytest.mark.parametrize(("engine", "size"), CUTS)
def test_gradients_equal_plain_autograd(
    ranks: Ranks, engine: str, size: int, loss: str, dtype: torch.dtype, accumulation: int
) -> None:
    on_ranks = ranks(size).run(_engine_gradients, engine, dtype, loss, accumulation)
    expected = _plain_gradients(dtype, loss, size, accumulation)
    for gradients in on_ranks:
        _assert_near(gradients, expected)
        assert all(torch.equal(a, b) for a, b in zip(gradients, on_ranks[0], strict=True))
    if loss == "r1_only":
        assert on_ranks[0][-1].tolist() == [0.0]  # The last bias moves no gradient, and yet has one.


def _gradients_in_small_buckets(world: World) -> list[Tensor]:
    import cluster.engines.ddp as ddp

    ddp.BUCKET_BYTES, whole = 64, ddp.BUCKET_BYTES
    try:
        return _engine_gradients(world, "ddp", torch.float64, "with_r1", 2)
    finally:
        ddp.BUCKET_BYTES = whole


def test_gradients_do_not_depend_on_the_bucket_size(ranks: Ranks) -> None:
    _assert_near(ranks(4).run(_gradients_in_small_buckets)[3], _plain_gradients(torch.float64, "with_r1", 4, 2))


def test_buckets_hold_every_parameter_once_and_stay_small() -> None:
    shapes = [(10,), (3, 4), (100,), (1,), (), (0, 5), (7,)]
    parameters = [torch.zeros(shape, dtype=torch.float64 if i % 3 else torch.float32) for i, shape in enumerate(shapes)]
    buckets = bucket_layout(parameters, max_bytes=128)
    assert sorted(i for bucket in buckets for i in bucket) == list(range(len(shapes)))
    for bucket in buckets:
        assert len({parameters[i].dtype for i in bucket}) == 1
        assert len(bucket) == 1 or sum(parameters[i].nbytes for i in bucket) <= 128
    assert [2] in buckets  # 800 bytes: alone


def _values_after_construction(world: World) -> list[float]:
    module = nn.BatchNorm1d(2)
    for tensor in module.state_dict().values():
        tensor.fill_(world.rank + 1)
    build_engine("ddp", module, list(module.parameters()), torch.optim.SGD(module.parameters(), fused=True), world)
    return [tensor.float().mean().item() for tensor in module.state_dict().values()]


def test_parameters_and_buffers_come_from_rank_0(ranks: Ranks) -> None:
    assert ranks(2).run(_values_after_construction) == [[1.0] * 5] * 2


def _leak(world: World) -> tuple[bool, bool]:
    generator, discriminator = nn.Linear(2, 3), nn.Linear(3, 1)
    parameters = list(generator.parameters())
    engine = build_engine("ddp", generator, parameters, torch.optim.SGD(parameters, fused=True), world)
    engine.backward(discriminator(generator(torch.ones(4, 2))).sum(), last=True)
    reached = generator.weight.grad is not None and bool(generator.weight.grad.any())
    return reached, discriminator.weight.grad is None


def test_the_other_player_gets_no_gradient(ranks: Ranks) -> None:
    assert ranks(2).run(_leak) == [(True, True)] * 2


def _poisoned(world: World, engine_name: EngineName, where: dict[int, str], value: float) -> dict[str, list[int]]:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    engine = build_engine(
        engine_name, module, list(module.parameters()), torch.optim.SGD(module.parameters(), fused=True), world
    )
    loss = module(torch.ones(1, 2)).sum()
    if world.rank in where:
        loss = loss + module.get_parameter(where[world.rank]).sum() * value
    engine.backward(loss, last=True)
    return engine.non_finite(engine.measure()[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_gradients_are_named_with_their_ranks(ranks: Ranks, value: float) -> None:
    where = {1: "0.weight", 3: "1.bias"}
    assert ranks(4).run(_poisoned, "ddp", where, value) == [{"0.weight": [1], "1.bias": [3]}] * 4
    assert ranks(4).run(_poisoned, "ddp", {}, value) == [{}] * 4
    assert ranks(1).run(_poisoned, "local", {0: "0.bias"}, value) == [{"0.bias": [0]}]


def test_a_sum_that_overflows_is_named_without_a_rank(ranks: Ranks) -> None:
    where = dict.fromkeys(range(2), "1.bias")
    assert ranks(2).run(_poisoned, "ddp", where, 3e38) == [{"1.bias": []}] * 2


def _train(world: World, state: dict[str, dict[str, Tensor]] | None, first: int, last: int) -> dict[str, Tensor]:
    module = nn.Sequential(nn.Linear(64, 96), nn.Softplus(), nn.Linear(96, 96), nn.Softplus(), nn.Linear(96, 1))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, fused=True)
    if state is not None:
        module.load_state_dict(state)
    engine = build_engine("ddp", module, list(module.parameters()), optimizer, world)
    for step in range(first, last):
        engine.zero_grad()
        images = torch.randn(4, 64, generator=torch.Generator().manual_seed(10 * step + world.rank))
        engine.backward(nn.functional.softplus(module(images)).sum() / 16, last=True)
        engine.step(torch.tensor(True))
    return dict(module.state_dict())


def test_resume_in_fresh_processes_is_bit_equal(ranks: Ranks) -> None:
    uninterrupted = ranks(4).run(_train, None, 0, 4)[0]
    half = ranks(4).run(_train, None, 0, 2)[0]
    resumed = ranks(4, fresh=True).run(_train, half, 2, 4)[3]
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)


def test_local_is_refused_on_many_ranks(ranks: Ranks) -> None:
    assert all("'local' serves one process, but there are 2" in text for text in ranks(2).run(_refusal_of_local))


def _refusal_of_local(world: World) -> str:
    module = nn.Linear(1, 1)
    with pytest.raises(ClusterUsageError) as refused:
        build_engine(
            "local", module, list(module.parameters()), torch.optim.SGD(module.parameters(), fused=True), world
        )
    return str(refused.value)


def test_parameters_that_cannot_train_are_refused_by_name() -> None:
    module, world = nn.Linear(2, 1), World.single()
    everything = torch.optim.SGD(module.parameters(), fused=True)
    with pytest.raises(ClusterUsageError, match="empty"):
        build_engine("local", module, [], everything, world)
    with pytest.raises(ClusterUsageError, match="not in Linear"):
        build_engine("local", module, [nn.Parameter(torch.zeros(2))], everything, world)
    with pytest.raises(ClusterUsageError, match=r"bias.*optimizer does not hold it"):
        build_engine(
            "local", module, list(module.parameters()), torch.optim.SGD([module.get_parameter("weight")]), world
        )
    with pytest.raises(ClusterUsageError, match="holds 2 parameters of Linear, but 1"):
        build_engine("local", module, list(module.parameters())[:1], everything, world)
    module.bias.requires_grad_(False)
    with pytest.raises(ClusterUsageError, match=r"bias.*requires_grad is False"):
        build_engine("local", module, list(module.parameters()), everything, world)


def _unequal_shapes(world: World) -> str:
    module = nn.Linear(2, 1 + world.rank)
    with pytest.raises(ClusterError) as refused:
        build_engine("ddp", module, list(module.parameters()), torch.optim.SGD(module.parameters(), fused=True), world)
    return str(refused.value)


def test_ranks_with_other_shapes_are_named(ranks: Ranks) -> None:
    assert all("'weight' is not the same on all ranks" in text for text in ranks(2).run(_unequal_shapes))


def test_memory_formats_are_not_mixed_up() -> None:
    """Gradients and a loaded state that lie otherwise than the parameters do: fused kernels would not notice."""

    def steps(memory_format: torch.memory_format) -> Tensor:
        torch.manual_seed(0)
        module = nn.Conv2d(3, 4, 2, bias=False).to(memory_format=memory_format)
        images, state = torch.randn(5, 3, 6, 6), None
        for _ in range(2):
            adam = torch.optim.Adam(module.parameters(), lr=0.1, fused=True)
            engine = build_engine("local", module, [module.weight], adam, World.single())
            if state is not None:
                engine.load_optimizer_state(*state)
            module.weight.grad = torch.zeros(4, 3, 2, 2)  # what is added to a gradient takes over its format
            engine.backward(module(images).square().mean(), last=True)
            engine.step(torch.tensor(True))
            tensors, rest = engine.optimizer_state()
            state = {name: tensor.contiguous() for name, tensor in tensors.items()}, rest  # as a checkpoint has it
        return module.weight.detach().contiguous()

    torch.testing.assert_close(steps(torch.channels_last), steps(torch.contiguous_format))
