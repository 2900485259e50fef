"""What is installed is locked: every requirement has its version, within its bounds, and the oldest are the bounds."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "constraints").glob("py*.txt"))


def requirements(*extras: str) -> list[Requirement]:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    lists = [settings["options"]["install_requires"], *(settings["options.extras_require"][extra] for extra in extras)]
    return [Requirement(line) for text in lists for line in text.split("\n") if line.strip() and "%" not in line]


def pins(file: Path) -> dict[str, Version]:
    """By normalized name. A line that is neither a comment nor NAME==VERSION is an error: no host, no path."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([a-z0-9-]+)==([\w.]+)", line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if match is None]
    return {match[1]: Version(match[2]) for match in found if match is not None}


def normalized(requirement: Requirement) -> str:
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.stem)
def test_every_requirement_is_locked_within_its_bounds(file: Path) -> None:
    locked = pins(file)
    for requirement in requirements("test", "dev"):
        assert requirement.specifier.contains(locked[normalized(requirement)]), f"{requirement}: run make lock"


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    locked = pins(ROOT / "constraints" / "oldest.txt")
    for requirement in requirements("test"):
        (bound,) = requirement.specifier
        assert (bound.operator, Version(bound.version)) == (">=", locked[normalized(requirement)]), (
            f"{requirement}: run make lock"
        )


def test_a_lock_says_how_and_when_it_was_made() -> None:
    assert len(LOCKS) >= 2
    for file in (*LOCKS, ROOT / "constraints" / "oldest.txt"):
        assert re.search(r"make lock LOCK_DATE=\d{4}-\d\d-\d\d$", file.read_text().splitlines()[0])
