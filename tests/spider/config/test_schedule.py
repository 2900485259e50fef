"""Schedules: their values, their limits, and what is said of wrong ones."""

import pytest

from spider.config.explain import explain
from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.settings.schedule import Moving, largest, value_at


def test_values_between_and_after_the_ends():
    cosine = Moving(cosine=(1.0, 3.0), until_kimg=2)
    assert [value_at(cosine, images) for images in (0, 1000, 2000, 9000)] == pytest.approx([1, 2, 3, 3])
    assert value_at(cosine, 500) == pytest.approx(2 - 2**-0.5)
    linear = Moving(linear=(4.0, 0.0), until_kimg=1)
    assert [value_at(linear, images) for images in (0, 250, 1000, 5000)] == pytest.approx([4, 3, 0, 0])
    steps = Moving(steps=((0, 5.0), (1, 6.0), (2.5, 7.0)))
    assert [value_at(steps, images) for images in (0, 999, 1000, 2499, 2500)] == [5, 5, 6, 6, 7]
    assert (largest(linear), largest(steps), largest(0.5)) == (4.0, 7.0, 0.5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("g_optimizer.lr={cosine: [1, 2]}", "until_kimg goes with cosine or linear"),
        ("g_optimizer.lr={cosine: [1, 2], linear: [1, 2], until_kimg: 1}", "one of cosine, linear and steps"),
        ("g_optimizer.lr={cosine: [1, 0], until_kimg: 1}", "must be > 0"),
        ("g_optimizer.beta2={steps: [[0, 0.5], [1, 1.5]]}", "must be < 1"),
        ("g_optimizer.lr={steps: [[1, 0.5]]}", "steps begin at 0 kimg"),
        ("g_optimizer.lr=-1", "g_optimizer.lr"),
        ("penalties.r1_gamma=-1", "penalties.r1_gamma"),
    ],
)
def test_what_is_wrong_is_named(text, says):
    with pytest.raises(SpiderUsageError, match=text.split("=")[0]) as error:
        make_config({}, [text])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_schedule_is_one_key():
    (key,) = explain("g_optimizer.lr")
    assert key.type.startswith("number, schedule or auto > 0")
    assert key.default == "0.0002"
