"""Kernels are the polyharmonic ones, growing with distance, in any order."""

from __future__ import annotations

import mpmath
import pytest
import torch

from spider.errors import SpiderUsageError
from spider.judge.sid.kernels import Kernel, parse_kernel, polyharmonic

DISTANCES = torch.tensor([0.03, 0.4, 1.0, 1.7, 9.0], dtype=torch.float64)


def by_mpmath(order: float, log: bool, distance: float, unit: float = 1.0) -> float:
    q = mpmath.mpf(distance) / unit
    power = q ** mpmath.mpf(order)
    return float(power * mpmath.log(q) if log else mpmath.sign(order) * power)


@pytest.mark.parametrize(
    ("m", "n", "order", "log"),
    [
        (1, 4, -2, False),
        (2, 4, 0, True),
        (3, 4, 2, True),
        (4, 4, 4, True),
        (2, 3, 1, False),
        (3, 3, 3, False),
        (1023.5, 2048, -1, False),
        (1024, 2048, 0, True),
        (1, 2048, -2046, False),
    ],
)
def test_m_and_n_make_the_kernel(m: float, n: int, order: float, log: bool):
    assert polyharmonic(m, n) == Kernel(order, log)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_the_log_case_is_mpmaths(m: int):
    kernel = polyharmonic(m, 4)
    expected = [by_mpmath(2 * m - 4, True, float(d)) for d in DISTANCES]
    torch.testing.assert_close(kernel(DISTANCES), torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("order", [-5, -4, -3, -2, -1, -0.5, 0.5, 1, 2, 3, 4, 7, -2.3])
def test_any_order_is_the_signed_power(order: float):
    expected = torch.tensor([by_mpmath(order, False, float(d)) for d in DISTANCES], dtype=torch.float64)
    torch.testing.assert_close(Kernel(order)(DISTANCES), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(Kernel(order)(DISTANCES.float()), expected.float(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("kernel", [Kernel(-2046), Kernel(100), Kernel(40, log=True)])
def test_huge_orders_are_relative_to_the_unit(kernel: Kernel):
    near = torch.tensor([0.9, 0.99, 1.0, 1.01, 1.2], dtype=torch.float64) * 13
    expected = [by_mpmath(kernel.order, kernel.log, float(d), 13) for d in near]
    assert kernel.relative
    assert "relative" in kernel.label
    torch.testing.assert_close(
        kernel(near, unit=13.0), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-300
    )


@pytest.mark.parametrize("kernel", [Kernel(k) for k in (-30, -3, -1, 0.5, 1, 2)] + [Kernel(0, log=True)])
def test_kernels_grow(kernel: Kernel):
    assert (kernel(DISTANCES, unit=1.0).diff() > 0).all()


@pytest.mark.parametrize(
    "kernel", [Kernel(-3), Kernel(-1), Kernel(1), Kernel(0.3), Kernel(0, log=True), Kernel(2, log=True)]
)
def test_slope_is_the_derivative(kernel: Kernel):
    step = 1e-6
    derivative = (kernel(DISTANCES + step) - kernel(DISTANCES - step)) / (2 * step)
    slope = kernel.slope_over_distance(DISTANCES.square())
    torch.testing.assert_close(slope * DISTANCES, derivative, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Kernel(0), "order 0 is constant"),
        (lambda: Kernel(-1, log=True), "no logarithm"),
        (lambda: Kernel(float("nan")), "not a number"),
        (lambda: polyharmonic(0.3, 4), "multiple of 1/2"),
        (lambda: polyharmonic(-1, 4), "multiple of 1/2"),
    ],
)
def test_kernels_that_cannot_be_are_refused(make, words: str):
    with pytest.raises(SpiderUsageError, match=words):
        make()


@pytest.mark.parametrize(
    "kernel", [Kernel(k) for k in (-2046, -1, 0.5, 0.12345678, 2, 17)] + [Kernel(k, log=True) for k in (0, 2, 40)]
)
def test_a_label_names_its_kernel(kernel: Kernel):
    assert parse_kernel(kernel.label) == kernel
    assert parse_kernel(kernel.label.removesuffix(" relative")) == kernel
    assert parse_kernel(kernel) == kernel


@pytest.mark.parametrize(("text", "m", "n"), [("1023.5/2048", 1023.5, 2048), ("3/4", 3, 4), ("1/2048", 1, 2048)])
def test_m_over_n_is_the_exact_kernel(text: str, m: float, n: int):
    assert parse_kernel(text) == polyharmonic(m, n)


@pytest.mark.parametrize("text", ["a", "", "1 2", "log", "2 log log", "2 lg", "1 relative", "3/4 log", "3/4.5"])
def test_what_is_no_kernel_is_told_what_is_one(text: str):
    with pytest.raises(SpiderUsageError, match=rf"^kernel order '{text}' is none; allowed: .*-1 .*`2 log`.*m/n"):
        parse_kernel(text)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (0, "order 0 is constant; .* `0 log`"),
        ("-1 log", "-1 has no logarithm"),
        ("nan", "not a number"),
        ("0.3/4", r"\(0.3, 4\): m must"),
    ],
)
def test_what_is_wrong_with_a_kernel_is_said(order: float | str, words: str):
    with pytest.raises(SpiderUsageError, match=words):
        parse_kernel(order)
