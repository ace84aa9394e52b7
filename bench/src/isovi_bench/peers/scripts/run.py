"""Runs one peer in its own environment: ``python -P run.py PEER.py in.h5ad unseen.h5ad out.npz``.

Nothing of isovi is imported here or in the peers' scripts. Each of these has a function
``embed(adata, *, seed, n_domains, max_epochs, **settings)``, which is given raw counts in ``X``, positions
in ``obsm["spatial"]`` (in spacings, sections far apart) and ``obs["section"]``. One that can place or encode
spots that it was not fitted on asks for them as ``unseen``: counts and sections. It returns the latent, or
some of ``latent``, ``domains`` and ``expression`` of the spots, ``latent_unseen`` and ``positions`` of the
unseen ones.
"""

from __future__ import annotations

import inspect
import json
import os
import runpy
import sys
import threading
import time


def end_with_parent() -> None:
    """Stop when whoever started this process is gone: a killed benchmark leaves nothing running."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(script: str, given: str, unseen: str, out: str) -> None:
    """Embed the spots of a file."""
    end_with_parent()
    import anndata
    import numpy as np

    adata = anndata.read_h5ad(given)
    asked = json.loads(adata.uns.pop("task"))
    embed = runpy.run_path(script)["embed"]
    if "unseen" in inspect.signature(embed).parameters:
        asked["unseen"] = anndata.read_h5ad(unseen)
    returned = embed(adata, **asked)
    arrays = returned if isinstance(returned, dict) else {"latent": returned}
    kinds = {"domains": np.str_}
    found = {name: np.asarray(values, kinds.get(name, np.float64)) for name, values in arrays.items()}
    np.savez(out, **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
