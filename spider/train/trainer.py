"""Everything that trains, as one object: an iteration of it, and its state.

The trainer knows no method. It lets the phases of its plan take their steps (`spider.train.stepper`) on what the feeds
draw for them, moves the clock, and tells the methods. What is drawn, weighed and minimised are the choices of the
configuration (`spider.train.plan`).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from cluster.checkpoint import Snapshot
from cluster.world import World
from spider.clock import crosses
from spider.config.schema import Config
from spider.data import open_images
from spider.gan.auxiliary.build import build_auxiliaries
from spider.gan.conditions.build import build_conditions
from spider.gan.ema import Ema
from spider.gan.init.derived import derive_missing
from spider.gan.init.fit import Fit, fit_weights
from spider.gan.init.freeze import expected
from spider.gan.init.read import read_weights
from spider.gan.networks.balance import remarks_on_sizes
from spider.gan.saved import load_saved, named_weights, saved_tensors
from spider.gan.sources.frozen import FrozenGenerator
from spider.runs.directory import STATE_FORMAT
from spider.runs.generator import open_source
from spider.runs.stored import stored_tensors
from spider.train.compute import Compute
from spider.train.feeds import Feeds
from spider.train.plan import build_plan
from spider.train.stepper import Stepper


class Trainer:
    """Players, phases, method states and the clock.

    Attributes:
        images: images shown so far, the clock. One iteration adds the global batch, whatever its phases draw.
    """

    def __init__(self, config: Config, world: World) -> None:
        config.for_world(world.size)
        self.config = config
        self.world = world
        self.images = 0
        self.dataset = open_images(config.data.path)
        self.image_shape = self.dataset.index.shape
        compute = Compute(config.compute, world.device)
        self.source = open_source(config.source, self.image_shape, world.device, compute.dtype)
        self.conditions = build_conditions(config.condition, self.dataset, paired_objective=config.objective.paired)
        self.plan = plan = build_plan(config, world, self.source, self.image_shape, self.conditions, compute)
        self.generator, self.discriminator = plan.generator, plan.discriminator
        self.ema = Ema(config.ema, self.generator.module)
        self.feeds = Feeds(config, world, self.dataset, self.source, self.conditions, plan.phases, compute)
        # What is saved, by the names of the checkpoint's files
        self._networks = {**plan.modules, "generator_ema": self.ema.module}
        self._optimizers = {"g_optimizer": self.generator, "d_optimizer": self.discriminator}
        self.stepper = Stepper(config, world, plan)

    # ------------------------------------------------------------------------------------------------ one iteration

    @property
    def step(self) -> int:
        """Iterations done."""
        return self.images // self.config.batch

    @property
    def warnings(self) -> list[str]:
        """What the last iteration had to say."""
        return self.stepper.warnings

    @property
    def remarks(self) -> list[str]:
        """What the person who trains should know of what is learnt, and of what learns it."""
        given = expected(self._networks, self.config.init).frozen
        return [*self.conditions.remarks, *remarks_on_sizes(self.plan.players, given, self.config)]

    def iterate(self) -> None:
        """One iteration: every phase that is due takes its steps, and the clock moves by the batch."""
        step = self.step
        for phase in self.plan.phases:
            if phase.due(step):
                for turn in range(phase.repeat):
                    parts = self.feeds.draw(phase, step, turn)
                    if passes := phase.passes_at(step, self.images):
                        self.stepper.take(phase, passes, parts)
        self.ema.update(self.generator.module, self.config.batch, self.images)
        self.images += self.config.batch
        sums = self.stepper.settle()
        for method in self.plan.methods.values():
            method.iterated(step, self.images, sums)

    def due(self, every_kimg: float | None) -> bool:
        """Whether the last iteration reached or passed a multiple of `every_kimg`; None is never."""
        return crosses(self.images, self.config.batch, every_kimg)

    def close(self) -> None:
        """Let go of the threads and processes that read ahead."""
        self.feeds.close()

    # --------------------------------------------------------------------------------------------------------- state

    def frozen(self) -> FrozenGenerator:
        """The averaged generator as it is now."""
        device, data = self.world.device, self.dataset.fingerprint
        return FrozenGenerator(self.ema.module, self.source, self.conditions, self.image_shape, device, training=data)

    def facts(self) -> dict[str, Any]:
        """What environment.json says of the training."""
        return {
            "world_size": self.world.size,
            "engine": self.generator.engine.name,
            "device": self.world.device_name,
            "data": {"fingerprint": self.dataset.fingerprint, "images": len(self.dataset)},
            "source": self.source.provenance(),
            "parameters": {p.name: sum(tensor.numel() for tensor in p.parameters) for p in self._optimizers.values()},
        }

    def optimized(self) -> dict[str, list[nn.Parameter]]:
        """The groups of a snapshot that are an optimizer's, each with the parameters that it moves."""
        return {group: player.parameters for group, player in self._optimizers.items()}

    def snapshot(self) -> Snapshot:
        """The whole state. Between iterations only. Collective."""
        optimizers = {group: player.engine.optimizer_state() for group, player in self._optimizers.items()}
        inputs = {"data": self.dataset.fingerprint, "source": self.source.identity}  # by content
        remembered = {name: method.tensors() for name, method in self.plan.methods.items()}
        return Snapshot(
            tensors={
                **{group: saved_tensors(module) for group, module in self._networks.items()},
                **{name: tensors for name, tensors in remembered.items() if tensors},
                **{group: moments for group, (moments, _) in optimizers.items()},
            },
            state={
                "format": STATE_FORMAT,
                "images": self.images,
                "image_shape": list(self.image_shape),
                "inputs": {**inputs, "weights": named_weights(self.plan.modules)},
                **{group: rest for group, (_, rest) in optimizers.items()},
                **{name: method.state() for name, method in self.plan.methods.items()},
            },
        )

    def begin(self) -> dict[str, Fit]:
        """Take over the weights that the settings name for a run that begins, and tell how they fit. Collective.

        Raises SpiderUsageError, SpiderError, ClusterError: see `read_weights` and `fit_weights`.
        """
        given = read_weights(self.config.init, stored_tensors)
        if not given:
            return {}
        snapshot, meant = self.snapshot(), expected(self._networks, self.config.init)
        placed, fits = fit_weights(snapshot.tensors, given, self.config.init, meant)
        if "discriminator" in placed:  # An auxiliary may hold a copy: it begins as if it were built on the given one
            network, told = self.discriminator.module, (self.image_shape, self.conditions.shape, self.world.device)
            load_saved(network, placed["discriminator"])
            for each in build_auxiliaries(self.config.auxiliary, network, *told, self.config.seed):
                placed |= each.saved()
        self.load(Snapshot({**snapshot.tensors, **placed}, snapshot.state))
        derive_missing(self._networks, fits)
        return fits

    def load(self, snapshot: Snapshot) -> None:
        """Take over a state that fits (see `spider.runs.stored`)."""
        for group, module in self._networks.items():
            load_saved(module, snapshot.tensors[group])
        for group, player in self._optimizers.items():
            player.engine.load_optimizer_state(snapshot.tensors[group], snapshot.state[group])
        for name, method in self.plan.methods.items():
            method.load(snapshot.state[name])
            for key, tensor in method.tensors().items():
                tensor.copy_(snapshot.tensors[name][key])
        self.images = snapshot.state["images"]
        self.feeds.close()
