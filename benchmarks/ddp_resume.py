"""Whether a resumed data-parallel run keeps the bits of an uninterrupted one, with torch's reducer and with ours.

    python -m benchmarks.ddp_resume [--out FILE.json]

Four Adam steps on gloo ranks, against two steps, a checkpoint, fresh processes, and two steps more; same data, one
thread per rank. The network has 2.2M parameters (8.7 MB). Counted are the parameters that end up different. This is why
cluster/engines/ddp.py has its own buckets.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.report import Row, write_report
from cluster.checkpoint import CheckpointStore, Snapshot
from cluster.engines.engine import build_engine
from cluster.engines.optimizer_state import pack_optimizer, unpack_optimizer
from cluster.world import World

_WIDTH = 1024
_BATCH = 16


def main() -> None:
    """Run everything and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="write JSON here")
    out = parser.parse_args().out
    rows = [_trial(*case) for case in itertools.product(("torch", "ddp"), (2, 4))]
    write_report("Four steps against two, fresh processes, and two more", rows, out)


def _network() -> nn.Module:
    torch.manual_seed(0)
    widths = [64, _WIDTH, _WIDTH, _WIDTH]
    layers = [module for pair in itertools.pairwise(widths) for module in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(_WIDTH, 1))


def _trial(reducer: str, size: int) -> Row:
    with tempfile.TemporaryDirectory() as scratch:
        for run, first, last in (("whole", 0, 4), ("halves", 0, 2), ("halves", 2, 4)):
            arguments = (size, reducer, Path(scratch), run, first, last)
            spawn(_train, arguments, nprocs=size)  # type: ignore[no-untyped-call]
        whole, halves = (
            CheckpointStore(Path(scratch) / run, World.single()).load("step4").tensors["network"]
            for run in ("whole", "halves")
        )
    return {
        "reducer": {"torch": "torch's DistributedDataParallel", "ddp": "cluster.engines.ddp"}[reducer],
        "ranks": size,
        "parameters": sum(tensor.numel() for tensor in whole.values()),
        "different": sum(int((whole[name] != halves[name]).sum()) for name in whole),
        "largest difference": f"{max((whole[name] - halves[name]).abs().max().item() for name in whole):.1e}",
    }


def _train(rank: int, size: int, reducer: str, scratch: Path, run: str, first: int, last: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{scratch}/{run}-{first}-rendezvous", rank=rank, world_size=size
    )
    world = World(rank, size, rank, torch.device("cpu"))
    network = _network()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.0, 0.99), fused=True)
    store = CheckpointStore(scratch / run, world)
    if first:
        snapshot = store.load(f"step{first}")
        network.load_state_dict(snapshot.tensors["network"])
        unpack_optimizer(optimizer, snapshot.tensors["optimizer"], snapshot.state["optimizer"])
    _steps(network, optimizer, reducer, world, first, last)
    tensors, state = pack_optimizer(optimizer)
    store.save(f"step{last}", Snapshot({"network": network.state_dict(), "optimizer": tensors}, {"optimizer": state}))
    dist.destroy_process_group()


def _steps(
    network: nn.Module, optimizer: torch.optim.Optimizer, reducer: str, world: World, first: int, last: int
) -> None:
    wrapped = DistributedDataParallel(network) if reducer == "torch" else None
    engine = build_engine("ddp", network, list(network.parameters()), optimizer, world)
    for step in range(first, last):
        images = torch.randn(_BATCH, 64, generator=torch.Generator().manual_seed(100 * step + world.rank))
        if wrapped is not None:
            optimizer.zero_grad()
            wrapped(images).square().mean().backward()
            optimizer.step()
        else:
            engine.zero_grad()
            engine.backward(network(images).square().mean() / world.size, last=True)
            engine.step(torch.tensor(True))


if __name__ == "__main__":
    main()
