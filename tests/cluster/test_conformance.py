"""Every engine plays the same game: two players, Adam, penalties on both, as plain autograd plays it alone.

One body for all of them: several steps of discriminator, R1 in a phase of its own, generator, and a penalty on the
generator's Jacobian; losses that select samples, so that a rank may have none; micro-batches; parameter groups; a
frozen layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from cluster.engines.engine import Engine, build_engine
from cluster.errors import ClusterUsageError
from cluster.world import World

if TYPE_CHECKING:
    from tests.cluster.ranks import Ranks

BATCH, STEPS = 8, 6
ERROR = 1e-6
PHASES = ("d_main", "d_reg", "g_main", "g_reg")
CUTS = [("local", 1), ("ddp", 1), ("ddp", 2), ("ddp", 4), *((f"deepspeed-{stage}", 2) for stage in (0, 1, 2))]


class Game:
    """Networks and optimizers; the discriminator's first layer is frozen, its last has a learning rate of its own."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.g = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.d = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 6), nn.Softplus(), nn.Linear(6, 1))
        self.d[0].requires_grad_(False)
        self.g_parameters = list(self.g.parameters())
        self.d_parameters = [parameter for parameter in self.d.parameters() if parameter.requires_grad]
        adam: dict[str, Any] = {"lr": 2e-3, "betas": (0.0, 0.99), "fused": True}
        self.g_optimizer = torch.optim.Adam(self.g_parameters, **adam)
        groups = [{"params": self.d_parameters[:2]}, {"params": self.d_parameters[2:], "lr": 5e-3}]
        self.d_optimizer = torch.optim.Adam(groups, **adam)

    def parameters(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in (*self.g.parameters(), *self.d.parameters())]

    def share(self, phase: str, step: int, slots: slice) -> Tensor:
        """These slots' part of the phase's mean over the global batch."""
        random = torch.Generator().manual_seed(step)
        x, z = torch.randn(BATCH, 3, generator=random)[slots], torch.randn(BATCH, 4, generator=random)[slots]
        if phase == "d_main":
            with torch.no_grad():
                fake = self.g(z)
            return (nn.functional.softplus(-self.d(x)).sum() + nn.functional.softplus(self.d(fake)).sum()) / BATCH
        if phase == "d_reg":
            x = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.d(x).sum(), x, create_graph=True)
            return 5 * slope.square().sum() / BATCH
        if phase == "g_main":  # two samples are selected, slots 2 and 6, which are on one rank
            selected = torch.zeros(BATCH)
            selected[2::4] = 1
            return (selected[slots] * nn.functional.softplus(-self.d(self.g(z)))[:, 0]).sum() / 2
        z = z.clone().requires_grad_()
        image = self.g(z)
        (jacobian,) = torch.autograd.grad((image * image.detach().sign()).sum(), z, create_graph=True)
        return (jacobian.square().sum(1) - 1).square().sum() / BATCH


def plain(steps: int, skip: tuple[int, str] | None = None) -> list[Tensor]:
    """The parameters after so many steps of plain autograd on the global batch."""
    game = Game()
    for step in range(steps):
        for phase in PHASES:
            parameters = game.d_parameters if phase[0] == "d" else game.g_parameters
            optimizer = game.d_optimizer if phase[0] == "d" else game.g_optimizer
            share = game.share(phase, step, slice(None))
            for parameter, gradient in zip(
                parameters, torch.autograd.grad(share, parameters, materialize_grads=True), strict=True
            ):
                parameter.grad = gradient
            if (step, phase) != skip:
                optimizer.step()
    return game.parameters()


class Player:
    """The game under an engine."""

    def __init__(self, world: World, engine: str, accumulation: int) -> None:
        self.world, self.accumulation, self.game = world, accumulation, Game()
        kind, _, stage = engine.partition("-")

        def build(module: nn.Module, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> Engine:
            return build_engine(kind, module, parameters, optimizer, world, zero_stage=int(stage or 0))  # type: ignore[arg-type]

        self.engines = {
            "g": build(self.game.g, self.game.g_parameters, self.game.g_optimizer),
            "d": build(self.game.d, self.game.d_parameters, self.game.d_optimizer),
        }

    def play(
        self, steps: range, spoil: Callable[[int, str, int, Tensor], Tensor] = lambda *about: about[3]
    ) -> list[Any]:
        """Play; what was not finite, by step. A spoilt step is not taken."""
        skipped = []
        for step in steps:
            for phase in PHASES:
                engine = self.engines[phase[0]]
                for parameters, mine in ((self.game.g_parameters, "g"), (self.game.d_parameters, "d")):
                    for parameter in parameters:
                        parameter.requires_grad_(mine == phase[0])
                engine.zero_grad()
                for micro in range(self.accumulation):
                    slots = slice(self.world.rank + micro * self.world.size, None, self.world.size * self.accumulation)
                    share = spoil(step, phase, self.world.rank, self.game.share(phase, step, slots))
                    engine.backward(share, last=micro == self.accumulation - 1)
                norm, finite = engine.measure()
                engine.step(norm.isfinite())
                if not bool(norm.isfinite()):
                    skipped.append((step, phase, engine.non_finite(finite)))
        return skipped

    def state(self) -> dict[str, Any]:
        found = {}
        for name, module in (("g", self.game.g), ("d", self.game.d)):
            tensors, rest = self.engines[name].optimizer_state()
            found[name] = (copy.deepcopy(module.state_dict()), copy.deepcopy(tensors), copy.deepcopy(rest))
        return found

    def load(self, state: dict[str, Any]) -> None:
        modules = {"g": self.game.g, "d": self.game.d}
        for name, (weights, tensors, rest) in state.items():
            modules[name].load_state_dict(weights)
            self.engines[name].load_optimizer_state(tensors, rest)


def _played(world: World, engine: str, accumulation: int) -> list[Tensor]:
    player = Player(world, engine, accumulation)
    assert player.play(range(STEPS)) == []
    return player.game.parameters()


def _assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    assert max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True)) < ERROR


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("engine", "size"), CUTS)
def test_six_steps_are_those_of_plain_autograd(ranks: Ranks, engine: str, size: int, accumulation: int) -> None:
    on_ranks = ranks(size).run(_played, engine, accumulation)
    for parameters in on_ranks:
        _assert_near(parameters, plain(STEPS))
        assert all(torch.equal(a, b) for a, b in zip(parameters, on_ranks[0], strict=True))


def _state_after(world: World, engine: str, steps: int) -> dict[str, Any]:
    player = Player(world, engine, 1)
    player.play(range(steps))
    return player.state()


def _went_on(world: World, engine: str, state: dict[str, Any], start: int) -> tuple[list[Tensor], dict[str, Any]]:
    player = Player(world, engine, 1)
    player.load(state)
    again = player.state()
    player.play(range(start, STEPS))
    return player.game.parameters(), again


@pytest.mark.parametrize(("after", "size_after"), CUTS)
@pytest.mark.parametrize(("before", "size_before"), [("local", 1), ("ddp", 4), ("deepspeed-0", 2), ("deepspeed-2", 2)])
def test_a_state_goes_on_under_any_engine(
    ranks: Ranks, before: str, size_before: int, after: str, size_after: int
) -> None:
    states = ranks(size_before).run(_state_after, before, 3)
    found = ranks(size_after).run(_went_on, after, states[0], 3)
    for parameters, again in found:
        _assert_near(parameters, plain(STEPS))
        for name, (weights, tensors, rest) in states[0].items():
            assert again[name][1].keys() == tensors.keys()
            assert all(torch.equal(again[name][1][key], value) for key, value in tensors.items())
            assert all(torch.equal(again[name][0][key], value) for key, value in weights.items())
            groups = [key for key in rest if key.startswith("group.")]
            assert [again[name][2][key]["params"] for key in groups] == [rest[key]["params"] for key in groups]


@pytest.mark.parametrize(("engine", "size"), CUTS)
def test_a_state_before_the_first_step_is_one(ranks: Ranks, engine: str, size: int) -> None:
    (state, *_) = ranks(size).run(_state_after, engine, 0)
    for parameters, _ in ranks(size).run(_went_on, engine, state, 0):
        _assert_near(parameters, plain(STEPS))


def _spoilt(world: World, engine: str) -> tuple[list[Any], list[Tensor]]:
    def spoil(step: int, phase: str, rank: int, share: Tensor) -> Tensor:
        bad = (step, phase) == (2, "d_main") and rank == world.size - 1
        return share * float("nan") if bad else share

    player = Player(world, engine, 1)
    skipped = player.play(range(STEPS), spoil)
    return skipped, player.game.parameters()


@pytest.mark.parametrize(("engine", "size"), CUTS)
def test_the_rank_that_is_not_finite_is_named_and_the_step_leaves_no_trace(
    ranks: Ranks, engine: str, size: int
) -> None:
    for skipped, parameters in ranks(size).run(_spoilt, engine):
        ((step, phase, named),) = skipped
        assert (step, phase) == (2, "d_main")
        assert set(named) == {"1.weight", "1.bias", "3.weight", "3.bias"}
        assert all(at == [size - 1] for at in named.values())
        _assert_near(parameters, plain(STEPS, skip=(2, "d_main")))


def _norms(world: World, engine: str) -> list[float]:
    player = Player(world, engine, 1)
    for parameter in player.game.d_parameters:
        parameter.requires_grad_(False)
    engine_of = player.engines["g"]
    engine_of.zero_grad()
    share = player.game.share("g_main", 0, slice(world.rank, None, world.size))
    engine_of.backward(share * 4, last=True)
    norm, _ = engine_of.measure(4.0)
    engine_of.step(norm.isfinite())
    return [norm.item(), *(parameter.sum().item() for parameter in player.game.g_parameters)]


@pytest.mark.parametrize(("engine", "size"), CUTS[1:])
def test_norm_and_scale_are_those_of_one_process(ranks: Ranks, engine: str, size: int) -> None:
    (alone,) = ranks(1).run(_norms, "local")
    for found in ranks(size).run(_norms, engine):
        assert found == pytest.approx(alone, abs=1e-5)


def _refusal(world: World, stage: int, dtype: torch.dtype) -> str:
    module = nn.Linear(2, 2).to(dtype)
    try:
        build_engine(
            "deepspeed",
            module,
            list(module.parameters()),
            torch.optim.Adam(module.parameters(), fused=True),
            world,
            zero_stage=stage,
        )
    except ClusterUsageError as error:
        return str(error)
    return "nothing"


def test_what_deepspeed_cannot_do_exactly_is_refused(ranks: Ranks) -> None:
    for size, stage, dtype, said in [
        (2, 3, torch.float32, "no gradient of a gradient can be taken"),
        (2, 4, torch.float32, "choose 0, 1 or 2"),
        (2, 1, torch.float64, "sums float32 only"),
        (1, 1, torch.float32, "serves several processes"),
    ]:
        assert all(said in refusal for refusal in ranks(size).run(_refusal, stage, dtype))
