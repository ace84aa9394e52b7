"""One job from beginning to end, in a process of its own."""

from __future__ import annotations

import _thread
import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from typing import Any

import numpy as np
import scvi
import torch

from isovi_bench.grid import OWN, make_known
from isovi_bench.job import Job
from isovi_bench.measure import measure
from isovi_bench.prepare import Prepared, prepare
from isovi_bench.progress import LEFT_OUT
from isovi_bench.resources import peak_memory, peak_memory_of_children, processor_seconds
from isovi_bench.store import Outcome
from isovi_bench.task import Fitted, find

LINE = 500  # characters of a message
GRACE = 5.0  # seconds
_VISIBLE = "CUDA_VISIBLE_DEVICES"  # which Ray sets for each job


def attempt(job: Job) -> Outcome:
    """Run a job; an error becomes part of the outcome.

    Parameters
    ----------
    job
        What to run.
    """
    _end_with(os.getppid())
    _quiet()
    try:
        return run(job)
    except Exception as error:  # noqa: BLE001 - a method of any origin may raise anything
        return Outcome(message=reason(error))


def _end_with(parent: int) -> None:
    """End this process when its parent is killed, since nobody waits for its result."""
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        _interrupt()  # so that a method that waits for a process ends that
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread, even where that is blocked in a system call."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
    else:
        _thread.interrupt_main()


def _quiet() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "scvi", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    scvi.settings.verbosity = logging.ERROR
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def reason(error: BaseException) -> str:
    """Kind of an exception and the last line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"[:LINE]


def run(job: Job) -> Outcome:
    """Prepare the data, fit the method, and measure the latent.

    Parameters
    ----------
    job
        What to run.

    Returns
    -------
    With seconds, processor seconds (those compare on a busy machine) and peak memory of the fit (the whole
    process until its end, in megabytes), the epochs it trained, if it counts them, and the number of spots
    left out, if there are any, under the set ``""``.
    """
    make_known(job.adapters)
    prepared = prepare(job)
    started, worked = time.perf_counter(), processor_seconds()
    fitted = find(job.method).fit(prepared.task, **job.parameters)
    whole = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": processor_seconds() - worked,
        "peak_memory_mb": max(peak_memory(), peak_memory_of_children()),
    }
    if fitted.epochs is not None:
        whole["epochs"] = float(fitted.epochs)
    if prepared.left_out:
        whole[LEFT_OUT] = float(prepared.left_out)
    torch.set_num_threads(1)  # numba and scikit-learn may have changed it on the way here
    metrics = measure(fitted, prepared, seed=job.seed, metrics=job.metrics)
    return Outcome({**metrics, "": whole}, arrays=_arrays(fitted, prepared))


def _arrays(fitted: Fitted, prepared: Prepared) -> dict[str, np.ndarray]:
    if fitted.latent is None:
        return {}
    placement = prepared.placement
    return {
        "latent": np.asarray(fitted.latent, dtype=np.float32),
        "coordinates": np.asarray(placement.coordinates, dtype=np.float32),
        "section": placement.section,
        "split": placement.split,
    }


def _see(gpus: str | None) -> None:
    """Show this process the GPUs that Ray gave the job; the server that it is forked from has none."""
    if gpus is not None:
        os.environ[_VISIBLE] = gpus


class FreshProcess:
    """Runs each job in a fresh process, forked from one that has imported everything already.

    Importing takes longer than a small job; a process for each keeps peak memory honest.
    """

    def __init__(self) -> None:
        methods = multiprocessing.get_all_start_methods()
        self.context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if self.context.get_start_method() == "forkserver":
            self.context.set_forkserver_preload([__name__, *OWN, "ray"])

    def run(self, job: Job) -> Outcome:
        """Run a job; the death of its process becomes part of the outcome.

        Parameters
        ----------
        job
            What to run.
        """
        try:
            with ProcessPoolExecutor(1, self.context, _see, (os.environ.get(_VISIBLE),)) as pool:
                return pool.submit(attempt, job).result()
        except BrokenProcessPool:
            return Outcome(message="BrokenProcessPool: the process of the job died; it may lack memory")


@cache
def fresh_process() -> FreshProcess:
    """What this Ray worker starts processes from, kept from job to job."""
    return FreshProcess()


def run_isolated(job: Job) -> Outcome:
    """Run a job on a Ray worker, in a process of its own.

    Parameters
    ----------
    job
        What to run.
    """
    return fresh_process().run(job)
