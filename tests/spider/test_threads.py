"""Work in our own threads computes on one thread each, whoever does the arithmetic."""

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from spider.threads import ahead, own_threads

CPU = torch.device("cpu")


def blas_threads(_: int = 0) -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_numpy_uses_one_thread_too_and_gets_its_own_back():
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with own_threads(torch.device("cpu")) as each:
            assert [blas_threads(), *each(blas_threads, 2)] == [{1}] * 3
        assert blas_threads() == before == {2}


def test_work_ahead_comes_in_order_and_computes_on_one_thread_each():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        taken: list[int] = []
        found = ahead(lambda item: (item, torch.get_num_threads()), (taken.append(i) or i for i in range(9)), CPU)
        assert next(found) == (0, 1)
        assert taken == [0, 1, 2, 3]  # one for each thread ahead
        assert list(found) == [(item, 1) for item in range(1, 9)]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_work_that_fails_gives_the_threads_back():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0, 1], CPU))
    assert torch.get_num_threads() == before
