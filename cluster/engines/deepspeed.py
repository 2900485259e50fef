"""DeepSpeed: ZeRO stages 0, 1 and 2, one engine per player, exact also where gradients of gradients are taken.

Stage 0 keeps everything on every rank, stage 1 splits the optimizer's state over the ranks, stage 2 the reduced
gradients as well. Parameters stay whole; at stage 3 they would not, and no gradient of a gradient could be taken.

What DeepSpeed does by default and what is done about it (measured with 0.19.8, see docs/architecture.md):

- Its wrapper's forward hooks every output, so that a gradient penalty triggers a reduction, or an error. Forwards here
  go through the module itself.
- Every backward is the end of an accumulation unless told otherwise: two of them, and stages 1 and 2 lose the first.
  The boundary is set by hand.
- It divides gradients by the number of ranks, where shares of a sum are added: losses are multiplied by it before.
- It clips gradients to norm 1 from 0.19.3 on. Clipping is set to 0, which is none.
- At stages 1 and 2 it steps a copy of the parameters, and overwrites them with it. Whoever changes them says so.
- It sends all parameters from rank 0 at first, as bytes, which those without a dimension (StyleGAN2's strength of the
  noise) cannot be viewed as. They are the same on all ranks already, and nothing is sent.
- It compiles an extension for sums on CPUs. Nothing is compiled here: gloo does them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.optim import Optimizer

from cluster.engines.ddp import agree
from cluster.engines.local import LocalEngine, blame
from cluster.errors import ClusterError, ClusterUsageError
from cluster.world import World

OLDEST = "0.19.4"
STAGES = (0, 1, 2)

# As large as the buckets of the ddp engine: DeepSpeed allocates them whole, and its default of 5e8 elements is 2 GB
_BUCKET_ELEMENTS = 25 * 2**18


class DeepSpeedEngine(LocalEngine):
    """See `cluster.engines.engine.Engine`. Gradients may reach the parameters of this player alone."""

    def __init__(
        self, module: nn.Module, parameters: Sequence[nn.Parameter], optimizer: Optimizer, world: World, stage: int
    ) -> None:
        """Wrap them. Raises ClusterUsageError for what DeepSpeed cannot do exactly, with the reason."""
        _require(world, stage, parameters)
        super().__init__(module, parameters, optimizer)
        self.name = f"deepspeed, ZeRO {stage}"
        self._world, self._stage = world, stage
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        self._finite_here = torch.ones(len(self._parameters), dtype=torch.bool, device=world.device)
        for i, parameter in enumerate(self._parameters):
            parameter.register_hook(lambda gradient, i=i: self._note_whether_finite(i, gradient))  # type: ignore[no-untyped-call]
        agree(module, self._names, self._parameters, world)
        self._engine = _initialize(module, self._parameters, optimizer, world, stage)
        self._zero: Any = self._engine.optimizer

    def zero_grad(self) -> None:
        super().zero_grad()
        self._finite_here.fill_(True)
        if self._stage:
            self._zero.zero_grad()
            for group in self._zero.averaged_gradients:
                self._zero.averaged_gradients[group] = None  # of a step that was not taken

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)

    def measure(self, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        if not self._stage:
            norm, finite = super().measure(scale)
            return norm, torch.stack([self._finite_here, finite[1]])
        parts = [part for group in self._zero.averaged_gradients.values() for part in group or ()]
        if scale != 1:
            torch._foreach_div_(parts, scale)
        norm = self._world.all_reduce_sum_(torch.nn.utils.get_total_norm(parts).square()).sqrt()
        return norm, torch.stack([self._finite_here, self._finite_sums(norm)])

    def _finite_sums(self, norm: Tensor) -> Tensor:
        """Whether the sum over ranks of each parameter's gradient is finite, [P]."""
        everywhere = self._world.all_gather(self._finite_here).all(0)
        if bool(norm.isfinite()) or not bool(everywhere.all()):
            return everywhere
        return torch.stack([self._whole_gradient(p).isfinite().all() for p in self._parameters])  # a sum overflowed

    def non_finite(self, finite: Tensor) -> dict[str, list[int]]:
        return blame(self._names, finite, self._world)

    def _whole_gradient(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_grad

        gradient: Tensor = safe_get_full_grad(parameter)
        return gradient

    def step(self, taken: Tensor) -> None:
        if bool(taken):  # ZeRO's step waits for the device anyway, for a norm of its own
            self._engine.step()

    def parameters_changed(self) -> None:
        if self._stage:
            self._zero.refresh_fp32_params()

    def optimizer_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if not self._stage:
            return super().optimizer_state()
        tensors: dict[str, Tensor] = {}
        rest: dict[str, Any] = {}
        for owner, parameter, flat in self._owners():
            for key, value in sorted(self._zero.optimizer.state[flat].items()):
                tensors[f"{owner}.{key}"] = self._gathered(parameter, value) if value.dim() else value.clone()
                rest[str(owner)] = {}
        first = 0
        for i, (group, settings) in enumerate(zip(self._groups, self._zero.optimizer.param_groups, strict=True)):
            numbers = list(range(first, first := first + len(group)))
            rest[f"group.{i}"] = dict(sorted({**settings, "params": numbers}.items()))
        return tensors, rest

    def load_optimizer_state(self, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
        if not self._stage:
            super().load_optimizer_state(tensors, rest)
            return
        saved = [len(group["params"]) for key, group in rest.items() if key.startswith("group.")]
        if saved != (present := [len(group) for group in self._groups]):
            raise ClusterError(f"optimizer state for groups of {saved} parameters does not fit groups of {present}")
        by_owner: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            owner, _, key = name.partition(".")
            by_owner.setdefault(owner, {})[key] = value
        self._zero.optimizer.state.clear()
        for number, parameter, flat in self._owners():
            state = self._zero.optimizer.state[flat]
            for key, value in by_owner.get(str(number), {}).items():
                if not value.dim():
                    state[key] = value.to(flat.device, copy=True)
                    continue
                part = state.setdefault(key, torch.zeros_like(flat))
                for of_parameter, of_flat in _place(parameter):
                    part[of_flat] = value.reshape(-1)[of_parameter]
        self.parameters_changed()

    def _owners(self) -> Iterator[tuple[int, nn.Parameter, Tensor]]:
        """Every parameter by its number, with the vector in which this rank has its part of the group."""
        number = 0
        for group, of_rank in zip(self._groups, self._zero.optimizer.param_groups, strict=True):
            (flat,) = of_rank["params"]
            for parameter in group:
                yield number, parameter, flat
                number += 1

    @torch.no_grad()
    def _gathered(self, parameter: nn.Parameter, flat: Tensor) -> Tensor:
        """The whole of a parameter's state, from the ranks' parts."""
        whole = torch.zeros(parameter.numel(), dtype=flat.dtype, device=flat.device)
        for of_parameter, of_flat in _place(parameter):
            whole[of_parameter] = flat[of_flat]
        return self._world.all_reduce_sum_(whole).view(parameter.shape)

    def _note_whether_finite(self, i: int, gradient: Tensor) -> None:
        self._finite_here[i] &= gradient.isfinite().all()


def _place(parameter: nn.Parameter) -> Iterator[tuple[slice, slice]]:
    """Where this rank's part lies within the parameter and within the rank's vector; nothing if it has none of it."""
    mapping = getattr(parameter, "_hp_mapping", None)
    if mapping is not None:
        inside, flat = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
        yield slice(inside.start, inside.start + inside.numel), slice(flat.start, flat.start + flat.numel)


def _require(world: World, stage: int, parameters: Sequence[nn.Parameter]) -> None:
    if world.size == 1:
        raise ClusterUsageError("engine 'deepspeed' serves several processes, but there is one; choose 'local'")
    if stage not in STAGES:
        reason = "it splits parameters, and no gradient of a gradient can be taken" if stage == 3 else "there is none"
        raise ClusterUsageError(f"engine 'deepspeed' at ZeRO stage {stage}: {reason}; choose 0, 1 or 2")
    if any(parameter.dtype != torch.float32 for parameter in parameters):
        raise ClusterUsageError("engine 'deepspeed' sums float32 only; choose 'ddp' for other precisions of parameters")
    try:
        version = metadata.version("deepspeed")
    except metadata.PackageNotFoundError:
        raise ClusterUsageError("engine 'deepspeed' needs the package deepspeed: pip install deepspeed") from None
    if Version(version) < Version(OLDEST):
        raise ClusterUsageError(f"deepspeed {version} is older than {OLDEST}, which accumulates gradients exactly")


def _initialize(
    module: nn.Module, parameters: list[nn.Parameter], optimizer: Optimizer, world: World, stage: int
) -> Any:
    os.environ["DS_ACCELERATOR"] = world.device.type  # read when it is imported
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # see above: nothing is compiled
    with _local_rank(world.device.index or 0), _without_broadcast(deepspeed.DeepSpeedEngine):
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        engine, *_ = deepspeed.initialize(
            model=module, model_parameters=parameters, optimizer=optimizer, config=_settings(stage)
        )
    return engine


def _settings(stage: int) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # which it asks for; it never sees a batch
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,  # torch's own Adam, which needs nothing compiled
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
            "overlap_comm": False,  # sums in another order from step to step
        },
    }


@contextmanager
def _without_broadcast(engine: Any) -> Iterator[None]:
    before = engine._broadcast_model
    engine._broadcast_model = lambda _: None
    try:
        yield
    finally:
        engine._broadcast_model = before


@contextmanager
def _local_rank(index: int) -> Iterator[None]:
    """It takes the GPU of that number, also where a launcher shows each process its own GPU as the first."""
    before = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = str(index)
    try:
        yield
    finally:
        if before is None:
            del os.environ["LOCAL_RANK"]
        else:
            os.environ["LOCAL_RANK"] = before
