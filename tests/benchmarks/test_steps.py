"""What benchmarks of iterations count: operations, bytes, and memory."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv2d

from benchmarks.steps import CPU, Allocated, Operations


def operations(groups: int) -> tuple[int, int]:
    """Of a convolution of 8 channels, forwards alone and with both gradients."""
    images = torch.randn(2, 8, 6, 6, requires_grad=True)
    kernel = torch.randn(8, 8 // groups, 3, 3, requires_grad=True)
    with Operations() as forwards:
        out = conv2d(images, kernel, padding=1, groups=groups)
    with Operations() as backwards:
        out.sum().backward()
    return forwards.total, forwards.total + backwards.total


def test_a_gradient_costs_twice_its_convolution_in_any_number_of_groups() -> None:
    forwards = 2 * 2 * 8 * 8 * 9 * 36
    assert operations(1) == (forwards, 3 * forwards)
    assert operations(4) == (forwards // 4, 3 * forwards // 4)


def test_bytes_are_those_read_and_written() -> None:
    one, other = torch.zeros(4, 8), torch.zeros(8, 2)
    with Operations() as counted:
        (one @ other).T.mul(2.0)
    assert counted.products == {(torch.float32, 2 * 4 * 8 * 2, 4 * (32 + 16 + 8)): 1}
    assert counted.other_bytes == 2 * 4 * 8  # a view moves nothing


def test_memory_is_what_was_held_at_once() -> None:
    before = torch.zeros(1000)
    with Allocated(CPU) as taken:
        kept = before + 1
        (before * 2) * 3
    assert kept.nbytes == 4000
    assert (taken.held, taken.peak) == pytest.approx((4000, 12000), abs=64)  # and the numbers 1, 2, 3
