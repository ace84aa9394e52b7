"""Peers as methods of the harness: each is run as a process in its own environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from isovi.errors import InputError, IsoviError
from isovi_bench.peers.environments import (
    PEERS,
    Peer,
    data,
    environment,
    installed,
    last_line,
    named,
    python,
)
from isovi_bench.task import Fitted, LastStep, Task, method

TIME_LIMIT = 3600.0  # seconds
RUNNER = data("scripts", "run.py")
GAP = 1000.0  # spacings between sections: no peer's graph reaches from one to the next


class PeerError(IsoviError, RuntimeError):
    """A peer's process failed or took too long; the message ends with the last line of its standard error."""


def embed(task: Task, name: str, *, time_limit: float = TIME_LIMIT, **settings: Any) -> Fitted:
    """Run a peer on the spots that are not held out.

    Parameters
    ----------
    task
        What is to be embedded.
    name
        Of the peer.
    time_limit
        Seconds after which the process is ended.
    **settings
        Go to the peer's script.

    Returns
    -------
    What it found; the latent has rows of NaN for held-out spots unless the peer encodes them.

    Raises
    ------
    InputError
        If there is no such peer, or its environment is not complete.
    PeerError
        If its process fails, takes too long, or returns something else than one finite row per spot.
    """
    peer = named(name)
    _check(peer)
    given = {"seed": task.seed, "n_domains": task.n_domains, "max_epochs": task.max_epochs, **settings}
    with tempfile.TemporaryDirectory(prefix=f"isovi-{name}-") as folder:
        file, unseen, found = (Path(folder) / name for name in ("in.h5ad", "unseen.h5ad", "out.npz"))
        _seen(task.seen, given).write_h5ad(file)
        _unseen(task).write_h5ad(unseen)
        command = (python(peer), "-P", RUNNER, script(peer), file, unseen, found)
        run(peer, [str(part) for part in command], time_limit)
        with np.load(found) as arrays:
            return _fitted(dict(arrays), task, peer)


def _fitted(found: dict[str, np.ndarray], task: Task, peer: Peer) -> Fitted:
    """What a peer returned, in the rows of the spots that it is of."""
    others = np.setdiff1d(np.arange(task.spots.n_obs), task.rows)
    rows = {"latent": task.rows, "expression": task.rows, "latent_unseen": others, "positions": others}
    arrays: dict[str, np.ndarray] = {}
    for key, values in found.items():
        if key == "domains":
            continue
        if values.ndim != 2 or len(values) != len(rows[key]) or not np.isfinite(values).all():
            raise PeerError(
                f"{peer.name} returned an array {key} of shape {values.shape}.",
                f"One row of finite numbers for each of the {len(rows[key])} spots is needed.",
                "Leave this peer out of this data set.",
            )
        into = arrays.setdefault(
            key.removesuffix("_unseen"), np.full((task.spots.n_obs, values.shape[1]), np.nan)
        )
        into[rows[key]] = values if key != "positions" else _together(values, task.seen)
    return Fitted(
        arrays.get("latent"),
        domains=_given(found.get("domains")) or peer.clustering,
        positions=_given(arrays.get("positions")),
        expression=_given(arrays.get("expression")),
    )


def _given(values: np.ndarray | None) -> LastStep | None:
    """A last step that was taken already."""
    return None if values is None else partial(np.asarray, values)


def script(peer: Peer) -> Path:
    """What a peer's environment runs."""
    return data("scripts", f"{peer.name}.py")


def _check(peer: Peer) -> None:
    """Raises ``InputError`` unless a peer can be run."""
    if peer.unavailable:
        raise InputError(
            f"The peer {peer.name!r} cannot be run.",
            f"It cannot be installed: {peer.unavailable}.",
            "Leave it out.",
        )
    if not installed(peer):
        raise InputError(
            f"The peer {peer.name!r} is not installed.",
            "It runs in an environment of its own, with the pinned packages of this release.",
            f"Install it: isovi-bench peers --install {peer.name}.",
        )


def _seen(seen: AnnData, given: dict[str, Any]) -> AnnData:
    """What a peer is given: counts, positions and sections of spots that are not held out."""
    names = [str(row) for row in range(seen.n_obs)]
    section = seen.obs["section"].astype(str).to_numpy()
    return AnnData(
        seen.X,
        obs=pd.DataFrame({"section": section}, index=names),
        var=pd.DataFrame(index=list(map(str, seen.var_names))),
        obsm={"spatial": _apart(np.asarray(seen.obsm["spatial"], dtype=np.float64), section)},
        uns={"task": json.dumps(given)},
    )


def _unseen(task: Task) -> AnnData:
    """The other spots: counts and sections."""
    others = np.setdiff1d(np.arange(task.spots.n_obs), task.rows)
    section = task.spots.obs["section"].astype(str).to_numpy()[others]
    names = [f"unseen{row}" for row in others]
    return AnnData(
        task.spots.X[others],
        obs=pd.DataFrame({"section": section}, index=names),
        var=pd.DataFrame(index=list(map(str, task.spots.var_names))),
    )


def _apart(positions: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Positions with the sections side by side, for peers that know one section only."""
    moved = positions - positions.min(axis=0)
    _, codes = np.unique(section, return_inverse=True)
    moved[:, 0] += codes * (np.ptp(positions[:, 0]) + GAP)
    return moved


def _together(moved: np.ndarray, seen: AnnData) -> np.ndarray:
    """Undo :func:`_apart`: positions among the sections side by side as positions in their sections."""
    positions = np.asarray(seen.obsm["spatial"], dtype=np.float64)
    step = np.ptp(positions[:, 0]) + GAP
    back = moved.copy()
    back[:, 0] -= np.floor((moved[:, 0] + GAP / 2) / step) * step
    return back + positions.min(axis=0)


def run(peer: Peer, command: list[str], time_limit: float) -> None:
    """Run a peer's process to its end.

    Raises
    ------
    PeerError
        If it fails or takes longer than ``time_limit`` seconds.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as stderr:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=environment(),
            start_new_session=True,
        )
        try:
            code = process.wait(time_limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        seconds = time.monotonic() - started
        stderr.seek(0)
        said = last_line(stderr.read())
    if code is None:
        raise PeerError(
            f"{peer.name} was ended after {time_limit:g} seconds.",
            "That is its time limit.",
            f"Give it more with the setting time_limit. Its last line: {said}",
        )
    if code:
        raise PeerError(
            f"{peer.name} ended with code {code} after {seconds:.0f} seconds.",
            "Its process has to end with code 0.",
            f"Its last line: {said}",
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started."""
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def register(peer: Peer) -> None:
    """Make a peer known as a method."""

    @method(
        peer.name,
        sees_positions=peer.sees_positions,
        encodes=peer.encodes,
        smooths=bool(peer.smooths),
        reference=peer.reference,
    )
    def fit(task: Task, **settings: Any) -> Fitted:
        return embed(task, peer.name, **settings)


for _peer in PEERS.values():
    register(_peer)
