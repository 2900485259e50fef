"""Memory stays with the process between batches, and goes back afterwards."""

import platform
import resource

import pytest
import torch

from spider.embed.memory import kept_memory

PAGE = resource.getpagesize()
SIZE = 64 * 2**20  # above what glibc ever keeps by itself

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")


def faults_of(batches: int) -> int:
    """Pages that the process had to ask for while it made and dropped as many arrays."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(batches):
        torch.ones(SIZE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


def test_batches_take_the_pages_of_the_batch_before_and_the_last_gives_them_back():
    before = resident()
    with kept_memory(torch.device("cpu")):
        # The first few batches ask, until the heap has a place that fits.
        assert faults_of(24) < 24 * SIZE / PAGE / 2
    assert resident() - before < SIZE / 2


def test_off_the_cpu_nothing_is_set():
    with kept_memory(torch.device("meta")):
        before = resident()
        faults_of(1)
        assert resident() - before < SIZE / 2
