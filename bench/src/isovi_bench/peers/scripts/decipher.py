"""DECIPHER (Xia et al. 2025): an embedding of a cell beside one of its neighbourhood."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import torch


def embed(adata: Any, *, seed: int, n_domains: int, max_epochs: int | None) -> np.ndarray:
    """Both embeddings, 32 dimensions each, after five epochs for either, as its settings have."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # It imports torchvision and uses none of it: compiled for CUDA, that lacks operators that it looks up.
    vision = torch.library.Library("torchvision", "DEF")
    vision.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    vision.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import decipher

    del n_domains
    torch.set_num_threads(1)
    settings = decipher.CFG
    settings.seed = seed
    for part in (settings.sc_model, settings.sp_model):
        part.loader.num_workers, part.loader.pin_memory, part.loader.persistent_workers = 0, False, False
        part.trainer.device, part.trainer.fp16, part.trainer.select_gpu = "cpu", False, False
        part.trainer.epochs = min(part.trainer.epochs, max_epochs or part.trainer.epochs)
    sections = "section" if adata.obs["section"].nunique() > 1 else None
    with tempfile.TemporaryDirectory() as folder:
        model = decipher.DECIPHER(work_dir=folder, overwrite=True)
        model.register_data(adata, split_by=sections)
        model.fit_omics()
        return np.hstack([model.center_emb, model.nbr_emb])
