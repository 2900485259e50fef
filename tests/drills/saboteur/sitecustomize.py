"""What goes wrong in a drill, in the processes of a training that find this folder on their path.

SABOTAGE, a JSON object, says what; it does not happen once the file exists that `once` names:

    {"sleep_s": 0.5, "starts": 1}             every iteration of so many starts of a job takes longer, at least so long
    {"sleep_s": 0.5, "once": FILE}            every iteration until the file is there: trials do not know the start
    {"order": FOLDER}                         every rank writes each batch of real images that it takes to
                                              FOLDER/rank-N.txt: the clock, which batch of the iteration, the images
    {"nan": {"rank": 1, "images": 336}}       its real images are not numbers, from that clock on
    {"hang": {"rank": 2, "images": 336, "once": FILE}}
                                              it makes no further step
    {"kill_in_save": {"images": 320, "once": FILE}}
                                              rank 0 makes the file and dies when that checkpoint is half written
"""

import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

TOLD = json.loads(os.environ.get("SABOTAGE", "{}"))
RANK = int(os.environ.get("RANK", "0"))
START = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
SLEEP_S = TOLD.get("sleep_s", 0.0) if TOLD.get("starts", 1) > START else 0.0


class Loader(importlib.abc.Loader):
    """Loads a module as it is, and then spoils it."""

    def __init__(self, loader, spoil):
        self.loader, self.spoil = loader, spoil

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        self.spoil(module)


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that are to be spoilt."""

    def find_spec(self, name, path, target=None):
        spoil = SPOILT.pop(name, None)
        if spoil is None:
            return None
        spec = importlib.util.find_spec(name)
        spec.loader = Loader(spec.loader, spoil)
        return spec


def due(key, images):
    """Whether it is time for what is told under a key, on this rank."""
    told = TOLD.get(key)
    return told is not None and told.get("rank", RANK) == RANK and images >= told["images"] and not happened(told)


def happened(told):
    """Whether it was to happen once, and has."""
    return "once" in told and Path(told["once"]).exists()


def spoil_trainer(module):
    trainer, feeds = module.Trainer, module.Feeds
    iterate, draw, open_streams = trainer.iterate, feeds.draw, feeds._open
    images, taken = [0], [0]  # on the clock; batches of real images in this iteration

    def spoilt_iterate(self):
        time.sleep(0 if happened(TOLD) else SLEEP_S)
        images[0], taken[0] = self.images, 0
        if due("hang", self.images):
            time.sleep(3600)
        iterate(self)

    def spoilt_draw(self, phase, step, turn):
        parts = draw(self, phase, step, turn)
        if phase.reals == "none" or not due("nan", images[0]):
            return parts
        return [replace(part, real=part.real * float("nan")) for part in parts]

    def spoilt_open(self, step):
        reals, sources = open_streams(self, step)
        return (logged(images, taken, reals) if "order" in TOLD else reals), sources

    trainer.iterate, feeds.draw, feeds._open = spoilt_iterate, spoilt_draw, spoilt_open


def logged(images, taken, batches):
    """The batches, each written down as it is taken."""
    with (Path(TOLD["order"]) / f"rank-{RANK}.txt").open("a", buffering=1) as file:
        for batch in batches:
            file.write(f"{images[0]} {taken[0]} {' '.join(map(str, batch.indices.tolist()))}\n")
            taken[0] += 1
            yield batch


def spoil_snapshot(module):
    safetensors, told = module._safetensors, TOLD.get("kill_in_save", {})

    def spoilt_safetensors(tensors):
        parts = list(safetensors(tensors))
        for i, part in enumerate(parts):
            if saving[0] == told.get("images") and i > len(parts) // 2 and not happened(told):
                Path(told["once"]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield part

    write = module.write_directory

    def spoilt_write(directory, name, snapshot):
        saving[0] = json.loads(snapshot.state)["images"]
        return write(directory, name, snapshot)

    saving = [0]
    module._safetensors, module.write_directory = spoilt_safetensors, spoilt_write


SPOILT = {"spider.train.trainer": spoil_trainer, "cluster.snapshot": spoil_snapshot}
if TOLD:
    sys.meta_path.insert(0, Finder())
