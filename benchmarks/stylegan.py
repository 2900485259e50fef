"""What a kimg of StyleGAN2 and StyleGAN3 costs in time and memory, beside the public code in the same process.

    python -m benchmarks.stylegan --out OUT [--peer FOLDER] [--minutes 9] [--presets NAME ...] [--sides PX ...] ...
    nice python -m benchmarks.stylegan --out OUT --device cpu --sides 32 --batch 4 generator.channel_base=1024 ...

A part is a preset at a side. In it, every setting and the public code take turns: the kinds of iterations that lazy
penalties make, one after the other, each by all. A kimg is their mean, each as often as it comes up in 16 iterations
(or whatever its penalties repeat in). Settings:

    plain      no augmentation
    p = 0.4    ADA's pipe bgc with this p; likewise 0 and 0.8
    top-k      plain, and half of the batch teaches the generator

On a GPU also cuDNN's search for algorithms on and off with ADA, whose batches have many shapes; TF32 with
channels_last; and that eager and compiled.

FOLDER is a checkout of github.com/NVlabs/stylegan3 (see `benchmarks.stylegan_peer`). Its pipe does all its work for
any p, so that every p of ours is divided by its p = 0.4. Ratios are medians over turns of quotients of the same turn.
A busy machine changes times, and ratios less; on a CPU it is the CPU time of one thread that counts.

The floor is that of plain: each convolution and product as long as its operations or its bytes take at the measured
rates. Unfused means that every other operation reads and writes memory too. On a CPU a cache may beat the bandwidth.

On a GPU micro-batches are halved until all fit. With --minutes nothing new begins after that time. Turns that are done
are kept in OUT, and the same command goes on with them: give it in the next window too, until it says that all is done.

OUT/report.json        the table
OUT/PRESET-SIDE.json   a part: {"asked", "machine", "facts", "turns": [{way: {kind of iteration: its seconds}}]}
OUT/PRESET-SIDE-compiled.json   the part of what torch compiles, which takes long to begin and comes last
OUT/extensions         what the public code compiled; remove the rest of OUT to measure anew
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.report import Row, machine, write_report
from benchmarks.steps import Allocated, Operations, Rates, seconds
from benchmarks.stylegan_peer import Public
from cluster.world import World
from shards.pack import pack
from spider.config.load import load_config
from spider.config.schema import Config
from spider.precision import set_numerics
from spider.runs.directory import RunDirectory
from spider.runs.start import prepare
from spider.train.trainer import Trainer

PRESETS = ("stylegan2-ada/auto", "stylegan2-ada/paper256", "stylegan3/t")
_LARGEST = {"stylegan2-ada/paper256": 256}  # px
_PLAIN, _FEW, _SOME, _MANY = ("augment=[]", *(f"augment=[{{kind: ada, pipe: bgc, p: {p}}}]" for p in (0, 0.4, 0.8)))
_FAST = (_PLAIN, "compute.tf32=true", "compute.channels_last=true")
_BURST_S = 0.5  # on a GPU: iterations of a kind that are timed together take so long


@dataclass(frozen=True)
class Setting:
    """How a preset runs.

    Attributes:
        over: the setting that its time is divided by.
        p: of the public code that it is compared with; None: without augmentation.
        search: whether cuDNN searches for algorithms; None: as the trainer has it.
        on_gpu: alone.
        compiled: in parts of their own.
    """

    overrides: tuple[str, ...]
    over: str | None = None
    p: float | None = None
    search: bool | None = None
    on_gpu: bool = False
    compiled: bool = False


SETTINGS = {
    "plain": Setting((_PLAIN,)),
    "p = 0": Setting((_FEW,), "plain", 0.4),
    "p = 0.4": Setting((_SOME,), "p = 0", 0.4),
    "p = 0.8": Setting((_MANY,), "p = 0", 0.4),
    "top-k": Setting((_PLAIN, "selection.kind=fixed", "selection.k={half}"), "plain"),
    "p = 0.4, cuDNN searches": Setting((_SOME,), "p = 0.4", 0.4, search=True, on_gpu=True),
    "p = 0.4, cuDNN searches not": Setting((_SOME,), "p = 0.4", 0.4, search=False, on_gpu=True),
    "tf32, channels_last": Setting(_FAST, "plain", on_gpu=True),
    "tf32, channels_last, eager": Setting(_FAST, on_gpu=True, compiled=True),
    "tf32, channels_last, compiled": Setting(
        (*_FAST, "compute.compile=true"), "tf32, channels_last, eager", on_gpu=True, compiled=True
    ),
}


@dataclass(frozen=True)
class Way:
    """What takes turns with others."""

    iterate: Callable[[int], None]  # the iteration of this number
    tf32: bool = False
    compiled: bool = False
    search: bool | None = None

    def begin(self) -> None:
        """Set torch's switches to its own."""
        set_numerics(deterministic=False, tf32=self.tf32, compiled=self.compiled)
        if self.search is not None:
            torch.backends.cudnn.benchmark = self.search


@dataclass
class Window:
    """The time there is."""

    minutes: float = math.inf
    began: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise Over when it has passed."""
        if time.monotonic() - self.began > 60 * self.minutes:
            raise Over


class Over(Exception):
    """The window is over."""


def main(words: Sequence[str] | None = None) -> None:
    """Run all parts, or those that the window has room for, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for what was measured")
    parser.add_argument("--peer", type=Path, help="checkout of NVlabs/stylegan3")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--presets", nargs="+", choices=PRESETS, default=PRESETS, metavar="NAME", help=", ".join(PRESETS)
    )
    parser.add_argument("--sides", nargs="+", type=int, default=(256, 1024), metavar="PX", help="paper256: up to 256")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, metavar="NAME", help="a few of those above")
    parser.add_argument("--batch", type=int, help="default: auto by its rule for one GPU, others as their presets")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--part-minutes", type=float, default=1.5, help="that turns of a part may take; one is taken")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which nothing new begins")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of all presets, the public code's sizes too")
    asked = parser.parse_intermixed_args(words)
    device = torch.device(asked.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    window = Window(asked.minutes)
    public = None if asked.peer is None else Public(asked.peer, device, asked.out / "extensions")
    names = [name for name in asked.settings or SETTINGS if device.type == "cuda" or not SETTINGS[name].on_gpu]
    grouped = [[name for name in names if SETTINGS[name].compiled == compiled] for compiled in (False, True)]
    parts = [
        Part(preset, side, group, asked.batch, tuple(asked.overrides), device, public, asked.out)
        for group in grouped
        for side in asked.sides
        for preset in asked.presets
        if group and side <= _LARGEST.get(preset, side)
    ]
    try:
        for part in parts:
            part.measure(window, asked.turns, 60 * asked.part_minutes)
    except Over:
        left = sum(not part.done(asked.turns, 60 * asked.part_minutes) for part in parts)
        print(f"\nthe window is over, {left} of {len(parts)} parts are left: give the same command again", flush=True)
    else:
        print("\nall is done", flush=True)
    write_report("StyleGAN", [row for part in parts for row in part.rows()], asked.out / "report.json")


class Part:
    """A preset at a side, and what was measured of it, which is in a file."""

    def __init__(
        self,
        preset: str,
        side: int,
        settings: Sequence[str],
        batch: int | None,
        overrides: tuple[str, ...],
        device: torch.device,
        public: Public | None,
        out: Path,
    ) -> None:
        self.preset, self.side, self.settings, self.overrides = preset, side, settings, overrides
        self.device, self.public = device, public
        self.batch = batch or _usual_batch(preset, side)
        apart = "-compiled" if SETTINGS[settings[0]].compiled else ""
        self.file = out / f"{preset.replace('/', '-')}-{side}{apart}.json"
        peer = None if public is None else public.extensions
        self.asked = {"batch": self.batch, "settings": list(settings), "overrides": list(overrides), "public": peer}
        self.record: dict[str, Any] = {"asked": self.asked, "machine": machine(), "facts": {}, "turns": []}
        if self.file.exists():
            before = json.loads(self.file.read_text())
            if all(before[key] == self.record[key] for key in ("asked", "machine")):
                self.record = before
            else:
                print(f"{self.file} is of another machine, or of other settings: it is measured again", flush=True)

    def done(self, turns: int, at_most_s: float) -> bool:
        """Whether so many turns were taken, or no further one fits into the time."""
        took = [turn["took_s"] for turn in self.record["turns"]]
        return len(took) >= turns or (bool(took) and sum(took) + took[-1] > at_most_s)

    def measure(self, window: Window, turns: int, at_most_s: float) -> None:
        """Take turns until done. Raises Over."""
        if self.done(turns, at_most_s):
            return
        window.check()
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "patches"
            count = max(64, self.batch)
            pack("builtin:patches", data, resolution=self.side, subset=count, workers=1, encoding="raw", progress=False)
            accumulation = 1
            while (run := self._begin(data, accumulation, window)) is None:
                accumulation *= 2
            try:
                self._write(facts=run.facts())
                while not self.done(turns, at_most_s):
                    began = time.monotonic()
                    taken = run.turn(len(self.record["turns"]), window)
                    taken["took_s"] = time.monotonic() - began
                    self._write(turns=[*self.record["turns"], taken])
            finally:
                run.close()

    def _begin(self, data: Path, accumulation: int, window: Window) -> Running | None:
        """All ways, each of which has taken every kind of iteration; None: the device has not enough memory."""
        run = Running(self, data, accumulation)
        try:
            run.begin(window)
            return run
        except torch.OutOfMemoryError:
            if self.batch % (2 * accumulation):
                raise
        except Over:
            run.close()
            raise
        run.close()  # here, where no error holds on to its tensors
        return None

    def config(self, data: Path, accumulation: int, setting: Setting) -> Config:
        """Of a run."""
        words = [f"data.path={data}", f"batch={self.batch}", f"accumulation={accumulation}"]
        discriminator: Any = load_config(self.preset, words[:1]).discriminator
        group = min(discriminator.mbstd_group, self.batch // accumulation)
        words += [f"discriminator.mbstd_group={group}", f"compute.device={self.device.type}"]
        words += [word.format(half=max(1, self.batch // 2)) if "{half}" in word else word for word in setting.overrides]
        config = load_config(self.preset, [*words, *self.overrides])
        return prepare(config, RunDirectory(data.parent / "none"))

    def _write(self, **what: Any) -> None:
        self.record |= what
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.record, indent=1) + "\n")

    def rows(self) -> list[Row]:
        """A row for each way, for top-k's choice by itself, and for the floor."""
        facts, turns = self.record["facts"], self.record["turns"]
        if not turns:
            return []
        share: Mapping[str, float] = facts["share"]
        of = {way: [_mean(turn[way], share) for turn in turns] for way in turns[0] if way != "took_s"}
        about = {"preset": self.preset, "px": self.side, "batch": self.batch, "parts": facts["accumulation"]}
        rows: list[Row] = []
        for way, means in of.items():
            setting = SETTINGS.get(way, Setting(()))
            over = of.get(setting.over or "")
            public = of.get(_public(setting.p)) if way in SETTINGS else None
            quotients = None if over is None else [mine / other for mine, other in zip(means, over, strict=True)]
            rows.append(
                {
                    **about,
                    "way": way,
                    "s / kimg": 1000 * median(means) / self.batch,
                    "of public": _quotient(means, public),
                    "of": "" if over is None else setting.over,
                    "ratio": _quotient(means, over),
                    "its range": "" if quotients is None else f"{min(quotients):.3f} to {max(quotients):.3f}",
                    "peak GB": facts["peak_gb"][way],
                    "first pass s": facts["first_s"][way],
                    **{f"{kind}, s": median(turn[way][kind] for turn in turns) for kind in share},
                }
            )
        plain = median(next(iter(of.values())))
        if "choice_s" in facts:
            cost = facts["choice_s"]
            about_k = {**about, "way": "top-k's choice by itself", "s / kimg": 1000 * cost / self.batch}
            rows.append({**about_k, "of": self.settings[0], "ratio": cost / plain})
        for name in ("floor", "unfused floor"):
            cost = _mean(facts[name], share)
            kinds = {f"{kind}, s": facts[name][kind] for kind in share}
            of_first = {"of": self.settings[0], "ratio": cost / plain}
            rows.append({**about, "way": name, "s / kimg": 1000 * cost / self.batch, **of_first, **kinds})
        return rows


class Running:
    """The ways of a part in memory."""

    def __init__(self, part: Part, data: Path, accumulation: int) -> None:
        self.part, self.data, self.accumulation = part, data, accumulation
        self.ways: dict[str, Way] = {}
        self.trainers: dict[str, Trainer] = {}
        self.kinds: dict[str, list[int]] = {}
        self._first_s: dict[str, float] = {}
        self._burst: dict[str, int] = {}
        self._peak_gb: dict[str, float] = {}

    def begin(self, window: Window) -> None:
        """Make every way, and take every kind of iteration twice. Raises Over, and torch.OutOfMemoryError."""
        for name in self.part.settings:
            self._add(name, partial(self._ours, name), window)
        if self.part.public is not None:
            for p in dict.fromkeys(SETTINGS[name].p for name in self.part.settings):
                self._add(_public(p), partial(self._theirs, p), window)

    def _add(self, name: str, make: Callable[[], Way], window: Window) -> None:
        """Its memory is what it holds after a first pass, and what a second one takes beyond that."""
        window.check()
        device = self.part.device

        def first() -> None:
            self.ways[name] = make()
            self.ways[name].begin()
            for steps in self.kinds.values():
                self.ways[name].iterate(steps[0])

        with Allocated(device) as made:
            self._first_s[name] = seconds(first, device)
        again = self.ways[name].iterate
        with Allocated(device) as ran:
            took = max(seconds(partial(again, steps[0]), device) for steps in self.kinds.values())
        self._peak_gb[name] = (made.held + ran.peak) / 1e9
        self._burst[name] = max(1, min(8, int(_BURST_S / took))) if device.type == "cuda" else 1
        print(f"{self.part.preset}, {self.part.side} px, {name}: begun in {self._first_s[name]:.1f} s", flush=True)

    def _ours(self, name: str) -> Way:
        setting = SETTINGS[name]
        config = self.part.config(self.data, self.accumulation, setting)
        set_numerics(deterministic=False, tf32=config.compute.tf32, compiled=config.compute.compile)
        trainer = self.trainers[name] = Trainer(config, World.single(self.part.device))
        self.kinds = self.kinds or kinds_of_iterations(trainer)

        def iterate(step: int) -> None:
            trainer.images = step * config.batch
            trainer.iterate()

        return Way(iterate, config.compute.tf32, config.compute.compile, setting.search)

    def _theirs(self, p: float | None) -> Way:
        public = self.part.public
        assert public is not None
        config = self.part.config(self.data, self.accumulation, SETTINGS["plain"])
        return Way(public.iteration(config, self.part.side, p), search=True)

    def turn(self, number: int, window: Window) -> dict[str, Any]:
        """The seconds of an iteration of each kind, by each way. Raises Over."""
        taken: dict[str, Any] = {name: {} for name in self.ways}
        for kind, steps in self.kinds.items():
            for name, way in self.ways.items():
                window.check()
                way.begin()
                burst = min(self._burst.values())
                chosen = [_nth(steps, self._period, number * burst + i) for i in range(burst)]
                taken[name][kind] = seconds(partial(_each, way.iterate, chosen), self.part.device) / burst
        means = {name: 1000 * _mean(of, self._share) / self.part.batch for name, of in taken.items()}
        listed = ", ".join(f"{name} {cost:.1f}" for name, cost in means.items())
        print(f"{self.part.preset}, {self.part.side} px, turn {number + 1}, s / kimg: {listed}", flush=True)
        return taken

    def facts(self) -> dict[str, Any]:
        """What does not take turns: sizes, memory, the floor."""
        first, rates = next(iter(self.trainers)), Rates(self.part.device)
        self.ways[first].begin()
        floor, unfused, operations = {}, {}, {}
        for kind, steps in self.kinds.items():
            with Operations() as counted:
                self.ways[first].iterate(steps[0])
            floor[kind], unfused[kind] = counted.floor(rates), counted.unfused_floor(rates)
            operations[kind] = counted.total / 1e12
        trainer = self.trainers[first]
        players = {player.name: sum(p.numel() for p in player.parameters) for player in trainer.plan.players}
        return {
            "accumulation": self.accumulation,
            "parameters": players,
            "share": self._share,
            "first_s": self._first_s,
            "peak_gb": self._peak_gb,
            "floor": floor,
            "unfused floor": unfused,
            "TFLOP": operations,
            "rates": rates.as_json(),
            **({"choice_s": self._choice_s(self.trainers["top-k"])} if "top-k" in self.trainers else {}),
        }

    def _choice_s(self, trainer: Trainer) -> float:
        """Of which samples teach, and of what is told of it."""
        selection, scores = trainer.plan.selection, torch.randn(self.part.batch, device=self.part.device)

        def choose() -> None:
            for _ in range(100):
                selection.reports(scores, selection.pick(scores, 0, trainer.world))

        choose()
        return seconds(choose, self.part.device) / 100

    @property
    def _period(self) -> int:
        return sum(len(steps) for steps in self.kinds.values())

    @property
    def _share(self) -> dict[str, float]:
        return {kind: len(steps) / self._period for kind, steps in self.kinds.items()}

    def close(self) -> None:
        """Let go of all memory."""
        for trainer in self.trainers.values():
            trainer.close()
        self.trainers.clear()
        self.ways.clear()
        gc.collect()
        if self.part.device.type == "cuda":
            torch.cuda.empty_cache()


def kinds_of_iterations(trainer: Trainer) -> dict[str, list[int]]:
    """The numbers of the iterations, until they repeat, that take the same phases: by the lazy ones' names."""
    phases = trainer.plan.phases
    period = math.lcm(
        *(phase.every_steps for phase in phases), *(one.every_steps for phase in phases for one in phase.passes)
    )
    kinds: dict[str, list[int]] = {}
    for step in range(period):
        due = [phase.name for phase in phases if phase.due(step) and phase.every_steps > 1]
        due += [f"{phase.name}, more" for phase in phases if len(phase.passes_at(step, 0)) > 1]
        kinds.setdefault(" + ".join(("main", *due)), []).append(step)
    return dict(sorted(kinds.items(), key=lambda kind: -len(kind[1])))


def _each(iterate: Callable[[int], None], steps: Sequence[int]) -> None:
    for step in steps:
        iterate(step)


def _nth(steps: Sequence[int], period: int, n: int) -> int:
    """The n-th iteration of a kind."""
    return steps[n % len(steps)] + period * (n // len(steps))


def _usual_batch(preset: str, side: int) -> int:
    """StyleGAN2-ADA's rule for one GPU (train.py --cfg=auto), or what the preset has."""
    return max(4, min(4096 // side, 32)) if preset == "stylegan2-ada/auto" else load_config(preset).batch


def _public(p: float | None) -> str:
    return "public code" if p is None else f"public code, p = {p}"


def _mean(of_kinds: Mapping[str, float], share: Mapping[str, float]) -> float:
    return sum(part * of_kinds[kind] for kind, part in share.items())


def _quotient(means: Sequence[float], others: Sequence[float] | None) -> float | str:
    return "" if others is None else median(mine / other for mine, other in zip(means, others, strict=True))


if __name__ == "__main__":
    main()
