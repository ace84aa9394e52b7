from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from isovi.errors import InputError, OutputError
from isovi_bench.peers import PEERS, PeerError, adapter, environments, install, status
from isovi_bench.peers.environments import Peer
from isovi_bench.task import METHODS, Fitted, Task, find

STUB = """
import numpy as np
def embed(adata, *, seed, n_domains, max_epochs, scale=1.0):
    assert "isovi" not in __import__("sys").modules
    return scale * np.asarray(adata.obsm["spatial"]) + seed
"""


@pytest.fixture
def task() -> Task:
    """Forty spots in two sections, every fourth held out."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(2.0, (40, 6)).astype(np.float32))
    section = np.repeat(["a", "b"], 20)
    names = [f"spot{i}" for i in range(40)]
    spots = AnnData(counts, obs=pd.DataFrame({"section": section}, index=names))
    rows = np.flatnonzero(np.arange(40) % 4 != 3)
    seen = spots[rows].copy()
    seen.obsm["spatial"] = rng.uniform(0, 5, (30, 2))
    seen.obs["isovi_split"] = "train"
    return Task(seen, spots, rows, seed=7, n_domains=3, max_epochs=5)


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Make a peer called ``stub`` whose environment is the running one, from the text of its script."""

    def make(text: str = STUB) -> Path:
        path = tmp_path / "stub.py"
        path.write_text(text)
        peer = Peer("stub", "stub", "stub", "its positions", "not at all", "nowhere")
        monkeypatch.setitem(PEERS, "stub", peer)
        monkeypatch.setattr(adapter, "installed", lambda _: True)
        monkeypatch.setattr(adapter, "python", lambda _: Path(sys.executable))
        monkeypatch.setattr(adapter, "script", lambda _: path)
        return path

    return make


def test_the_process_gets_seed_and_settings_and_rows_return_to_their_places(task, stub):
    stub()
    fitted = adapter.embed(task, "stub", scale=2.0)
    assert isinstance(fitted, Fitted) and fitted.model is None and fitted.domains == "leiden"
    assert np.isnan(fitted.latent[3::4]).all()
    positions = task.seen.obsm["spatial"]
    within = task.seen.obs["section"].to_numpy() == "b"
    shift = fitted.latent[task.rows] - 2.0 * positions
    assert np.allclose(shift[within], shift[within][0]) and np.allclose(shift[~within], shift[~within][0])
    gap = shift[within][0] - shift[~within][0]
    assert gap[0] > 2 * adapter.GAP and abs(gap[1]) < 1e-9  # no graph of neighbours spans two sections


def test_the_peer_sees_no_spot_that_is_held_out(task, stub, tmp_path):
    kept = tmp_path / "kept.h5ad"
    stub(STUB.replace("    assert", f"    adata.write_h5ad({str(kept)!r})\n    assert"))
    adapter.embed(task, "stub")
    given = anndata.read_h5ad(kept)
    assert given.n_obs == len(task.rows)
    assert np.array_equal(given.X.toarray(), task.seen.X.toarray())
    assert list(given.obs) == ["section"] and list(given.obsm) == ["spatial"] and not given.uns


def test_an_error_of_the_peer_is_told_by_its_last_line(task, stub):
    stub("def embed(adata, **asked):\n    raise ValueError('no spots with more than one gene')\n")
    with pytest.raises(PeerError, match=r"code 1 .*ValueError: no spots with more than one gene$"):
        adapter.embed(task, "stub")


def test_a_peer_that_takes_too_long_is_ended_with_what_it_started(tmp_path):
    noted = tmp_path / "child"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(noted)!r}, 'w').write(str(child.pid))\n"
        "print('epoch 3 of 9000', file=sys.stderr, flush=True)\n"
        "time.sleep(60)\n"
    )
    limit = 0.5
    while not noted.exists() and limit < 20:  # on a busy machine Python itself may take seconds to start
        limit *= 2
        with pytest.raises(PeerError, match=f"ended after {limit:g} seconds"):
            adapter.run(PEERS["banksy"], [sys.executable, "-c", code], limit)
    assert ended(int(noted.read_text()))


def ended(pid: int) -> bool:
    """Whether a process is gone, or only its entry is left."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("found", [np.zeros((29, 2)), np.zeros(30), np.full((30, 2), np.nan)])
def test_anything_but_one_finite_row_per_spot_is_refused(task, found):
    with pytest.raises(PeerError, match="One row of finite numbers"):
        adapter._fitted({"latent": found}, task, PEERS["banksy"])


ALL_OF_IT = """
import numpy as np
def embed(adata, *, unseen, seed, n_domains, max_epochs):
    assert list(unseen.obs) == ["section"] and not len(unseen.obsm)
    return {
        "latent": adata.X.toarray(),
        "latent_unseen": unseen.X.toarray(),
        "positions": adata.obsm["spatial"][: unseen.n_obs],
        "domains": adata.obs["section"].to_numpy(),
        "expression": 2 * adata.X.toarray(),
    }
"""


def test_a_peer_may_encode_and_place_the_spots_that_it_was_not_fitted_on(task, stub):
    stub(ALL_OF_IT)
    fitted = adapter.embed(task, "stub")
    np.testing.assert_array_equal(fitted.latent, task.spots.X.toarray())
    expression, positions = fitted.expression(), fitted.positions()
    assert np.isnan(expression[3::4]).all() and np.isfinite(expression[task.rows]).all()
    assert np.isnan(positions[task.rows]).all()
    np.testing.assert_allclose(positions[3::4], task.seen.obsm["spatial"][:10])  # in the frame of its section
    assert list(fitted.domains()) == list(task.seen.obs["section"])


def test_positions_side_by_side_return_into_their_sections(task):
    section = task.seen.obs["section"].to_numpy()
    moved = adapter._apart(task.seen.obsm["spatial"], section)
    np.testing.assert_allclose(adapter._together(moved, task.seen), task.seen.obsm["spatial"])


def test_no_variable_of_ours_changes_what_the_peer_imports(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    given = environments.environment()
    assert "PYTHONPATH" not in given
    assert given["OMP_NUM_THREADS"] == "1"


# ---------------------------------------------------------------------------- installing


@pytest.fixture
def nowhere(tmp_path, monkeypatch) -> Path:
    """A folder without any environment."""
    monkeypatch.setenv(environments.FOLDER, str(tmp_path / "peers"))
    return tmp_path / "peers"


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("name", sorted(PEERS))
def test_every_peer_is_a_method_that_has_to_be_installed_first(name, task):
    made, peer = find(name), PEERS[name]
    assert made.reference and made.smooths == bool(peer.smooths)
    assert peer.latent or made.encodes  # what has no latent places cells
    with pytest.raises(InputError, match=peer.unavailable or f"isovi-bench peers --install {name}"):
        made.fit(task)


def test_status_tells_what_can_be_run_and_what_not(nowhere, monkeypatch):
    environment = nowhere / "banksy"
    environment.mkdir(parents=True)
    gone = Peer("graphst", "graphst", "x", "", "", "", unavailable="its wheel is gone")
    monkeypatch.setitem(PEERS, "graphst", gone)
    found = {one.peer.name: one for one in status()}
    assert set(found) == set(PEERS) <= set(METHODS)
    assert not found["banksy"].installed  # begun, not finished
    (environment / environments.STAMP).write_text(environments._digest(PEERS["banksy"]))
    assert environments.installed(PEERS["banksy"])
    (environment / environments.STAMP).write_text("pins of an older release")
    assert not environments.installed(PEERS["banksy"])
    assert found["graphst"].message == "cannot be run: its wheel is gone"
    pinned = [one for one in found.values() if not one.peer.unavailable]
    assert len(pinned) > 10 and all(re.fullmatch(r"[\d.]+(post\d+)?", one.version) for one in pinned)


def test_what_cannot_be_installed_says_why(monkeypatch, task):
    gone = Peer("graphst", "graphst", "x", "", "", "", unavailable="its wheel is gone")
    monkeypatch.setitem(PEERS, "graphst", gone)
    with pytest.raises(InputError, match="its wheel is gone"):
        install("graphst")
    with pytest.raises(InputError, match="its wheel is gone"):
        adapter.embed(task, "graphst")
    with pytest.raises(InputError, match="The peers are banksy"):
        install("magic")


@pytest.mark.usefixtures("nowhere")
def test_installing_follows_the_pins_and_ends_with_the_stamp(monkeypatch):
    ran: list[list[str]] = []

    def pretend(command, **_):
        ran.append(command)
        environments.folder(PEERS["stagate"]).mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environments.subprocess, "run", pretend)
    told: list[str] = []
    install("stagate", told.append)
    assert told == ["stagate: new environment", "stagate: torch", "stagate: packages", "stagate: import"]
    assert ran[1][-1].startswith("torch==") and environments.CPU_WHEELS in ran[1]
    assert "--no-deps" in ran[2] and Path(ran[2][-1]).is_file()
    assert environments.installed(PEERS["stagate"])


@pytest.mark.usefixtures("nowhere")
def test_a_failed_step_leaves_the_peer_not_installed(monkeypatch):
    def pretend(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "lines\nERROR: no matching distribution\n\n")

    monkeypatch.setattr(environments.subprocess, "run", pretend)
    with pytest.raises(OutputError, match="ERROR: no matching distribution"):
        install("banksy")
    assert not environments.installed(PEERS["banksy"])


AVAILABLE = [peer for peer in PEERS.values() if not peer.unavailable]


@pytest.mark.parametrize("peer", AVAILABLE, ids=[peer.name for peer in AVAILABLE])
def test_requirements_pin_the_package_and_nothing_for_gpus(peer):
    pins = environments._pins(peer)
    assert peer.package in pins
    assert not [name for name in pins if name.startswith(("nvidia", "isovi"))]
    assert adapter.script(peer).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PEERS))
def test_installed_peers_embed_a_small_tissue(name):
    peer = PEERS[name]
    if not environments.installed(peer):
        pytest.skip(f"the peer {name} is not installed in {environments.home()}")
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(15.0), np.arange(8.0)), -1).reshape(-1, 2)
    rates = np.exp(rng.normal(0, 0.4, 40) + np.outer(grid[:, 0] > 7, rng.normal(0, 1.0, 40)))  # fewer than 50
    spots = AnnData(sparse.csr_matrix(rng.poisson(4 * rates).astype(np.float32)))
    spots.obs["section"] = "all"
    rows = np.sort(rng.permutation(120)[:100])
    seen = spots[rows].copy()
    seen.obsm["spatial"] = grid[rows]
    fitted = find(name).fit(Task(seen, spots, rows, seed=0, n_domains=2, max_epochs=20))
    if not peer.latent:
        positions = fitted.positions()
        assert np.isnan(positions[rows]).all() and np.isfinite(np.delete(positions, rows, axis=0)).all()
        return
    assert np.isfinite(fitted.latent[rows]).all()
    assert np.isfinite(np.delete(fitted.latent, rows, axis=0)).all() == peer.encodes
    left = fitted.latent[rows][grid[rows, 0] <= 7].mean(axis=0)
    right = fitted.latent[rows][grid[rows, 0] > 7].mean(axis=0)
    assert np.abs(left - right).max() > 0  # the two halves differ
