"""Ray for searches and comparisons: on this machine or a cluster, with shares of GPUs."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from isovi import interrupts
from isovi.errors import InputError
from isovi.interrupts import Handlers


@contextmanager
def cluster(
    address: str | None = None, workers: int | None = None, *, gpus: float = 0.0, **given: Any
) -> Iterator[None]:
    """Ray while the block runs; one that runs in this process already is used and left alone.

    Parameters
    ----------
    address
        Of a running cluster; Ray is started on this machine by default.
    workers
        Processes at once on this machine; one for each processor by default.
    gpus
        Share of a GPU, or number of GPUs, that each piece of work asks for.
    **given
        More of ``ray.init``.

    Raises
    ------
    InputError
        If no cluster answers, its GPUs are too few, or the path of the temporary folder is too long for Ray.
    """
    if gpus < 0 or (gpus > 1 and gpus % 1):
        raise InputError(
            f"{gpus:g} GPUs were asked for.",
            "It is a share between 0 and 1, or a whole number.",
            "Give for example 0.5, with which two run on one GPU at once.",
        )
    ours = not ray.is_initialized()
    if ours:
        _start(address, workers, given)
    try:
        if gpus and gpus > (known := ray.cluster_resources().get("GPU", 0)):
            raise InputError(
                f"{gpus:g} GPUs were asked for.",
                f"Ray finds {known:g}.",
                "Ask for no more than there are, or for none, to run on processors.",
            )
        with interrupts.as_keyboard_interrupts():  # compiled code of Ray stops at no other exception
            yield
    finally:
        if ours:
            ray.shutdown()


def _start(address: str | None, workers: int | None, given: dict[str, Any]) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        given = {**given, "num_cpus": workers or os.cpu_count(), "include_dashboard": False}
    handlers = Handlers()
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **given)
    except ConnectionError as error:
        raise InputError(
            f"No Ray cluster answers at {address} ({error}).",
            "ray_address must be that of a running cluster.",
            "Start one with the command ray start, or pass no address to run on this machine.",
        ) from error
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        where = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
        raise InputError(
            f'The temporary folder is "{where}".',
            "Ray makes sockets in it, whose paths have 107 bytes at most.",
            "Set the environment variable RAY_TMPDIR to a folder with a shorter path, such as /tmp.",
        ) from error
    handlers.restore()  # Ray takes SIGTERM for a quiet end
