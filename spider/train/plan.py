"""From a configuration to players and phases: the one place of a training that knows all axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from cluster.engines.adam import Adam
from cluster.engines.engine import build_engine
from cluster.world import World
from spider.config.schema import Config, OptimizerConfig
from spider.gan.augment.augmentation import Augmentation
from spider.gan.augment.build import build_augmentations
from spider.gan.auxiliary.auxiliary import Role
from spider.gan.auxiliary.build import Joined, build_auxiliaries
from spider.gan.init.freeze import freeze_first_layers
from spider.gan.method import Method
from spider.gan.networks.build import build_discriminator, build_generator
from spider.gan.objectives import build as objectives
from spider.gan.objectives.objective import Objective
from spider.gan.outputs import ConditionShape
from spider.gan.overfit.controller import OverfitController
from spider.gan.selection.select import Selection
from spider.gan.sources.source import Source
from spider.train import passes
from spider.train.compute import Compute
from spider.train.guard import Guard
from spider.train.phases import Pass, Phase
from spider.train.player import Player
from spider.train.stats import Stats

# The order in which the methods hear of an iteration. It matters where one heeds what another has just become
ORDER = (
    "overfit",  # before the selection, whose k walks by the p that this iteration gives
    "selection",
    "augment",  # every member steers a p of its own, from what the passes reported
    "networks",  # a network that remembers, of either player: it hears what its own outputs kept
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


def build_plan(
    config: Config,
    world: World,
    source: Source,
    image_shape: tuple[int, int, int],
    told: ConditionShape,
    compute: Compute,
) -> Plan:
    """The players and phases that a configuration describes.

    Args:
        source: what the generator is fed.
        image_shape: (C, H, W) of the images to learn.
        told: what the networks are told of every image.
        compute: on the world's device.
    """
    penalties = config.penalties
    own_penalty = penalties.phase == "own" and penalties.active
    # A step of its own comes after so many steps of the discriminator
    interval = penalties.interval_steps * config.d_steps if own_penalty else None

    def player(name: Role, module: nn.Module, optimizer: OptimizerConfig, own_interval: int | None) -> Player:
        found = [(each, each.auxiliary.parts().get(name)) for each in joined]
        parts = {each.name.replace(".", ""): (part, each.choice.lr_factor) for each, part in found if part is not None}
        return _player(name, module, parts, optimizer, own_interval, config, compute, world)

    generator = build_generator(config.generator, source, image_shape, world, config.seed, told)
    discriminator = build_discriminator(config.discriminator, image_shape, world, config.seed, told)
    freeze_first_layers(discriminator, config.init)
    objective = objectives.build_objective(config.objective, discriminator, world.device)
    joined = build_auxiliaries(config.auxiliary, discriminator, image_shape, told, world.device, config.seed)
    g_penalties = objectives.build_generator_penalties(config.g_penalties, image_shape, world.device)
    g_interval = config.g_penalties.interval_steps if g_penalties else None
    g_player = player("generator", generator, config.g_optimizer, g_interval)
    d_player = player("discriminator", discriminator, config.d_optimizer, interval)

    augmentations = build_augmentations(config.augment, config.batch, image_shape)
    phases = _phases(config, compute, g_player, d_player, augmentations, objective, joined, g_penalties)
    overfit = OverfitController(config.overfit, config.batch)
    selection = Selection(config.selection, config.batch, config.seed, overfit)
    guard, stats = Guard(config.guard), Stats()
    named: dict[str, dict[str, Method]] = {
        "overfit": {"overfit": overfit},
        "selection": {"selection": selection},
        "augment": {f"augment.{i}": augmentation for i, augmentation in enumerate(augmentations)},
        "networks": {each.method: each.module for each in (g_player, d_player) if isinstance(each.module, Method)},
        "objective": {"objective": objective} if isinstance(objective, Method) else {},
        "auxiliary": {each.name: each.auxiliary for each in joined},
        "g_penalties": {each.name: each.penalty for each in g_penalties},
        "guard": {"guard": guard},
        "stats": {"stats": stats},
    }
    methods = {name: method for each in ORDER for name, method in named[each].items()}
    return Plan(g_player, d_player, phases, methods, overfit, selection, guard, stats)


def _phases(
    config: Config,
    compute: Compute,
    g_player: Player,
    d_player: Player,
    augmentations: Sequence[Augmentation],
    objective: Objective,
    joined: Sequence[Joined],
    g_penalties: Sequence[objectives.GeneratorPenaltyTerm],
) -> tuple[Phase, ...]:
    """What an iteration does, in order."""
    penalties = config.penalties
    own_penalty = penalties.phase == "own" and penalties.active
    maker, critic = passes.Maker(g_player, compute.autocast), passes.Critic(d_player, augmentations, compute.autocast)
    prepare = passes.Prepare(maker, augmentations)
    gain = penalties.interval_steps * (config.d_steps if own_penalty else 1)
    penalty = Pass(
        passes.DiscriminatorPenalty(critic, [*objectives.build_penalties(penalties)], gain), penalties.interval_steps
    )
    d_passes = [Pass(passes.DiscriminatorLoss(critic, objective, joined))]
    if penalties.active and not own_penalty:
        d_passes.append(penalty)
    phases = [Phase("d_main", d_player, tuple(d_passes), repeat=config.d_steps, reals="own", prepare=prepare)]
    if own_penalty:
        phases.append(
            Phase(
                "d_reg",
                d_player,
                (penalty,),
                every_steps=penalties.interval_steps,
                reals="shared",
                source="shared",
                prepare=prepare if penalties.needs_fakes or any(each.swaps for each in augmentations) else None,
            )
        )
    phases.append(
        Phase(
            "g_main",
            g_player,
            (Pass(passes.GeneratorLoss(maker, critic, objective, joined)),),
            reals=config.objective.g_reals if objective.paired else "none",
        )
    )
    return (*phases, _g_reg(config, maker, g_penalties)) if g_penalties else tuple(phases)


def _g_reg(config: Config, maker: passes.Maker, penalties: Sequence[objectives.GeneratorPenaltyTerm]) -> Phase:
    """The step of the penalties on the generator."""
    interval = config.g_penalties.interval_steps
    return Phase(
        "g_reg",
        maker.generator,
        (Pass(passes.GeneratorPenalties(maker, penalties, interval)),),
        every_steps=interval,
        shrink=config.g_penalties.batch_shrink,
        reals="shared" if config.objective.paired else "none",  # for their conditions
    )


def _player(
    name: Role,
    module: nn.Module,
    parts: Mapping[str, tuple[nn.Module, float]],
    optimizer: OptimizerConfig,
    own_interval: int | None,
    config: Config,
    compute: Compute,
    world: World,
) -> Player:
    """A player of a network and of parts, each a module and the factor of its learning rate."""
    module = compute.prepared(module)
    joining = {part: compute.prepared(each) for part, (each, _) in parts.items()}
    whole = nn.ModuleDict({name: module, **joining}) if parts else module
    # Of those that train something: DeepSpeed takes no empty group
    factors = {part: f for part, (each, f) in parts.items() if any(p.requires_grad for p in each.parameters())}
    groups = [
        [(prefix + n, p) for n, p in each.named_parameters() if p.requires_grad]
        for prefix, each in [("", module), *((f"{part}.", joining[part]) for part in factors)]
    ]
    trainable = tuple(each for group in groups for each in group)
    parameters = [parameter for _, parameter in trainable]
    schedules = partial(optimizer.at, own_phase_interval=own_interval)
    adam = Adam([{"params": [p for _, p in group]} for group in groups], eps=optimizer.eps, fused=True, **schedules(0))
    chosen = config.engine.kind
    kind = chosen if chosen != "auto" else ("ddp" if world.size > 1 else "local")
    engine = build_engine(kind, whole, parameters, adam, world, zero_stage=config.engine.zero_stage)
    whole.requires_grad_(False)
    lr_factors = (1.0, *factors.values())
    return Player(name, module, joining, compute.compiled(module), trainable, adam, engine, schedules, lr_factors)
