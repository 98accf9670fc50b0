# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Run tasks in threads, or on the current cluster of `dask.distributed`."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from logging import getLogger
from threading import Event
from typing import Any
from uuid import uuid4

from levelmatch.exceptions import LevelMatchError

__all__ = ["compute_distributed", "current_client", "run_jobs", "spread"]


logger = getLogger(__name__)

# Number of submitted, unfinished tasks for each thread of the cluster.
AHEAD = 3
# Number of attempts to send images that a worker lost to the cluster.
N_ATTEMPTS = 3
# Time, in seconds, to wait for a cluster without workers, and between looks at an idle cluster.
PATIENCE, PAUSE = 60, 10


def current_client() -> Any:
    """Return the current distributed client.

    Returns
    -------
    client : `distributed.Client` or None
        `None` if no client is running, or this thread executes a task of a worker. Threads of
        this process then do the work.

    Raises
    ------
    LevelMatchError
        If the client is asynchronous.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        client = default_client()
    except ValueError:
        return None
    # A closed client remains the current one until its with block ends. A task that waits for
    # other tasks would hold the thread that they need.
    if client.status != "running" or _is_task():
        return None
    if getattr(client, "asynchronous", False):
        msg = (
            "the current dask.distributed client is asynchronous, and cannot be waited for; use "
            "one without asynchronous=True, or call the function in a thread of its own"
        )
        raise LevelMatchError(msg)
    return client


def _is_task() -> bool:
    """Return whether this thread executes a task of a worker."""
    get_worker = getattr(sys.modules["distributed"], "get_worker", None)
    if get_worker is None:
        return False
    try:
        get_worker()
    except ValueError:
        return False
    return True


def spread(
    client: Any,
    function: Callable,
    items: Sequence[tuple],
    names: Sequence[str],
    on_done: Callable[[], object] | None = None,
) -> list[Any]:
    """Call a function with the arguments of each item on the workers of a cluster.

    The scheduler repeats the tasks of a worker that ended.

    Parameters
    ----------
    client : `distributed.Client`
        Client of the cluster.
    function : callable
        A function at the top level of a module.
    items : sequence of tuple
        Arguments of each call.
    names : sequence of str
        Name of each item, for error messages.
    on_done : callable or None
        Called in this thread after each item.

    Returns
    -------
    results : list
        Return values of the function, in the order of the items.

    Raises
    ------
    LevelMatchError
        If several workers ended while they worked on one item; the message names the item.
    Exception
        Any exception that the function raises.
    """
    from distributed import KilledWorker, as_completed

    # Keys must be unique, because a cluster may hold tasks of other runs.
    run = uuid4().hex
    results: list[Any] = [None] * len(items)
    place: dict[Any, int] = {}
    waiting = iter(range(len(items)))
    done = as_completed()

    def submit() -> None:
        k = next(waiting, None)
        if k is not None:
            key = f"levelmatch-{function.__name__}-{k}-{run}"
            future = client.submit(function, *items[k], key=key, pure=False)
            place[future] = k
            done.add(future)

    for _ in range(AHEAD * max(sum(client.nthreads().values()), 1)):
        submit()
    try:
        for future in done:
            k = place.pop(future)
            results[k] = future.result()
            submit()
            if on_done is not None:
                on_done()
    except KilledWorker as error:
        msg = f"{names[k]}: the workers of the cluster that it was given to ended: {error}"
        raise LevelMatchError(msg) from error
    finally:
        client.cancel(list(place))
    return results


def compute_distributed(client, work, ahead):
    """Run the tasks of a measurement on a cluster.

    The scheduler repeats the tasks of a worker that ends. Images in memory that were on
    that worker are sent again.

    Parameters
    ----------
    client : `distributed.Client`
        The cluster.
    work : object
        The tasks, which receives their results, see `~levelmatch.measure.schedule.measure_pairs`.
    ahead : int
        Number of images that are read ahead of the measurement, for each thread of the cluster.
    """
    from concurrent.futures import CancelledError

    lost = (CancelledError, OSError, TimeoutError)
    for attempt in range(N_ATTEMPTS):
        try:
            _run_distributed(client, work, ahead)
            break
        except lost as error:
            of_a_file = isinstance(error, OSError) and error.filename is not None
            if attempt == N_ATTEMPTS - 1 or of_a_file:
                raise
            logger.warning("images in the memory of a worker were lost with it: sent again")
            client.wait_for_workers(1, timeout=PATIENCE)


def _run_distributed(client, work, ahead):
    """Submit the unfinished tasks and collect their results."""
    from concurrent.futures import CancelledError

    # Keys must be unique, because a cluster may hold tasks of other runs.
    run = uuid4().hex
    before = work.before(ahead * max(sum(client.nthreads().values()), 1))
    tasks, wanted = {}, {}

    def submit(name, *args):
        return client.submit(*args, key=f"levelmatch-{name}-{run}", pure=False)

    for k in work.order:
        read = work.readers[k]
        if work.is_in_memory(k):
            read = client.scatter(read, hash=False)
        waited = [tasks[key] for key in before[k] if key in tasks]
        tasks["load", k] = submit(f"load-{k}", _call, read, *waited)
        if k in work.cuts:
            tasks["cut", k] = submit(f"cut-{k}", _call, work.cuts[k], tasks["load", k])
        for n, (pairs, images, measure) in enumerate(work.batches[k]):
            if pairs[0] not in work.rows:
                needed = [tasks[key] for key in images]
                tasks["pairs", k, n] = submit(f"pairs-{k}-{n}", _call, measure, *needed)
                wanted[tasks["pairs", k, n]] = "pairs", pairs
        if k in work.sky and k not in work.levels:
            wanted[submit(f"sky-{k}", work.sky_level, tasks["load", k])] = "sky", k
    # The cluster releases an image when the last reference to its future is gone.
    del tasks
    for future, result in _finished(client, wanted):
        kind, of = wanted.pop(future)
        if isinstance(result, BaseException):
            # The image of this task is lost.
            raise CancelledError(str(result)) from result
        if kind == "pairs":
            work.add(of, *result)
        else:
            work.levels[of] = result


def _finished(client, futures):
    """Yield futures and their results as they finish.

    The scheduler may wait for ever for an image that was sent to a worker as it ended. An idle
    cluster raises CancelledError.
    """
    from concurrent.futures import CancelledError

    from distributed import as_completed

    waiting = set(futures)
    while waiting:
        try:
            for future, result in as_completed(list(waiting), with_results=True, timeout=PAUSE):
                waiting.discard(future)
                yield future, result
        except TimeoutError as error:
            held = client.processing()
            # Results of finished tasks may still be on their way.
            arriving = any(future.done() for future in waiting)
            if held and not arriving and not any(held.values()):
                msg = "the cluster is idle"
                raise CancelledError(msg) from error


def _call(function, *args):
    return function(*args)


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
