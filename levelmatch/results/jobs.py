# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Run functions in a few threads."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

__all__ = ["run_jobs"]


def run_jobs(jobs: Iterable[tuple[Callable[[], object], bool]], n_threads: int) -> None:
    """Call functions, some of them in threads. After an error no further function is called.

    Parameters
    ----------
    jobs : iterable of tuple
        Pairs of a function without arguments and whether a thread may call it. The calling
        thread calls the others.
    n_threads : int
        Number of threads, and largest number of jobs that are taken from the iterable in advance.

    Raises
    ------
    Exception
        The first error of a job, after the jobs in progress have ended.
    """
    failed = Event()

    def carry_out(job: Callable[[], object]) -> None:
        if failed.is_set():
            return
        try:
            job()
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(n_threads, thread_name_prefix="levelmatch") as pool:
        started: deque[Future] = deque()
        try:
            for job, by_thread in jobs:
                if by_thread:
                    started.append(pool.submit(carry_out, job))
                else:
                    carry_out(job)
                if len(started) > n_threads:
                    started.popleft().result()
            for future in started:
                future.result()
        except BaseException:
            failed.set()
            raise
