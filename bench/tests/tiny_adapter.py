"""Methods for tests of the harness, made known as a user's adapter is."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from isovi_bench.task import Fitted, Task, method


@method("noted")
def noted(task: Task, *, folder: str) -> Fitted:
    """Writes down each call; later seeds wait for as long as the folder has a file ``closed``."""
    with (Path(folder) / "calls").open("a") as calls:
        calls.write(f"{task.seed}\n")
    while task.seed and (Path(folder) / "closed").exists():
        time.sleep(0.05)
    return Fitted(task.spots.X[:, :3].toarray(), epochs=7)


@method("positions", sees_positions=True, encodes=False, smooths=True, decoder="counts")
def positions(task: Task) -> Fitted:
    """Knows where its training spots are, and nothing of the others."""
    latent = np.full((task.spots.n_obs, 2), np.nan)
    latent[task.rows] = task.seen.obsm["spatial"]
    return Fitted(latent)


@method("fails")
def fails(task: Task, *, unless: str) -> Fitted:
    """Raises, unless a file is there."""
    if not Path(unless).exists():
        raise ValueError("of two lines\nthe last says it")
    return Fitted(task.spots.X[:, :3].toarray())


@method("meets")
def meets(task: Task, *, folder: str) -> Fitted:
    """Writes down which GPUs it sees, and waits until another seed has done so."""
    (Path(folder) / f"seen-{task.seed}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
    until = time.monotonic() + 120
    while len(list(Path(folder).glob("seen-*"))) < 2:
        if time.monotonic() > until:
            raise TimeoutError("the other job did not run beside this one")
        time.sleep(0.05)
    return Fitted(task.spots.X[:, :3].toarray())


@method("dies")
def dies(task: Task) -> Fitted:
    """Takes its process with it."""
    del task
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
