"""Memory stays with the process between batches, and goes back afterwards."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")

PROGRAM = """
import resource
from contextlib import suppress
import torch
from spider.judge.embed.memory import kept_memory

PAGE = resource.getpagesize()
SIZE = 64 * 2**20  # above what glibc ever keeps by itself

def faults_of(batches):
    '''Pages that the process had to ask for while it made and dropped as many arrays.'''
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(batches):
        torch.ones(SIZE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE

def kept():
    return resident() - before > SIZE / 2

faults_of(1)
before = resident()
with kept_memory(torch.device("meta")):
    faults_of(2)
    assert not kept(), "it is set for another device, too"
with suppress(ValueError), kept_memory(torch.device("cpu")):
    faults_of(2)
    assert kept(), "it is not kept between batches"
    raise ValueError
assert not kept(), "it is kept after an error"
with kept_memory(torch.device("cpu")):
    # The first few batches ask, until the heap has a place that fits
    assert faults_of(24) < 24 * SIZE / PAGE / 2, "batches do not take the pages of the batch before"
assert not kept(), "it is kept after the last batch"
"""


def test_memory_is_kept_between_batches_of_the_cpu_and_goes_back() -> None:
    """In a process of its own: what a heap gives back depends on all that has been in it."""
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
