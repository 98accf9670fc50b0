# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Measure pairs on a cluster of `dask.distributed`."""

import asyncio
from logging import getLogger
from uuid import uuid4

__all__ = ["compute_distributed"]


logger = getLogger(__name__)

# Number of attempts to send images that a worker lost to the cluster.
N_ATTEMPTS = 3
# Time, in seconds, to wait for a cluster without workers.
PATIENCE = 60


def compute_distributed(client, plan, watch, sky_level, ahead):
    """Run the tasks of a plan on a cluster; return the sky levels.

    The scheduler repeats the tasks of a worker that ends. Images in memory that were on
    that worker are sent again.

    Parameters
    ----------
    client : `distributed.Client`
        The cluster.
    plan : object
        The tasks, see `~levelmatch.measure.schedule.measure_pairs`.
    watch : object
        Receives the rows of finished pairs.
    sky_level : callable
        Returns the sky level of an image.
    ahead : int
        Number of images that are read ahead of the measurement, for each thread of the cluster.

    Returns
    -------
    sky : dict of int to float
        Sky levels, by image.
    """
    from concurrent.futures import CancelledError

    # TimeoutError is another class in older versions of asyncio.
    lost = (CancelledError, OSError, TimeoutError, asyncio.TimeoutError)
    sky = {}
    for attempt in range(N_ATTEMPTS):
        try:
            _run_distributed(client, plan, watch, sky, sky_level, ahead)
            break
        except lost as error:
            if attempt == N_ATTEMPTS - 1 or _is_of_a_file(error):
                raise
            logger.warning("images in the memory of a worker were lost with it: sent again")
            client.wait_for_workers(1, timeout=PATIENCE)
    watch.finish()
    return sky


def _is_of_a_file(error):
    """Return whether an error comes from reading a file, not from the cluster."""
    return isinstance(error, OSError) and error.filename is not None


def _run_distributed(client, plan, watch, sky, sky_level, ahead):
    """Submit the unfinished tasks and collect their results; fill ``sky``."""
    from concurrent.futures import CancelledError

    from distributed import as_completed

    # Keys must be unique, because a cluster may hold tasks of other runs.
    run = uuid4().hex
    before = plan.before(ahead * max(sum(client.nthreads().values()), 1))
    tasks, wanted = {}, {}

    def submit(name, *args):
        return client.submit(*args, key=f"levelmatch-{name}-{run}", pure=False)

    for k in plan.order:
        source = plan.sources[k]
        if source.in_memory:
            source = client.scatter(source, hash=False)
        waited = [tasks[key] for key in before[k] if key in tasks]
        tasks["load", k] = submit(f"load-{k}", _call, source, *waited)
        if k in plan.parts:
            tasks["part", k] = submit(f"part-{k}", _call, plan.parts[k], tasks["load", k])
        for n, batch in enumerate(plan.batches[k]):
            if batch.pairs[0] not in watch.rows:
                needed = [tasks[key] for key in batch.images]
                tasks["pairs", k, n] = submit(f"pairs-{k}-{n}", _call, batch, *needed)
                wanted[tasks["pairs", k, n]] = "pairs", batch.pairs
        if k in plan.sky and k not in sky:
            wanted[submit(f"sky-{k}", sky_level, tasks["load", k])] = "sky", k
    # The cluster releases an image when the last reference to its future is gone.
    del tasks
    for future, result in as_completed(list(wanted), with_results=True):
        kind, of = wanted.pop(future)
        if isinstance(result, BaseException):
            # The image of this task is lost.
            raise CancelledError(str(result)) from result
        if kind == "pairs":
            watch.done(of, *result)
        else:
            sky[of] = result


def _call(function, *args):
    return function(*args)
