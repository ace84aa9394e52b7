"""A small tissue and one short run."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

N_OBS, N_GENES = 120, 40


@pytest.fixture
def not_in_the_background() -> Iterator[None]:
    """Shells have what they start in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def make_tissue() -> Any:
    """Two sections with batches, a layer of counts, and a gene that no spot has."""
    import numpy as np
    from scipy import sparse

    from isovi.simulate import simulate

    adata = simulate("layers", n_obs=N_OBS, n_genes=N_GENES, n_sections=2, seed=0)
    counts = adata.X.toarray()
    counts[:, 0] = 0
    counts[:, 1] += 1  # no spot becomes empty
    adata.X = sparse.csr_matrix(counts)
    adata.layers["counts"] = adata.X.copy()
    adata.obs["batch"] = np.where(np.arange(N_OBS) % 2, "a", "b")
    return adata


@dataclass
class Fitted:
    """What one call of ``files.fit`` returned, reported and left behind."""

    out: Path
    run: Any
    said: list[str]

    @property
    def metrics(self) -> dict[str, Any]:
        return self.run.metrics

    @property
    def model(self) -> Any:
        return self.run.model

    def json(self, name: str) -> dict[str, Any]:
        return json.loads((self.out / name).read_text())

    def adata(self) -> Any:
        import anndata

        return anndata.io.read_h5ad(self.out / "adata.h5ad")


def run_fit(
    file: Path, out: Path, *, plots: bool = False, resume: bool = False, force: bool = False, **settings: Any
) -> Fitted:
    """Fit for two epochs; the plots, which take longer than that, only where they are looked at."""
    from isovi import files
    from isovi.progress import Progress
    from isovi.run import Settings

    said: list[str] = []

    class Recorded(Progress):
        def say(self, text: str) -> None:
            said.append(text)

        def epoch(self, done: int, total: int, metrics: Any) -> None:  # noqa: ARG002  # of the protocol
            said.append(f"epoch {done}/{total}")

    asked = Settings(**{"max_epochs": 2, "n_latent": 4, "holdout": 0.25, **settings})
    with pytest.MonkeyPatch.context() as patch:
        if not plots:
            patch.setattr(files, "draw", lambda *_: None)
        run = files.fit(file, out, asked, resume=resume, force=force, progress=Recorded())
    return Fitted(Path(out), run, said)


@pytest.fixture
def tissue() -> Any:
    return make_tissue()


@pytest.fixture(scope="session")
def tissue_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "tissue.h5ad"
    make_tissue().write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def fit() -> Callable[..., Fitted]:
    return run_fit


@pytest.fixture(scope="session")
def unsealed() -> Callable[[Path], Path]:
    """A function that makes a run one of the first schema, whose files have no checksums."""

    def change(folder: Path) -> Path:
        record = json.loads((folder / "run.json").read_text())
        kept = {name: value for name, value in record.items() if name not in ("files", "checksum")}
        (folder / "run.json").write_text(json.dumps({**kept, "schema": 1}))
        return folder

    return change


@pytest.fixture(scope="session")
def digest() -> Callable[[Path], str]:
    return lambda path: hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def run(tissue_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """One run with all that there is; tests only read it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    keys = {"section_key": "section", "batch_key": "batch", "label_key": "domain", "layer": "counts"}
    return run_fit(tissue_file, out, plots=True, max_epochs=3, **keys)
