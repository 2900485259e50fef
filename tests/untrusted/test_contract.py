"""YAML and JSON are read by one package: a limit that stands in two places is missing in a third. No pickle is read."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = sorted({init.parent.name for init in ROOT.glob("*/__init__.py")} - {"untrusted", "tests", "benchmarks"})
READERS = {("json", "load"), ("json", "loads"), ("pickle", "load"), ("pickle", "loads"), ("torch", "load")}
ALLOWED = {
    "cluster/world.py": "what ranks of this program tell each other",
    "spider/tensors.py": "tensors by name, with weights_only",
    "spider/gan/sources/nonparametric.py": "a table that comes with the package",
    "sweeps/config.py": "what the line itself has just written",
}


def calls(tree):
    """(module, function) of every call of that form."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=function)):
                yield module, function


def imported(tree):
    """Every module that is imported, and every name from one of the readers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield str(node.module)


def test_nobody_else_reads_json_or_yaml():
    assert {"cluster", "shards", "spider", "sweeps"} <= set(PACKAGES)
    found = set()
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            names = set(imported(tree))
            assert not names & {"yaml", "json.load", "json.loads"}, file
            if READERS & set(calls(tree)):
                found.add(str(file.relative_to(ROOT)))
    assert found == set(ALLOWED)
