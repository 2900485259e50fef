"""Measurements, not tests: each module prints a table and writes JSON. `python -m benchmarks.NAME --out FILE.json`."""
