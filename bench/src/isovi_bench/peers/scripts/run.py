"""Runs one peer in its own environment: ``python -P run.py PEER.py in.h5ad out.npz``.

Nothing of isovi is imported here or in the peers' scripts. Each of these has a function
``embed(adata, *, seed, n_domains, max_epochs, **settings)``, which is given raw counts in ``X``, positions
in ``obsm["spatial"]`` (in spacings, sections far apart) and ``obs["section"]``, and returns the latent.
"""

from __future__ import annotations

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


def main(script: str, given: str, out: str) -> None:
    """Embed the spots of a file."""
    end_with_parent()
    import anndata
    import numpy as np

    adata = anndata.read_h5ad(given)
    asked = json.loads(adata.uns.pop("task"))
    latent = runpy.run_path(script)["embed"](adata, **asked)
    np.savez(out, latent=np.asarray(latent, dtype=np.float64))


if __name__ == "__main__":
    main(*sys.argv[1:])
