"""LeCam: its formula, and when its averages move."""

from __future__ import annotations

import pytest
import torch

from spider.config.load import make_config
from spider.errors import SpiderUsageError
from spider.gan.auxiliary.auxiliary import Seen
from spider.gan.auxiliary.lecam import Lecam
from spider.gan.outputs import Condition, DOut


def seen(logits):
    out = DOut(torch.tensor(logits, dtype=torch.float64).unsqueeze(1))
    images = torch.zeros(len(logits), 1, 2, 2)
    return Seen("real", images, images, Condition(), out, lambda *asked: None)


def test_outputs_that_were_driven_apart_are_pulled_back_and_others_are_not():
    lecam = Lecam(0.9, torch.device("cpu"))
    first = lecam.discriminator(seen([1.0, 3.0]), seen([-2.0, 0.0]), None)
    assert first.terms["apart"].eq(0).all()  # nothing is known of D yet
    lecam.stepped("d_main", first.keep)
    lecam.stepped("g_main", {})
    assert (lecam.real.item(), lecam.fake.item()) == (2.0, -1.0)
    second = lecam.discriminator(seen([4.0, -3.0]), seen([1.0, 5.0]), None)
    # (4 - -1)^2 + (2 - 1)^2; -3 lies below a_F = -1 and 5 above a_R = 2, as if D had erred
    assert second.terms["apart"].flatten().tolist() == [26.0, 0.0]
    lecam.stepped("d_main", second.keep)
    assert lecam.real.item() == pytest.approx(0.9 * 2 + 0.1 * 0.5)
    assert lecam.fake.item() == pytest.approx(0.9 * -1 + 0.1 * 3)


def test_a_paired_objective_is_refused():
    with pytest.raises(SpiderUsageError, match=r"auxiliary: kind=lecam cannot go with objective.kind=relativistic"):
        make_config({}, ["auxiliary=[{kind: lecam}]", "objective.kind=relativistic"])
