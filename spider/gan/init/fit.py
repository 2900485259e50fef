"""Given weights put in the place of random ones, as far as they fit, and what became of each tensor.

    RUN/init.json   {"generator": {"from": "generator_ema",
                                   "fitted": {NAME: SHAPE}, "misfits": {NAME: {"given": SHAPE, "here": SHAPE}},
                                   "missing": {NAME: SHAPE}, "unused": {NAME: SHAPE}, "derived": {NAME: SHAPE}}, ...}

What is among the misfits and the missing is left at random. A given name that begins with `*.` stands for every tensor
of its network whose name ends with the rest, and for the one that is named exactly so: `*.embedding.weight` is
`heads.each.0.embedding.weight` here, and elsewhere `embedding.weight`. A name in full wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from spider.errors import SpiderUsageError
from spider.gan.init.config import ANY, InitChoice
from spider.gan.init.freeze import NOTHING, Expected
from spider.gan.init.read import Weights

Shape = list[int]

_NAMED = 3  # tensors that begin at random, where they are not listed
_LISTED = 12  # tensors that did not fit, of a network

# By network of the run, those that its weights are taken from: the first that is given
_ORIGINS = {
    "generator": ("generator", "generator_ema"),
    "generator_ema": ("generator_ema", "generator"),
    "discriminator": ("discriminator",),
}


@dataclass(frozen=True)
class Fit:
    """What became of one network's tensors, by name.

    Attributes:
        origin: whose weights were given.
        fitted: taken over.
        misfits: of another shape; given, and here.
        missing: not given.
        unused: given, and not of the network.
        derived: not given, and found from given weights.
        growth: see `Expected`.
    """

    origin: str
    fitted: dict[str, Shape] = field(default_factory=dict)
    misfits: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    missing: dict[str, Shape] = field(default_factory=dict)
    unused: dict[str, Shape] = field(default_factory=dict)
    derived: dict[str, Shape] = field(default_factory=dict)
    growth: tuple[str, str] | None = None

    @property
    def complete(self) -> bool:
        """Whether every tensor was given, and nothing else."""
        return not (self.misfits or self.missing or self.unused)

    @property
    def grown(self) -> bool:
        """Whether nothing is missing but the new head of a network that grew, or unused but what it left out."""
        if self.growth is None or self.misfits or not (self.fitted and self.missing):
            return False
        head, before = self.growth
        new, left = (name.startswith(head) for name in self.missing), (name.startswith(before) for name in self.unused)
        return all(new) and all(left)

    def example(self) -> str:
        """One tensor that did not fit, and why."""
        return self._misfits()[0]

    def line(self, network: str) -> str:
        """For a person."""
        return self.lines(network)[0]

    def lines(self, network: str, *, in_full: bool = False) -> list[str]:
        """For a person: how many fit and, in full, each tensor that does not; else init.json is where those stand."""
        total = len(self.fitted) + len(self.misfits) + len(self.missing) + len(self.derived)
        if self.complete and not self.derived:
            return [f"init: {network}: all {total} tensors are given"]
        if self.grown:
            left = f"; its other {len(self.unused)} are of layers that growth leaves out" if self.unused else ""
            taken = f"takes {len(self.fitted)} tensors of the given {self.origin}{left}"
            return [f"init: {network}: {taken}; those of the new head, {len(self.missing)}, begin at random"]
        left = ", left at random" if in_full else ""
        counts = {
            f"of another shape{left}": len(self.misfits),
            f"not given{left}": len(self.missing),
            "not given, found from the weights": len(self.derived),
            "given that it does not need": len(self.unused),
        }
        given = f"all {total}" if len(self.fitted) == total else f"{len(self.fitted)} of {total}"
        listed = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        line = f"init: {network}: {given} tensors are given; {listed}"
        if not in_full and self.complete:
            return [line]
        if not in_full:
            at_random = [*self.misfits, *self.missing]
            others = f" and {len(at_random) - _NAMED} more" if len(at_random) > _NAMED else ""
            told = f"begins at random: {', '.join(at_random[:_NAMED])}{others}" if at_random else self.example()
            return [f"{line}; {told} (see init.json)"]
        each = [f"init: {network}: {what}" for what in self._misfits()]
        more = [f"init: {network}: ... and {len(each) - _LISTED} more"] if len(each) > _LISTED else []
        return [line, *each[:_LISTED], *more]

    def _misfits(self) -> list[str]:
        """Each tensor that did not fit, and why; those that are given in another shape first."""
        return [
            *(f"{name} has shape {given}, here {here}" for name, (given, here) in self.misfits.items()),
            *(f"{name} is not given" for name in self.missing),
            *(f"the network has no {name}" for name in self.unused),
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        misfits = {name: {"given": given, "here": here} for name, (given, here) in self.misfits.items()}
        tree = asdict(self)
        del tree["growth"]
        return {"from": tree.pop("origin"), **tree, "misfits": misfits}


def fit_weights(
    tensors: Mapping[str, Mapping[str, Tensor]],
    given: Weights,
    config: InitChoice,
    expected: Expected = NOTHING,
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Fit]]:
    """The tensors of a run that begins, with given weights in place of random ones.

    Args:
        tensors: by network and name.
        given: see `read_weights`.
        expected: what will not train must be given. A generator that has such tensors begins as the average, which is
            what they will always be in the average.

    Returns:
        The tensors of the networks that were given weights, in their dtypes and on their devices; and the fits.

    Raises:
        SpiderUsageError: nothing of a network fits, not all does and must, or a frozen tensor is not given.
    """
    placed: dict[str, dict[str, Tensor]] = {}
    fits: dict[str, Fit] = {}
    for network, origins in _ORIGINS.items():
        wanted = _ORIGINS["generator_ema"] if network == "generator" and expected.frozen.get(network) else origins
        origin = next((each for each in wanted if each in given), None)
        if origin is not None:
            growth = expected.growth if network != "discriminator" else None
            placed[network], fits[network] = _fit(tensors[network], given[origin], Fit(origin, growth=growth))
    useless = not any(fit.fitted for fit in fits.values())
    for network, fit in fits.items():
        # A name that stands for many tensors may stand for none in one of the networks
        bare = not fit.fitted and (useless or not all(name.startswith(ANY) for name in given[fit.origin]))
        if bare or (config.require == "all" and not (fit.complete or fit.grown)):
            what = "no tensor fits" if bare else "not every tensor fits"
            raise SpiderUsageError(f"init.require={config.require}: {network}: {what}: {fit.example()}")
    for network, names in expected.frozen.items():
        for name in names:
            if network not in fits or name not in fits[network].fitted:
                why = f"init.freeze_d={config.freeze_d}" if network == "discriminator" else "init"
                shapes = fits[network].misfits.get(name) if network in fits else None
                other = f"has shape {shapes[1]} and is given as {shapes[0]}: it does not fit" if shapes else None
                raise SpiderUsageError(f"{why}: {network}.{name} {other or 'is not given'}, and would never train")
    return placed, fits


def _in_full(given: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is given, by names in full; by its own name what stands for no tensor here."""
    found = {name: tensor for name, tensor in given.items() if not name.startswith(ANY)}
    for name, tensor in given.items():
        if name.startswith(ANY):
            meant = [each for each in here if f".{each}".endswith(name.removeprefix("*"))]
            for each in meant or [name]:
                found.setdefault(each, tensor)
    return found


def _fit(here: Mapping[str, Tensor], given: Mapping[str, Tensor], fit: Fit) -> tuple[dict[str, Tensor], Fit]:
    placed, given = dict(here), _in_full(given, here)
    for name, tensor in here.items():
        other = given.get(name)
        if other is None:
            fit.missing[name] = [*tensor.shape]
        elif other.shape != tensor.shape:
            fit.misfits[name] = ([*other.shape], [*tensor.shape])
        else:
            fit.fitted[name] = [*tensor.shape]
            placed[name] = other.to(tensor)
    fit.unused.update({name: [*tensor.shape] for name, tensor in given.items() if name not in here})
    return placed, fit
