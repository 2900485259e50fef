"""From settings to conditions: of a dataset that is there, or as a checkpoint tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from shards.dataset import ShardDataset
from spider.errors import SpiderError, SpiderUsageError
from spider.gan.conditions.bank import InstanceBank
from spider.gan.conditions.classes import Classes
from spider.gan.conditions.conditions import Conditions
from spider.gan.conditions.config import (
    ClassConditionConfig,
    ConditionChoice,
    InstanceConditionConfig,
    NoConditionConfig,
)
from spider.gan.conditions.instances import Instances, TrainedInstances


def build_conditions(config: ConditionChoice, dataset: ShardDataset, *, paired_objective: bool) -> Conditions:
    """The conditions that the settings name, for the images to learn.

    Args:
        paired_objective: whether the objective compares each generated image with a real one.

    Raises:
        SpiderUsageError: the images have no such conditions, or these are paired and the objective is not.
    """
    match config:
        case NoConditionConfig():
            return Conditions()
        case ClassConditionConfig():
            paired = config.fakes == "paired" or (config.fakes is None and paired_objective)
            return Classes.of(config, dataset, paired=paired)
        case InstanceConditionConfig():
            try:
                bank = InstanceBank.open(config.bank)
                bank.require_of(dataset.fingerprint, dataset.path)
            except SpiderError as error:
                raise type(error)(f"condition.bank: {error}") from None
            return TrainedInstances(config, bank, dataset, paired=paired_objective)
        case _:
            built = config.build(dataset, paired_objective)
            if built.paired and not paired_objective:
                raise SpiderUsageError(
                    f"condition.kind={config.kind}: {type(built).__name__} has paired = True, and the objective "
                    "compares no pairs; set paired = paired_objective, which build is given"
                )
            return built


def restored_conditions(config: ConditionChoice, state: Any, tensors: Mapping[str, Tensor]) -> Conditions:
    """The conditions of a finished generator. Raises UnreadableError or ValueError if `state` is none of theirs."""
    match config:
        case NoConditionConfig():
            return Conditions()
        case ClassConditionConfig():
            return Classes.of_state(config, state)
        case InstanceConditionConfig():
            return Instances.of_state(state, tensors, alike=config.samples == "uniform")
        case _:
            return config.restored(state, tensors)
