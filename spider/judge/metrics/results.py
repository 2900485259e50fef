"""What a metric came to, with everything that its number hangs on; as JSON, as a table, as mean and spread over seeds.

{"format": 1,
 "provenance": {...},                                   what was evaluated, by which software
 "summary": [{"name": "fid", "label": "FID", "mean": 12.3, "std": 0.1, "seeds": [0, 1, 2], ...}, ...],
 "results": [{"name": "fid", "label": "FID", "value": 12.3, "protocol": {...}, "warnings": [...], ...}, ...]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from typing_extensions import TypedDict

from spider.errors import SpiderError
from spider.files import finite, write_text
from spider.judge.metrics.class_table import class_lines
from spider.tables import aligned
from untrusted.counts import counted
from untrusted.errors import UnreadableError
from untrusted.json_data import read_json
from untrusted.typed import checked

FORMAT = 1

_CLASSES_SHOWN = 8  # names in a table


@dataclass(frozen=True)
class MetricResult:
    """One number.

    Attributes:
        name: as in `spider.measures`: `METRICS`, `GENERATOR_METRICS`.
        label: what tables call it: `FID` under Inception's own weights, otherwise with the embedding, `FD[offline]`.
        value: None where it is undefined.
        std: standard deviation of the value over its parts, None where there are none.
        std_over: those parts, e.g. `100 subsets`.
        stderr: standard error of the value, None where it is not known.
        protocol: embedding, its digest, resize rule, and the metric's own constants, counts and seed; `classes`, if
            the samples are of some only; `rebalanced`, if they are of all alike where the training images are not. A
            metric of a generator itself has no embedding.
        provenance: names and fingerprints of the image sets: `samples`, with `classes_alike` if they are of all classes
            alike, `reference` if there is one, `training`.
        warnings: what a reader must know before using the value.
        details: further numbers.
    """

    name: str
    label: str
    value: float | None
    protocol: dict[str, Any]
    provenance: dict[str, Any]
    std: float | None = None
    std_over: str | None = None
    stderr: float | None = None
    warnings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def way(self) -> dict[str, Any]:
        """How it was measured, key by key, but for the seed: what must be equal for two values to be compared.

        `classes` are those that the samples are of, where not of all. Where the reference is the training images of
        the same classes, its fingerprint says as much: the value compares with that of any generator against them.
        """
        told = {key: value for key, value in self.protocol.items() if key != "seed"}
        for side, key in (("reference", "fingerprint"), ("samples", "count")):
            about = self.provenance.get(side)
            told[side] = about.get(key) if isinstance(about, dict) else None
        reference, classes = self.provenance.get("reference"), told.get("classes")
        is_of_them = isinstance(reference, dict) and reference.get("classes") == classes
        told["classes"] = None if is_of_them else classes
        return told

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not finite becomes None."""
        plain: dict[str, Any] = finite(asdict(self))
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**data)


class _Document(TypedDict):
    """What `document` writes, as far as it is read again."""

    format: int
    results: list[MetricResult]


@dataclass(frozen=True)
class Summary:
    """A metric over evaluation seeds.

    Attributes:
        mean: None if it is undefined for some seed.
        std: sample standard deviation over the seeds, None for a single one.
    """

    name: str
    label: str
    mean: float | None
    std: float | None
    seeds: list[int]
    values: list[float | None]
    warnings: list[str]


def summarise(results: Sequence[MetricResult]) -> list[Summary]:
    """Mean and spread of each metric over the seeds found, metrics in the order of their first result.

    Raises:
        SpiderError: results of one metric differ in more than the seed, so that their mean would mean nothing.
    """
    return [_summary([result for result in results if result.name == name]) for name in _names(results)]


def _summary(results: Sequence[MetricResult]) -> Summary:
    first = results[0]
    for other in results[1:]:
        _require_same_protocol(first, other)
    values = [result.value for result in results]
    defined = [value for value in values if value is not None]
    return Summary(
        name=first.name,
        label=first.label,
        mean=float(np.mean(defined)) if len(defined) == len(values) else None,
        std=float(np.std(defined, ddof=1)) if len(defined) == len(values) > 1 else None,
        seeds=[result.protocol["seed"] for result in results],
        values=values,
        warnings=_merged([result.warnings for result in results]),
    )


def _merged(by_seed: Sequence[Sequence[str]]) -> list[str]:
    """The warnings of all seeds, once each; of those that differ in their numbers alone the first, and how many."""
    alike: dict[str, list[str]] = {}
    for warnings in by_seed:
        for warning in warnings:
            alike.setdefault(re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "#", warning), []).append(warning)
    return [
        first if len({first, *others}) == 1 else f"{first} (and alike under {counted(len(others), 'other seed')})"
        for first, *others in alike.values()
    ]


def _require_same_protocol(a: MetricResult, b: MetricResult) -> None:
    mine, other = ({**r.protocol, "reference": r.provenance.get("reference", {}).get("fingerprint")} for r in (a, b))
    for key in mine.keys() | other.keys():
        if key != "seed" and mine.get(key) != other.get(key):
            raise SpiderError(
                f"{a.label}: results with different {key} ({mine.get(key)} and {other.get(key)}) cannot be averaged"
            )


def document(results: Sequence[MetricResult], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Results of any number of seeds as the module shows them. `provenance` is plain data of the caller's."""
    whole: dict[str, Any] = finite(
        {
            "format": FORMAT,
            "provenance": dict(provenance),
            "summary": [asdict(summary) for summary in summarise(results)],
            "results": [result.to_json() for result in results],
        }
    )
    return whole


def write_result(path: Path, results: Sequence[MetricResult], provenance: Mapping[str, Any]) -> None:
    """Write the `document` of results, whole or not at all."""
    text = json.dumps(document(results, provenance), indent=2, allow_nan=False) + "\n"
    write_text(Path(path), text)


def read_results(path: Path) -> list[MetricResult]:
    """The results that `write_result` wrote. Raises SpiderError: the file, the key, and what was found."""
    try:
        document = checked(read_json(Path(path)), _Document, str(path))
    except (OSError, UnreadableError) as error:
        raise SpiderError(
            f"{path}: cannot be read as evaluation results: {str(error).removeprefix(f'{path}: ')}"
        ) from None
    if document["format"] != FORMAT:
        raise SpiderError(f"{path}: not evaluation results of format {FORMAT}")
    return document["results"]


def table(results: Sequence[MetricResult]) -> str:
    """The results for a terminal: what was compared, a line per metric, and below them the warnings."""
    first = results[0]
    sets = [first.provenance[side] for side in ("samples", "reference") if side in first.provenance]
    compared = " against ".join(f"{images['name']} ({_how_many(images)})" for images in sets)
    if "embedding" in first.protocol:
        compared += f", {first.protocol['embedding']}"
    rows = [("metric", "value", "±", "")]
    for summary in summarise(results):
        alone = next(result for result in results if result.name == summary.name)
        spread, what = _spread(summary, alone)
        rows.append((summary.label, _number(summary.mean), _number(spread), what))
    warnings = [f"! {summary.label}: {text}" for summary in summarise(results) for text in summary.warnings]
    classes = []
    for name in _names(results):  # a table for each metric that has one
        by_class = [each.details["classes"] for each in results if each.name == name and "classes" in each.details]
        if lines := class_lines(by_class) if by_class else []:
            header = ("stratum" if name == "fid_strata" else "class", "value", "samples", "reference")
            classes += ["", aligned([header, *lines])]
    return "\n".join([compared, aligned(rows), *warnings, *classes])


def _how_many(images: Mapping[str, Any]) -> str:
    if images["count"] is None:
        return str(images["holds"])
    classes = images.get("classes", [])
    shown = ", ".join(classes[:_CLASSES_SHOWN]) + (", ..." if len(classes) > _CLASSES_SHOWN else "")
    alike = ", all classes alike" if images.get("rebalanced") else ""
    return counted(images["count"], "image") + (f" of {shown}" if shown else "") + alike


def _spread(summary: Summary, alone: MetricResult) -> tuple[float | None, str]:
    """How far the value may be off, and in which sense: over seeds if there are several."""
    if len(summary.seeds) > 1:
        return summary.std, f"standard deviation over {counted(len(summary.seeds), 'seed')}"
    if alone.std is not None:
        return alone.std, f"standard deviation over {alone.std_over}"
    return alone.stderr, "standard error" if alone.stderr is not None else ""


def _names(results: Sequence[MetricResult]) -> list[str]:
    return list(dict.fromkeys(result.name for result in results))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
