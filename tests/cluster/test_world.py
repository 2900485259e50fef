"""What the ranks say to each other is the same on one process and on many."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from cluster.errors import ClusterError, ClusterUsageError, MachineError
from cluster.world import World

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks

SIZES = [1, 2, 4]
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def _collect(world: World) -> dict[str, Any]:
    mine = torch.tensor([world.rank, 1], dtype=torch.float64, requires_grad=True)
    total = world.all_reduce_sum(mine)
    return {
        "sum": total.tolist(),
        "no_grad": not total.requires_grad,
        "input_kept": mine.tolist() == [world.rank, 1],
        "gathered": world.all_gather(mine).tolist(),
        "gathered_scalar": world.all_gather(torch.tensor(world.rank % 2 == 0)).tolist(),
        "gathered_empty": list(world.all_gather(torch.zeros(0, 3)).shape),
        "gathered_transposed": world.all_gather(torch.arange(6).view(2, 3).t() + world.rank)[-1].tolist(),
        "last": world.broadcast(torch.tensor(world.rank, dtype=torch.bfloat16), src=world.size - 1).item(),
        "json": world.broadcast_json({"from": world.rank, "pair": (1, None), "é": 1e-300}, src=world.size - 1),
        "jsons": world.all_gather_json("x" * world.rank),
        "any": [world.any(world.rank == world.size - 1), world.any(False)],
        "all": [world.all(world.rank == world.size - 1), world.all(True)],
        "main": world.is_main == (world.rank == 0),
    }


@pytest.mark.parametrize("size", SIZES)
def test_every_rank_learns_the_same(ranks: Ranks, size: int) -> None:
    last = size - 1
    expected = {
        "sum": [sum(range(size)), size],
        "no_grad": True,
        "input_kept": True,
        "gathered": [[rank, 1] for rank in range(size)],
        "gathered_scalar": [rank % 2 == 0 for rank in range(size)],
        "gathered_empty": [size, 0, 3],
        "gathered_transposed": [[0 + last, 3 + last], [1 + last, 4 + last], [2 + last, 5 + last]],
        "last": last,
        "json": {"from": last, "pair": [1, None], "é": 1e-300},
        "jsons": ["x" * rank for rank in range(size)],
        "any": [True, False],
        "all": [size == 1, True],
        "main": True,
    }
    assert ranks(size).run(_collect) == [expected] * size


def _new_tensors(world: World) -> list[bool]:
    """Whether changing a result changes what was given."""
    mine = torch.ones(3)
    results: list[Callable[[], Tensor]] = [
        lambda: world.all_reduce_sum(mine),
        lambda: world.all_gather(mine),
        lambda: world.broadcast(mine),
    ]
    for result in results:
        result().zero_()
    return mine.tolist()


@pytest.mark.parametrize("size", [1, 2])
def test_results_share_no_memory_with_arguments(ranks: Ranks, size: int) -> None:
    assert ranks(size).run(_new_tensors) == [[1.0] * 3] * size


def test_one_process_touches_no_process_group() -> None:
    world = World.single()
    _collect(world)
    world.barrier()
    world.assert_same({"a": "1"}, "anything")
    x = torch.ones(2, requires_grad=True)
    assert world.sum_with_grad(x) is x
    assert not dist.is_initialized()


# ---- sum_with_grad ---------------------------------------------------------------------------------------------------


def _loss(share: Tensor, total: Tensor) -> Tensor:
    """Couples every rank's share with the sum over ranks, twice differentiably in both."""
    return (share.sin() * total.square()).sum() + total.exp().sum() / 7


def _derivatives(world: World, shares: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """This rank's rows of the gradient and of the Hessian-vector product of the sum of all ranks' losses."""
    mine = shares[world.rank].clone().requires_grad_()
    loss = _loss(mine, world.sum_with_grad(mine))
    (gradient,) = torch.autograd.grad(loss, mine, create_graph=True)
    (product,) = torch.autograd.grad((gradient * direction[world.rank]).sum(), mine)
    return gradient.detach(), product


@pytest.mark.parametrize("size", SIZES)
def test_sum_with_grad_has_the_derivatives_of_the_whole(ranks: Ranks, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    shares, direction = torch.randn(2, size, 5, dtype=torch.float64, generator=generator)
    whole = shares.clone().requires_grad_()
    loss = sum(_loss(whole[rank], whole.sum(0)) for rank in range(size))
    assert isinstance(loss, Tensor)
    (gradient,) = torch.autograd.grad(loss, whole, create_graph=True)
    (product,) = torch.autograd.grad((gradient * direction).sum(), whole)

    for rank, (own_gradient, own_product) in enumerate(ranks(size).run(_derivatives, shares, direction)):
        torch.testing.assert_close(own_gradient, gradient[rank], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(own_product, product[rank], rtol=1e-12, atol=1e-12)


def _checks(world: World) -> tuple[bool, bool]:
    """The ranks take the same finite differences in lockstep, from the same point: the sum is W times one term."""
    x = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)

    def mean_of_squares(x: Tensor) -> Tensor:
        return world.sum_with_grad(x.square()) / world.size

    return torch.autograd.gradcheck(mean_of_squares, x), torch.autograd.gradgradcheck(mean_of_squares, x)


@pytest.mark.parametrize("size", SIZES)
def test_sum_with_grad_passes_gradcheck_and_gradgradcheck(ranks: Ranks, size: int) -> None:
    assert ranks(size).run(_checks) == [(True, True)] * size


def _compiled(world: World) -> tuple[float, list[float], list[str]]:
    """Value and gradient of a compiled loss, and the operations of each graph that was compiled."""
    graphs: list[str] = []

    def record(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(" ".join(str(node.target) for node in graph.graph.nodes))
        return graph.forward

    def loss(x: Tensor) -> Tensor:
        return (world.sum_with_grad(x * 2) ** 3).sum()

    x = torch.full((2,), 1.0 + world.rank, requires_grad=True)
    value = torch.compile(loss, backend=record)(x)
    (slope,) = torch.autograd.grad(value, x)
    return value.item(), slope.tolist(), graphs


def test_sum_with_grad_stays_out_of_compiled_graphs(ranks: Ranks) -> None:
    total = 2 * (1.0 + 2.0)
    slope = 2 * (3 * total**2) * 2  # Both ranks' losses move with each rank's share.
    for value, slopes, graphs in ranks(2).run(_compiled):
        assert (value, slopes) == (2 * total**3, [slope, slope])
        before, after = graphs
        assert "mul" in before
        assert "pow" in after


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def _collective_warnings(world: World) -> list[str]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _collect(world)
    return [str(warning.message) for warning in told]


def test_collectives_warn_of_nothing(ranks: Ranks) -> None:
    assert ranks(2).run(_collective_warnings) == [[], []]


def _disagree(world: World) -> str:
    digests = {"g/a": "same", "g/b": f"{world.rank // 3}" * 64}
    if world.rank == 1:
        digests["g/c"] = "only here"
    world.assert_same({"a": "1"}, "what agrees")
    with pytest.raises(ClusterError) as raised:
        world.assert_same(digests, "state")
    return str(raised.value)


def test_assert_same_names_the_entry_and_the_ranks(ranks: Ranks) -> None:
    text = (
        "state: 'g/b' is not the same on all ranks: 000000000000 on ranks 0, 1, 2; 111111111111 on rank 3 "
        "(and 1 more entries differ)"
    )
    assert ranks(4).run(_disagree) == [text] * 4


def _fail_on(world: World, failing: list[int]) -> str | None:
    try:
        with world.together():
            if world.rank in failing:
                raise ClusterUsageError(f"shard {world.rank} is missing")
    except ClusterError as error:
        return f"{type(error).__name__} {error}"
    return None


def test_a_block_is_left_together(ranks: Ranks) -> None:
    assert ranks(4).run(_fail_on, []) == [None] * 4
    others = "ClusterError rank 1: shard 1 is missing"
    own = [f"ClusterUsageError shard {rank} is missing" for rank in range(4)]
    assert ranks(4).run(_fail_on, [1, 2]) == [others, own[1], own[2], others]
    assert ranks(1).run(_fail_on, [0]) == [own[0]]


def _leave_rank_0_alone(world: World) -> str:
    world.barrier()  # A rank that is new has imported this module: what follows is a matter of seconds.
    if world.rank == 1:
        os._exit(0)
    with pytest.raises(ClusterError) as raised:
        world.all_reduce_sum(torch.zeros(2, 3))
    return str(raised.value)


def _waited(world: World) -> list[float]:
    """Seconds in collectives while the last rank comes late to one of every kind, and after that was asked."""
    world.barrier()  # None is late but on purpose.
    world.take_waited_s()
    for meet in (world.all_reduce_sum, world.all_gather, world.broadcast, world.sum_with_grad):
        if world.rank == world.size - 1:
            time.sleep(0.5)
        meet(torch.ones(1))
    return [world.take_waited_s(), world.take_waited_s()]


def test_a_rank_knows_how_long_it_waited_for_others(ranks: Ranks) -> None:
    (first, after), (late, _) = ranks(2).run(_waited)
    assert first > 1.0
    assert first > late
    assert after == 0
    assert World.single().take_waited_s() == 0


def test_a_rank_that_is_left_alone_says_so(ranks: Ranks) -> None:
    with pytest.raises(Exception, match="rank 1 of 2 failed:\nthe process ended") as raised:
        ranks(2).run(_leave_rank_0_alone)
    assert "rank 0" not in str(raised.value)  # It raised in time, as it should.


# ---- from_env --------------------------------------------------------------------------------------------------------


FITTING = dict(zip(TORCHRUN, ["0", "2", "0", "localhost", "1"], strict=True))


def _set(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, LOCAL_RANK="3")
    with World.from_env("cpu") as world:
        assert (world.rank, world.size, world.local_rank, world.device.type) == (0, 1, 0, "cpu")


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"RANK": "0"}, "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT missing in the environment beside RANK=0"),
        ({"WORLD_SIZE": "2", "MASTER_PORT": "1"}, "RANK, LOCAL_RANK, MASTER_ADDR missing"),
        (dict.fromkeys(TORCHRUN, "2"), "RANK=2 must be at least 0 and less than WORLD_SIZE=2"),
        ({**FITTING, "MASTER_ADDR": ""}, "MASTER_ADDR missing in the environment beside RANK=0, WORLD_SIZE=2"),
        ({**FITTING, "MASTER_PORT": "65536"}, "MASTER_PORT=65536 in the environment is no port: 1 to 65535"),
        *[
            ({**FITTING, name: value}, f"{name}={value!r} in the environment is not a whole number")
            for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
            for value in ("x", "-1", "1.5", "\u0661")
        ],
    ],
)
def test_a_broken_environment_is_named(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], text: str) -> None:
    _set(monkeypatch, **variables)
    with pytest.raises(ClusterUsageError) as raised:
        World.from_env("cpu")
    assert text in str(raised.value)


@pytest.mark.parametrize(("device", "text"), [("tpu", "unknown"), ("meta", "not supported"), ("cuda:99", "GPU")])
def test_a_device_that_cannot_be_is_named(device: str, text: str) -> None:
    with pytest.raises(ClusterUsageError, match=text):
        World.single(device)


def _join_as_torchrun_lets_it(world: World, results: Path, port: int) -> None:
    """Fork two processes with the variables that torchrun sets, and let them join."""
    children = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                os.environ |= dict(zip(TORCHRUN, [str(rank), "2", str(rank), "127.0.0.1", str(port)], strict=True))
                with World.from_env("cpu", timeout_min=1) as joined:
                    own = [joined.rank, joined.local_rank, joined.device.type]
                    (results / str(rank)).write_text(json.dumps(joined.all_gather_json(own)))
                os._exit(0 if not dist.is_initialized() else 2)
            finally:
                os._exit(1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]


def test_torchrun_s_variables_make_a_world(ranks: Ranks, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks(1).run(_join_as_torchrun_lets_it, tmp_path, port)
    for rank in range(2):
        assert json.loads((tmp_path / str(rank)).read_text()) == [[0, 0, "cpu"], [1, 1, "cpu"]]


def test_a_world_that_nobody_joins_says_where_it_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    with pytest.raises(
        MachineError, match=r"^rank 1 of 2 could not join the others at 127.0.0.1:1: .*refused, for 0.6 s$"
    ):
        World.from_env("cpu", timeout_min=0.01)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_name_that_does_not_resolve_takes_no_longer_than_the_timeout(
    monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    """However long the resolver takes for an answer."""
    answers = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: answers.wait(60) and [])
    _set(monkeypatch, RANK=rank, WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="n1", MASTER_PORT="1")
    with pytest.raises(MachineError, match=r"could not join the others at n1:1: its name was not resolved, for 0.6 s$"):
        World.from_env("cpu", timeout_min=0.01)
    assert not answers.is_set()
    answers.set()


@pytest.mark.parametrize(("kind", "torn_down"), [("cpu", True), ("cuda", False)])
def test_an_error_on_one_gpu_does_not_wait_for_the_others(kind: str, torn_down: bool) -> None:
    """NCCL would not come back before they do, who wait for this rank."""
    for raises in (False, True):
        world = World(0, 2, 0, torch.device(kind))
        world._owns_process_group = True
        with mock.patch("torch.distributed.destroy_process_group") as destroy:
            try:
                with world:
                    if raises:
                        raise ClusterError("a shard is damaged")
            except ClusterError:
                pass
        assert destroy.called == (torn_down or not raises)


def test_a_gpu_that_was_given_and_is_not_there_is_not_replaced_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for given in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert World.from_env().device.type == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(MachineError, match="CUDA_VISIBLE_DEVICES=3, but torch can use no GPU"):
        World.from_env()
    assert World.from_env("cpu").device.type == "cpu"
