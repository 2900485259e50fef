"""Resampling against its definition, and its derivatives."""

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import conv2d, pad

from spider.gan.networks.resample import blur, double, halve, resampling_kernel

KERNELS = [resampling_kernel().double(), resampling_kernel((1.0, 2.0, 0.5, 1.5, 3.0, 1.0)).double()]
OPERATIONS = {
    "blur": partial(blur, padding=1, gain=4.0),
    "blur-wide": partial(blur, padding=2),
    "halve": halve,
    "double": double,
}


def filtered(x, kernel):
    return conv2d(x.flatten(0, 1)[:, None], kernel).unflatten(0, x.shape[:2])[:, :, 0]


@pytest.mark.parametrize("kernel", KERNELS, ids=["4 taps", "6 taps"])
def test_sizes_change_as_defined(kernel):
    """Zeros between pixels, a filter of 4 times the gain; a filter, and every second pixel."""
    x, reach = torch.randn(2, 3, 6, 8).double(), kernel.shape[-1] // 2
    spread = x.new_zeros(2, 3, 12, 16)
    spread[:, :, ::2, ::2] = 4 * x
    lo, hi = reach, reach - 1
    torch.testing.assert_close(double(x, kernel), filtered(pad(spread, (lo, hi, lo, hi)), kernel.flip(2, 3)))
    torch.testing.assert_close(halve(x, kernel), filtered(pad(x, [hi] * 4), kernel)[:, :, ::2, ::2])
    torch.testing.assert_close(blur(x, kernel, 2, 3.0), 3 * filtered(pad(x, [2] * 4), kernel))


def test_a_constant_stays_what_it_is():
    x, kernel = torch.full((1, 1, 8, 8), 0.7), resampling_kernel()
    for y in (double(x, kernel), halve(x, kernel)):
        torch.testing.assert_close(y[:, :, 1:-1, 1:-1], torch.full_like(y[:, :, 1:-1, 1:-1], 0.7))


@pytest.mark.parametrize("kernel", KERNELS, ids=["4 taps", "6 taps"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_derivatives_are_exact(name, kernel):
    x = torch.randn(2, 2, 6, 4, dtype=torch.float64, requires_grad=True)
    operation = partial(OPERATIONS[name], kernel=kernel)
    assert gradcheck(operation, x)
    assert gradgradcheck(operation, x)


@pytest.mark.parametrize("name", OPERATIONS)
def test_format_and_precision_are_kept(name):
    x, kernel = torch.randn(2, 8, 8, 8), resampling_kernel()
    plain = OPERATIONS[name](x, kernel=kernel)
    last = OPERATIONS[name](x.contiguous(memory_format=torch.channels_last), kernel=kernel)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain)
    half = OPERATIONS[name](x.bfloat16(), kernel=kernel)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), plain, rtol=0.02, atol=0.02)
