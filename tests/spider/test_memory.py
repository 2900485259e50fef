"""What asks for more memory than there is ends in one line that says what needs less."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster.errors import MachineError, is_out_of_memory
from spider import api
from spider.memory import needs_memory

TOO_MANY = 2**58


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(TOO_MANY, dtype=torch.uint8),
        lambda: np.empty(TOO_MANY, dtype=np.uint8),
        lambda: bytearray(TOO_MANY),
    ],
    ids=["torch", "numpy", "python"],
)
def test_memory_that_is_refused_is_one_line(ask):
    with (
        pytest.raises(
            MachineError, match=r"^out of memory( \(of [^)]+ more\))?: a smaller batch needs less$"
        ) as refused,
        needs_memory("a smaller batch needs less"),
    ):
        ask()
    assert refused.value.exit_code == 3
    assert is_out_of_memory(refused.value.__cause__)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), ValueError("out of memory")])
def test_other_errors_are_left_alone(error):
    with pytest.raises(type(error)), needs_memory("nothing"):
        raise error


def test_gpus_say_it_in_their_own_words():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))


@pytest.mark.parametrize("verb", [api.train, api.dry_run])
def test_a_training_names_the_keys(verb, digits, tmp_path, monkeypatch):
    def ask(*arguments):
        torch.empty(TOO_MANY, dtype=torch.uint8)

    monkeypatch.setattr("spider.train.plan.build_generator", ask)
    with pytest.raises(MachineError, match=r"^out of memory .*batch, .*accumulation .*generator\.width"):
        verb("dcgan", tmp_path / "run", data=digits, kimg=0.01)


def test_a_forecast_does_without_a_size_that_does_not_fit_here(monkeypatch):
    def ask(config):
        torch.empty(TOO_MANY, dtype=torch.uint8)

    monkeypatch.setattr("spider.cost.dry_run.checkpoint_bytes", ask)
    assert api.checkpoint_bytes(None) is None
