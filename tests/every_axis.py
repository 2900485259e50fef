"""The hardest configuration: what laws of training are tested with, and drills, so that they hold for any method.

Classes, a paired objective with SAN's direction, penalties in a phase of their own, ADA and ATop-k, whose p and k move
all the while.
"""

from __future__ import annotations

EVERY_AXIS = (
    "condition.kind=class",
    "objective.kind=relativistic",
    "objective.slicing=true",
    "penalties.r1_gamma=1",
    "penalties.r2_gamma=1",
    "penalties.phase=own",
    "penalties.interval_steps=2",
    "augment=[{kind: ada, control: {target: -0.5, p_start: 0.1, rise_kimg: 2}}]",
    "selection.kind=adaptive",
    "selection.k_unit=2",
    "overfit.target=-0.5",
    "overfit.rise_kimg=2",
)
