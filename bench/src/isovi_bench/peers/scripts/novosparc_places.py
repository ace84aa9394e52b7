"""Positions by novoSpaRc, run by an interpreter that has it (``pip install novosparc``).

``isovi-bench placement`` and ``transfer`` call ``PYTHON novosparc_places.py IN.npz OUT.npz``. IN has log-
normalised expression of reference and query, and positions of the reference; OUT has positions of the
query, for two weights of the reference's expression, as the mean of the transport plan and as its largest
entry.
"""

from __future__ import annotations

import sys

import numpy as np

WEIGHTS = (0.2, 0.8)
NEIGHBORS = 5
EPSILON = 5e-3  # entropy of the plan


def places(reference: np.ndarray, positions: np.ndarray, query: np.ndarray) -> dict[str, np.ndarray]:
    """Positions of the query by each variant."""
    import anndata
    import novosparc

    found = {}
    for weight in WEIGHTS:
        tissue = novosparc.cm.Tissue(dataset=anndata.AnnData(query), locations=positions)
        tissue.setup_reconstruction(
            markers_to_use=np.arange(query.shape[1]),
            atlas_matrix=reference,
            num_neighbors_s=NEIGHBORS,
            num_neighbors_t=NEIGHBORS,
        )
        tissue.reconstruct(alpha_linear=weight, epsilon=EPSILON, verbose=False)
        plan = np.asarray(tissue.gw)
        mass = np.maximum(plan.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        found[f"novoSpaRc {weight}, mean"] = plan @ positions / mass
        found[f"novoSpaRc {weight}, largest"] = positions[plan.argmax(axis=1)]
    return found


if __name__ == "__main__":
    with np.load(sys.argv[1]) as given:
        found = places(given["reference"], given["positions"], given["query"])
        np.savez(sys.argv[2], **found)  # type: ignore[arg-type]
