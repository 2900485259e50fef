"""Work in our own threads computes on one thread each, whoever does the arithmetic."""

import torch
from threadpoolctl import threadpool_info, threadpool_limits

from spider.judge.sid.threads import own_threads


def blas_threads(_: int = 0) -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_numpy_uses_one_thread_too_and_gets_its_own_back():
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with own_threads(torch.device("cpu")) as each:
            assert [blas_threads(), *each(blas_threads, 2)] == [{1}] * 3
        assert blas_threads() == before == {2}
