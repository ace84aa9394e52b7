"""moscot (Klein et al. 2025): optimal transport of cells to spots."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc


def embed(
    adata: Any,
    *,
    unseen: Any,
    seed: int,
    n_domains: int,
    max_epochs: int | None,
    alpha: float = 0.7,
    epsilon: float = 1e-2,
) -> dict[str, np.ndarray]:
    """Fused Gromov-Wasserstein on 30 components and all genes; the mean position of a cell's spots."""
    from moscot.problems.space import MappingProblem

    del n_domains, max_epochs
    where = np.asarray(adata.obsm["spatial"])
    for part in (adata, unseen):
        sc.pp.normalize_total(part, target_sum=1e4)
        sc.pp.log1p(part)
    sc.pp.pca(unseen, n_comps=min(30, *(size - 1 for size in unseen.shape)), random_state=seed)
    problem = MappingProblem(adata_sc=unseen, adata_sp=adata)
    problem = problem.prepare(sc_attr={"attr": "obsm", "key": "X_pca"}, xy_callback="local-pca")
    problem = problem.solve(alpha=alpha, epsilon=epsilon, tau_a=1.0, tau_b=1.0)
    plan = np.asarray(next(iter(problem.solutions.values())).transport_matrix)
    plan = plan if plan.shape == (len(unseen), len(adata)) else plan.T
    return {"positions": plan @ where / plan.sum(axis=1, keepdims=True)}
