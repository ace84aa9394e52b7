"""Non-negative matrix factorisation of log-normalised counts, as a method of `isovi-bench`."""

from __future__ import annotations

from typing import Any

import scanpy as sc
from anndata import AnnData
from sklearn.decomposition import NMF

from isovi_bench.task import Fitted, Task, method


@method("nmf", reference="Lee & Seung 1999")
def nmf(task: Task, n_latent: int = 10) -> Fitted:
    """Factors fitted to the training spots, and the loadings of every spot on them."""
    train = task.seen[task.seen.obs["isovi_split"] == "train"].copy()
    model = NMF(n_latent, init="nndsvda", random_state=task.seed, max_iter=task.max_epochs or 500)
    model.fit(log_normalised(train))
    return Fitted(model.transform(log_normalised(task.spots)), epochs=model.n_iter_)


def log_normalised(adata: AnnData) -> Any:
    """Log-normalised counts; the task's data is not changed."""
    scaled = sc.pp.normalize_total(adata, target_sum=1e4, inplace=False)["X"]
    return sc.pp.log1p(scaled, copy=True)
