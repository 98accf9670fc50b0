# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Measure pairs on a cluster of `dask.distributed`."""

import asyncio
from logging import getLogger
from uuid import uuid4

__all__ = ["compute_distributed"]


logger = getLogger(__name__)

# How often images that a worker lost are sent to the cluster.
N_ATTEMPTS = 3
# Seconds that a cluster without workers is waited for.
PATIENCE = 60


def compute_distributed(client, plan, watch, sky_level, ahead):
    """Carry out a plan on a cluster; results are taken as they are ready.

    The scheduler repeats the tasks of a worker that ends. Images from memory that were on
    that worker are sent again.

    Parameters
    ----------
    client : `distributed.Client`
        The cluster.
    plan : object
        The tasks, see `~levelmatch.measure.schedule.measure_pairs`.
    watch : object
        Takes the rows of pairs as they finish.
    sky_level : callable
        Returns the sky level of an image.
    ahead : int
        Images read ahead of those measured, for each thread of the cluster.

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
    """Return whether an error is of reading a file, not of the cluster."""
    return isinstance(error, OSError) and error.filename is not None


def _run_distributed(client, plan, watch, sky, sky_level, ahead):
    """Submit the tasks that are not yet done, and take the results; ``sky`` is filled in."""
    from concurrent.futures import CancelledError

    from distributed import as_completed

    # Keys of this run alone: a cluster may hold those of others.
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
    # The cluster lets go of an image that nobody here asks for.
    del tasks
    for future, result in as_completed(list(wanted), with_results=True):
        kind, of = wanted.pop(future)
        if isinstance(result, BaseException):
            # Of a task whose image is lost.
            raise CancelledError(str(result)) from result
        if kind == "pairs":
            watch.done(of, *result)
        else:
            sky[of] = result


def _call(function, *args):
    return function(*args)
