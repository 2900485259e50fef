"""What the process of a trial is told.

There is such a process for every trial that runs, beside its training: it needs no torch, and little memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from sweeps.measure import Measure


@dataclass(frozen=True)
class TrialSpec:
    """What the process of a trial needs to know; as plain data it is Ray's `config`.

    Attributes:
        name: of the trial.
        run: its folder.
        words: what stands after `spider train --run RUN`.
        cwd: the folder that the places in them are relative to.
        log: where the training prints.
        measure: what is reported.
        hyperparameters: for TensorBoard; empty where the run writes no events.
        processes, threads: ranks, and threads of each.
        gpus: whether the training may use those that Ray gave the trial.
    """

    name: str
    run: str
    words: list[str]
    cwd: str
    log: str
    measure: Measure
    hyperparameters: dict[str, Any]
    processes: int
    threads: int
    gpus: bool

    def to_config(self) -> dict[str, Any]:
        """Plain data."""
        return {"name": self.name, "spec": asdict(self)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The inverse of `to_config`."""
        return cls(**{**config["spec"], "measure": Measure(**config["spec"]["measure"])})
