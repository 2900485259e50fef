"""What is asked of Slurm for a job.

    nodes=2,gpus_per_node=8,partition=gpu,time=2:00:00        a request in one line, or the same keys in a YAML file

Needs neither Slurm nor torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
)

from cluster.errors import ClusterUsageError
from untrusted.errors import UnreadableError
from untrusted.words import did_you_mean
from untrusted.yaml_data import read_yaml

if TYPE_CHECKING:
    pass

_TIME_FORMS = "MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS, DAYS-HOURS:MINUTES[:SECONDS]"
# The script says these already, from other keys or because jobs here depend on them
_NOT_EXTRA = {
    "account", "array", "constraint", "cpus-per-task", "dependency", "error", "exclusive", "gpus-per-node", "job-name",
    "kill-on-invalid-dep", "mem",
    "no-kill", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "partition", "qos", "requeue", "signal",
    "time",
}  # fmt: skip
_Text = Annotated[str, StringConstraints(min_length=1)]


def minutes(text: object) -> int:
    """A time in one of Slurm's forms, in minutes; seconds are rounded up, as Slurm does.

    Raises ValueError with the forms there are.
    """
    days, dash, clock = str(text).strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isascii() and part.isdigit() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        raise ValueError(f"a time is {_TIME_FORMS}")
    numbers = [int(part) for part in parts]
    if dash:
        hours, mins, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 1:
        hours, mins, seconds = 0, numbers[0], 0
    else:
        hours, mins, seconds = (0, 0, *numbers)[-3:]
    return (int(days or 0) * 24 + hours) * 60 + mins + -(-seconds // 60)


def _lines(value: object) -> object:
    """`[module load cuda, source venv/bin/activate]` as in a request of one line, to a list."""
    if not isinstance(value, str):
        return value
    inside = value[1:-1].split(",") if value.startswith("[") and value.endswith("]") else [value]
    return [line.strip() for line in inside]


class SlurmRequest(BaseModel):
    """What is asked of Slurm for a job. What is None is left to the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time_min: Annotated[PositiveInt, BeforeValidator(minutes)] = Field(alias="time")
    nodes: PositiveInt = 1
    tasks_per_node: PositiveInt | None = None  # ranks of a training on every node; None: one for each GPU, or one
    gpus_per_node: NonNegativeInt = 0
    cpus_per_task: PositiveInt | None = None
    mem_gb: Annotated[NonNegativeFloat, Field(allow_inf_nan=False)] | None = None  # per node; 0: all that it has
    partition: _Text | None = None
    account: _Text | None = None
    qos: _Text | None = None
    constraint: _Text | None = None
    exclusive: bool = False
    job_name: _Text | None = None
    setup: Annotated[tuple[_Text, ...], BeforeValidator(_lines)] = ()  # shell lines that come first on the first node
    signal_delay_s: Annotated[int, Field(ge=60)] = 120  # between the warning and the end; Slurm may warn 60 s early
    max_timeouts: NonNegativeInt = 30  # how often the job is put into the queue again when its time is over
    max_failures: NonNegativeInt = 3  # how often a training is, that was lost and has saved nothing since the last time
    extra: dict[str, _Text] = {}  # anything else that sbatch takes, by its long name; "true" for one without a value

    @property
    def tasks(self) -> int:
        """Ranks on every node."""
        return self.tasks_per_node or self.gpus_per_node or 1


def read_request(text: str) -> SlurmRequest:
    """A request from `KEY=VALUE,KEY=VALUE`, or from the YAML file that `text` names.

    Raises:
        ClusterUsageError: one line with the key, the value found and what would be valid.
    """
    if os.path.isfile(text):  # unlike Path's, it takes a text that is too long for a name
        return _validated(_yaml(Path(text)), text)
    if "=" not in text:
        raise ClusterUsageError(f"{text}: neither a file nor KEY=VALUE,KEY=VALUE; keys: {', '.join(_keys())}")
    return _validated(_pairs(text), "slurm")


def changed(request: SlurmRequest, keys: Mapping[str, object], where: str) -> SlurmRequest:
    """The request with other values for some keys; errors say `where` those come from."""
    return _validated({**request.model_dump(by_alias=True, exclude_unset=True), **keys}, where)


def _pairs(text: str) -> dict[str, str]:
    """Split at commas, except within brackets."""
    found: dict[str, str] = {}
    for item in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", text):
        key, sign, value = (part.strip() for part in item.partition("="))
        if not sign:
            raise ClusterUsageError(f"slurm: {item.strip()}: not KEY=VALUE; keys: {', '.join(_keys())}")
        if key in found:
            raise ClusterUsageError(f"slurm: {key} is given twice: {found[key]} and {value}")
        found[key] = value
    return found


def _yaml(path: Path) -> Mapping[str, object]:
    try:
        # Values stay text: YAML would read 2:00:00 as the number 7200, and we that as minutes
        tree = read_yaml(path, all_text=True)
    except UnreadableError as error:
        raise ClusterUsageError(str(error)) from None
    if not isinstance(tree, dict):
        raise ClusterUsageError(f"{path}: not a mapping of keys; keys: {', '.join(_keys())}")
    return tree


def _validated(tree: Mapping[str, object], where: str) -> SlurmRequest:
    try:
        request = SlurmRequest.model_validate(tree)
    except ValidationError as error:
        raise ClusterUsageError(f"{where}: {'; '.join(_describe(detail) for detail in error.errors())}") from None
    for name in request.extra:
        if name.replace("_", "-") in _NOT_EXTRA:
            raise ClusterUsageError(f"{where}: extra.{name}: not here; keys beside extra: {', '.join(_keys())}")
    return request


def _describe(detail: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        hint = did_you_mean(key, _keys()) or f"; keys: {', '.join(_keys())}"
        return f"{key}: no such key{hint}; other options of sbatch go under extra: in a YAML file"
    if detail["type"] == "missing":
        return f"{key}: missing; {_TIME_FORMS}" if key == "time" else f"{key}: missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}, found {detail['input']!r}"


def _keys() -> list[str]:
    return [field.alias or name for name, field in SlurmRequest.model_fields.items()]
