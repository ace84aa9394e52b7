"""Training without AnnData: minibatches come from a datamodule, which may or may not bring coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from isovi.data.fields import COORDINATES
from isovi.errors import InputError, IsoviWarning
from isovi.graph import AllPairs, PairKind
from isovi.model.objective import Objective


def check_pairs(pairs: PairKind) -> None:
    """Refuse pairs whose weights need the positions of all cells at once."""
    if pairs != AllPairs():
        raise InputError(
            f"pairs={pairs!r} was given for training on a datamodule.",
            "The weights of these pairs come from the positions of all cells, which only an AnnData holds.",
            "Use pairs=AllPairs(), or make the model of an AnnData.",
        )


class DatamoduleObjective(Callback):
    """Gives the objective to the network, which may be made only when training begins.

    Parameters
    ----------
    objective
        The objective; ``None`` for the plain backbone.
    model
        Model that is trained; its ``module`` is set by the time training begins.
    thinning
        Called with whether minibatches have coordinates, it returns the range of thinning.

    Warns
    -----
    IsoviWarning
        If minibatches have no coordinates: the model is then trained as its backbone.
    """

    def __init__(
        self,
        objective: Objective | None,
        model: Any,
        thinning: Callable[[bool], tuple[float, float] | None],
    ) -> None:
        self.objective, self.model, self.thinning = objective, model, thinning
        self.seen = False

    def setup(self, *_: Any, **__: Any) -> None:
        """Add the objective before optimizers look for parameters."""
        self.model.module.objective = self.objective

    def on_train_batch_start(self, _: pl.Trainer, __: pl.LightningModule, batch: Any, *___: Any) -> None:
        """Look at the first minibatch for coordinates."""
        if self.seen:
            return
        self.seen = True
        placed = COORDINATES in (batch[0] if isinstance(batch, list | tuple) else batch)
        self.model.module.thinning = self.thinning(placed)
        if self.objective is not None and not placed:
            rank_zero_warn(
                "The minibatches of the datamodule have no coordinates, so distances are not constrained: "
                "the model is trained as its backbone. For distances, let the datamodule load the fields "
                "that setup_anndata registers, or make the model of an AnnData.",
                category=IsoviWarning,
                stacklevel=3,
            )
