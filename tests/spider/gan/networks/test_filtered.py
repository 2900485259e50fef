"""The filtered nonlinearity against its definition, and its derivatives."""

import pytest
import torch
from scipy import fft
from torch.nn.functional import conv2d, pad

from spider.gan.networks.filtered import FilteredLeakyReLU, lowpass


def test_filters_pass_what_is_low_and_stop_what_is_high():
    """Along any direction, if they are radial."""
    taps, rate, cutoff, half_width = 24, 64.0, 8.0, 6.0
    row, disc = (lowpass(taps, cutoff, half_width, rate, radial=radial).double() for radial in (False, True))
    for filter2d, directions in ((row.outer(row), 1), (disc, 7)):
        assert float(filter2d.sum()) == pytest.approx(1, abs=1e-6)
        torch.testing.assert_close(filter2d, filter2d.flip(0, 1).mT)
        places = (torch.arange(taps).double() - (taps - 1) / 2) / rate
        for angle in torch.linspace(0, torch.pi / 2, directions).tolist():
            along = places * torch.cos(torch.tensor(angle)) + places[:, None] * torch.sin(torch.tensor(angle))
            low, half, high = (
                float((filter2d * torch.cos(2 * torch.pi * frequency * along)).sum())
                for frequency in (0.1 * cutoff, cutoff, cutoff + 1.1 * half_width)
            )
            assert low == pytest.approx(1, abs=0.05)
            assert half == pytest.approx(0.5, abs=0.06)
            assert abs(high) < 0.03


def by_definition(x, up_filter, down_filter, up, down, size, clamp):
    """Zeros between pixels, a filter, the activation, a filter, and every `down`-th pixel of those in the middle."""
    n, channels, side, _ = x.shape
    spread = x.new_zeros(n, channels, side, up, side, up)
    spread[:, :, :, 0, :, 0] = x * up**2
    spread = spread.view(n, channels, side * up, side * up)
    total = (size - 1) * down + 1 - side * up + len(up_filter) + len(down_filter) - 2
    low = (total + up) // 2
    spread = pad(spread, (low, total - low, low, total - low))
    fine = conv2d(spread.flatten(0, 1)[:, None], up_filter.outer(up_filter)[None, None])
    fine = torch.where(fine > 0, fine, 0.2 * fine).clamp(-clamp, clamp)
    kernel = down_filter if down_filter.dim() == 2 else down_filter.outer(down_filter)
    coarse = conv2d(fine, kernel[None, None])[:, :, ::down, ::down]
    return coarse.view(n, channels, *coarse.shape[2:])


CASES = [(2, 2, 9, 9, False), (4, 2, 9, 15, False), (2, 2, 20, 6, True), (2, 2, 7, 7, True)]  # up, down, from, to


def operator(up, down, size, radial, clamp=0.4):
    filters = lowpass(6 * up, 8, 6, 64), lowpass(6 * down, 8, 6, 64, radial=radial)
    return FilteredLeakyReLU(*filters, up, down, size, clamp), filters


@pytest.mark.parametrize(("up", "down", "side", "size", "radial"), CASES)
def test_it_is_what_it_is_defined_as(up, down, side, size, radial):
    filtered, filters = operator(up, down, size, radial)
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    expected = by_definition(x, *(each.double() for each in filters), up, down, size, 0.4)
    torch.testing.assert_close(filtered.double()(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("up", "down", "side", "size", "radial"), CASES)
def test_derivatives_are_exact(up, down, side, size, radial):
    filtered = operator(up, down, size, radial)[0].double()
    x = torch.randn(1, 2, side, side, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(filtered, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(filtered, x, fast_mode=True)


def test_half_precision_is_rounded_once():
    """Filters are in float32."""
    filtered, _ = operator(2, 2, 9, radial=False)
    x = torch.randn(2, 3, 9, 9).bfloat16()
    exact = filtered(x.float())
    assert torch.equal(filtered(x), exact.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(filtered(x.float()), exact)


def test_a_leaky_relu_makes_no_aliases():
    """A wave that is shifted by half a pixel, and the shifted result of the wave, away from the borders."""
    side, wave = 64, 5
    filtered = FilteredLeakyReLU(lowpass(12, 24, 16, 128), lowpass(12, 24, 16, 128), 2, 2, side, None).double()

    def result(shift):
        x = torch.cos(2 * torch.pi * wave * (torch.arange(side).double() + shift) / side)
        return filtered(x.expand(1, 1, side, side))[0, 0, side // 2]

    inner = slice(12, -12)
    spectrum = fft.rfft(result(0.0).numpy() * 1.0)
    frequencies = torch.arange(len(spectrum)).double()
    turned = torch.from_numpy(spectrum) * torch.exp(2j * torch.pi * frequencies * 0.5 / side)
    shifted = torch.from_numpy(fft.irfft(turned.numpy(), side))
    plain = torch.cos(2 * torch.pi * wave * (torch.arange(side).double() + 0.5) / side)
    assert (result(0.5) - shifted)[inner].abs().max() < 0.02 * plain.abs().max()
