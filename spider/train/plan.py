"""From a configuration to players and phases: the one place of a training that knows all axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from cluster.engines.adam import Adam
from cluster.engines.engine import build_engine
from cluster.world import World
from spider.config.schema import Config, OptimizerConfig
from spider.gan.augment.build import build_augmentations
from spider.gan.auxiliary.auxiliary import Role
from spider.gan.auxiliary.build import Joined, build_auxiliaries
from spider.gan.conditions.conditions import Conditions
from spider.gan.init.freeze import freeze_first_layers
from spider.gan.method import Method
from spider.gan.networks.build import build_discriminator, build_generator
from spider.gan.objectives import build as objectives
from spider.gan.objectives.objective import Objective
from spider.gan.overfit.controller import OverfitController
from spider.gan.selection.select import Selection
from spider.gan.sources.source import Source
from spider.runs.stats import Stats
from spider.train import passes
from spider.train.batch import PhaseBatch
from spider.train.compute import Compute
from spider.train.guard import Guard
from spider.train.phases import Pass, Phase
from spider.train.player import Player

# The order in which the methods hear of an iteration. It matters where one heeds what another has just become
ORDER = (
    "overfit",  # before the selection, whose k walks by the p that this iteration gives
    "selection",
    "augment",  # every member steers a p of its own, from what the passes reported
    "networks",  # a network that remembers, of either player: it hears what its own outputs kept
    "condition",  # hears nothing: it keeps what a finished generator needs
    "objective",  # one that remembers: it heeds what its own losses kept
    "auxiliary",  # every member heeds what its own terms kept
    "g_penalties",  # every member heeds what its own values kept
    "guard",  # hears nothing: it is told of each step
    "stats",  # adds up what the passes reported
)


@dataclass(frozen=True)
class Plan:
    """Who trains, the phases of an iteration in order, and what remembers."""

    generator: Player
    discriminator: Player
    phases: tuple[Phase, ...]
    methods: dict[str, Method]  # by the names of `ORDER`, in that order; of a list each member, "augment.0", ...
    overfit: OverfitController
    selection: Selection
    guard: Guard
    stats: Stats

    @property
    def players(self) -> tuple[Player, Player]:
        """Both."""
        return self.generator, self.discriminator

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that has weights, by the names under which a checkpoint holds them."""
        return {**self.generator.modules(), **self.discriminator.modules()}


def build_plan(
    config: Config,
    world: World,
    source: Source,
    image_shape: tuple[int, int, int],
    conditions: Conditions,
    compute: Compute,
) -> Plan:
    """The players and phases that a configuration describes.

    Args:
        source: what the generator is fed.
        image_shape: (C, H, W) of the images to learn.
        conditions: what the networks are told.
        compute: on the world's device.
    """
    told, seed, sliced = conditions.shape, config.seed, config.objective.slicing
    generator = build_generator(config.generator, source, image_shape, world, seed, told)
    discriminator = build_discriminator(config.discriminator, image_shape, world, seed, told, sliced=sliced)
    freeze_first_layers(discriminator, config.init)
    objective = objectives.build_objective(config.objective, discriminator, world.device)
    joined = build_auxiliaries(config.auxiliary, discriminator, image_shape, told, world.device, seed)
    g_penalties = objectives.build_generator_penalties(config.g_penalties, image_shape, world.device)
    g_interval = config.g_penalties.interval_steps if g_penalties else None
    # A step of its own comes after so many steps of the discriminator
    d_interval = config.penalties.interval_steps * config.d_steps if config.penalties.has_own_step else None
    g_player = _player("generator", generator, joined, config.g_optimizer, g_interval, config, compute, world)
    d_player = _player("discriminator", discriminator, joined, config.d_optimizer, d_interval, config, compute, world)
    augmentations = build_augmentations(config.augment, config.batch, image_shape, discriminator)
    maker, critic = passes.Maker(g_player, compute.autocast), passes.Critic(d_player, augmentations, compute.autocast)
    overfit = OverfitController(config.overfit, config.batch)
    selection = Selection(config.selection, config.batch, config.seed, overfit)
    guard, stats = Guard(config.guard), Stats()
    named: dict[str, dict[str, Method]] = {
        "overfit": {"overfit": overfit},
        "selection": {"selection": selection},
        "augment": {f"augment.{i}": augmentation for i, augmentation in enumerate(augmentations)},
        "networks": {each.method: each.module for each in (g_player, d_player) if isinstance(each.module, Method)},
        "condition": {"condition": conditions},
        "objective": {"objective": objective} if isinstance(objective, Method) else {},
        "auxiliary": {each.name: each.auxiliary for each in joined},
        "g_penalties": {each.name: each.penalty for each in g_penalties},
        "guard": {"guard": guard},
        "stats": {"stats": stats},
    }
    methods = {name: method for each in ORDER for name, method in named[each].items()}
    phases = [*_phases(config, maker, critic, objective, joined, g_penalties)]
    phases.sort(key=lambda phase: phase.player.name != config.first_player)
    return Plan(g_player, d_player, tuple(phases), methods, overfit, selection, guard, stats)


def _phases(
    config: Config,
    maker: passes.Maker,
    critic: passes.Critic,
    objective: Objective,
    joined: Sequence[Joined],
    g_penalties: Sequence[objectives.GeneratorPenaltyTerm],
) -> Iterator[Phase]:
    """What an iteration does, in the order of each player."""
    penalties, own, every = config.penalties, config.penalties.has_own_step, config.penalties.interval_steps
    d_penalties, gain = [*objectives.build_penalties(penalties)], config.d_steps if own else 1
    penalty = Pass(passes.DiscriminatorPenalty(critic, d_penalties, gain * every), every)
    d_pass = Pass(passes.DiscriminatorLoss(maker, critic, objective, joined))
    d_passes = (d_pass, penalty) if penalties.active and not own else (d_pass,)

    def prepare(batch: PhaseBatch) -> PhaseBatch:
        return critic.taking(maker.given(batch))

    yield Phase("d_main", critic.discriminator, d_passes, repeat=config.d_steps, reals="own", prepare=prepare)
    if own:
        needs_fakes = penalties.needs_fakes or any(each.swaps for each in critic.augmentations)
        yield Phase(
            "d_reg",
            critic.discriminator,
            (penalty,),
            every_steps=every,
            reals="shared",
            source="shared",
            prepare=prepare if needs_fakes else None,
            weights=[each.weight for each in d_penalties],
        )
    g_pass = Pass(passes.GeneratorLoss(maker, critic, objective, joined))
    yield Phase("g_main", maker.generator, (g_pass,), reals=config.objective.g_reals if objective.paired else "none")
    if g_penalties:
        interval = config.g_penalties.interval_steps
        yield Phase(
            "g_reg",
            maker.generator,
            (Pass(passes.GeneratorPenalties(maker, g_penalties, interval)),),
            every_steps=interval,
            shrink=config.g_penalties.batch_shrink,
            reals="shared" if objective.paired else "none",  # for their conditions
            weights=[each.weight for each in g_penalties],
        )


def _player(
    name: Role,
    module: nn.Module,
    joined: Sequence[Joined],
    optimizer: OptimizerConfig,
    own_interval: int | None,
    config: Config,
    compute: Compute,
    world: World,
) -> Player:
    """A player of a network and of the parts that auxiliaries bring for it."""
    brought = {each.part: (each.auxiliary.parts().get(name), each.choice.lr_factor) for each in joined}
    module = compute.prepared(module)
    parts = {part: compute.prepared(each) for part, (each, _) in brought.items() if each is not None}
    whole = nn.ModuleDict({name: module, **parts}) if parts else module
    # Of those that train something: DeepSpeed takes no empty group
    factors = {
        part: brought[part][1] for part, each in parts.items() if any(p.requires_grad for p in each.parameters())
    }
    groups = [
        [(prefix + n, p) for n, p in each.named_parameters() if p.requires_grad]
        for prefix, each in [("", module), *((f"{part}.", parts[part]) for part in factors)]
    ]
    trainable = tuple(each for group in groups for each in group)
    parameters = [parameter for _, parameter in trainable]
    schedules = partial(optimizer.at, own_phase_interval=own_interval)
    adam = Adam([{"params": [p for _, p in group]} for group in groups], eps=optimizer.eps, fused=True, **schedules(0))
    kind = config.engine.kind if config.engine.kind != "auto" else ("ddp" if world.size > 1 else "local")
    engine = build_engine(kind, whole, parameters, adam, world, zero_stage=config.engine.zero_stage)
    whole.requires_grad_(False)
    lr_factors = (1.0, *factors.values())
    return Player(name, module, parts, compute.compiled(module), trainable, adam, engine, schedules, lr_factors)
