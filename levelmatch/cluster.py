# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Run tasks on the current cluster of `dask.distributed`."""

import sys
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from levelmatch.exceptions import LevelMatchError

__all__ = ["current_client", "spread"]

# Number of submitted, unfinished tasks for each thread of the cluster.
AHEAD = 3


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
