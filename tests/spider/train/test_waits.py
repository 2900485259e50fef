"""How often the host waits for the device within an iteration: at most once."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cluster.world import World
from spider.config.load import load_config
from spider.draws import Address
from spider.gan.conditions.classes import Classes
from spider.gan.outputs import Condition
from spider.runs.directory import RunDirectory
from spider.train.feeds import Feeds
from spider.train.loop import train
from spider.train.trainer import Trainer
from tests.spider.train.toys import TOYS

WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim", "equal")
READING = ("tolist", "numpy", "cpu", "__array__", "new_tensor")  # these need no operator where the device is the CPU


class Device(TorchDispatchMode):
    """Stands for a GPU on the CPU: what is computed from its tensors is its own, and to read that is to wait.

    Attributes:
        waits: where the host waited, by iteration.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[list[str]] = [[]]
        self._held: dict[int, StorageWeakRef] = {}  # a weak reference keeps the address from being given away

    def put(self, found: Any) -> Any:
        """Let all tensors in a structure be on the device."""
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                held = StorageWeakRef(tensor.untyped_storage())
                self._held[held.cdata] = held
        return found

    def holds(self, found: Any) -> bool:
        """Whether a tensor is on it."""
        if not isinstance(found, Tensor):
            return False
        held = self._held.get(found.untyped_storage()._cdata)
        return held is not None and not held.expired()

    def wait(self) -> None:
        """The host waits here."""
        frames = [f for f in traceback.extract_stack() if "/spider/" in f.filename or "/cluster/" in f.filename]
        self.waits[-1].append(" < ".join(f"{f.filename.split('/')[-1]}:{f.lineno}" for f in reversed(frames[-3:])))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        involved = any(self.holds(leaf) for leaf in tree_leaves((args, kwargs)))
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if involved and (name in WAITING or masks):
            self.wait()
        found = func(*args, **(kwargs or {}))
        return self.put(found) if involved else found


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Networks, what feeds give and what is drawn for use beside them are on this device."""
    device = Device()

    def after(owner: type, name: str, change: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: change(original(*args, **kwargs), *args, **kwargs))

    def built(_: None, trainer: Trainer, *args: Any) -> None:
        for module in (trainer.generator.module, trainer.discriminator.module, trainer.ema.module):
            device.put([*module.parameters(), *module.buffers()])

    def reading(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if device.holds(tensor):
                device.wait()
            return original(tensor, *args, **kwargs)

        return read

    def drawn(found: Tensor, *args: Any, host: bool = False, **kwargs: Any) -> Tensor:
        return found if host else device.put(found)

    def labelled(found: Condition, *args: Any) -> Condition:
        device.put([found.labels, found.features])
        return found

    iterate = Trainer.iterate

    def begin(trainer: Trainer) -> None:
        device.waits.append([])
        iterate(trainer)

    after(Trainer, "__init__", built)
    after(Feeds, "_next_real", lambda found, *_: (device.put(found[0]), labelled(found[1])))
    after(Feeds, "_next_source", lambda found, *_: device.put(found))
    after(Classes, "drawn", labelled)
    after(Address, "normal", drawn)
    after(Address, "uniform", drawn)
    monkeypatch.setattr(Trainer, "iterate", begin)
    for name in READING:
        monkeypatch.setattr(Tensor, name, reading(name))
    return device


ADA = "augment=[{kind: ada, pipe: bgcfnc, strengths: {imgfilter: 0}, control: {p_start: 0.5}}, {kind: diffaugment}]"
TOPK = ["selection.kind=adaptive", "overfit.rise_kimg=0.1"]
PRESETS = {
    "dcgan": ["penalties.r1_gamma=1", "d_steps=2", ADA],
    "dcgan, two micro-batches": ["accumulation=2", "generator.norm=none", "penalties.gp_weight=1", *TOPK],
    "spider-dcgan": ["penalties.phase=own", "penalties.interval_steps=2", *TOPK, ADA],
    "dcgan, with classes": ["condition.kind=class", "objective.kind=hinge", "penalties.r1_gamma=0", *TOPK],
    "r3gan-32": ["condition.kind=class", "penalties.r1_gamma=1", "condition.kind=class", *TOPK, ADA],
    "dcgan, with toys": TOYS,
    "dcgan-class": ["condition.sampler=balanced", *TOPK],
}


@pytest.mark.parametrize("named", PRESETS)
def test_the_host_waits_once_an_iteration(digits, tmp_path, device, named):
    """With everything on that reads numbers: the controllers, which decide every fourth iteration, and Top-k."""
    preset = named.split(",")[0]
    overrides = [f"data.path={digits}", "batch=8", "kimg=0.048"]
    if named != "dcgan, with toys":
        overrides += ["generator.width=0.05", "discriminator.width=0.05"]
    overrides += ["log.every_kimg=9", "log.samples_every_kimg=9", "log.tensorboard=false", *PRESETS[named]]
    if preset == "spider-dcgan":
        overrides.append(f"source.path={digits}")
    with device:
        train(load_config(preset, overrides), RunDirectory(tmp_path / "run"), World.single(), progress=False)
    iterations = device.waits[1:-1]  # the last one ends in a checkpoint and the last row
    assert len(iterations) == 5
    for waits in iterations:
        assert len(waits) == 1, waits
