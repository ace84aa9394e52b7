"""Methods against a base method, trial by trial."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from isovi_bench.metrics import METRICS
from isovi_bench.results import BACKBONES, TRIAL, known

_SAME = ["kind", *TRIAL, "set", "metric"]
CELL = ["kind", "label", "set", "metric", "dataset"]


def changes(found: pd.DataFrame, base: str) -> pd.DataFrame:
    """Change of each metric from a base method in the same trial.

    Parameters
    ----------
    found
        Measured metrics.
    base
        Label of the method to compare with.

    Returns
    -------
    Rows of trials that the base finished too, with the columns ``base`` and ``change``: relative or
    absolute, as the metric says.
    """
    reference = found.loc[found["label"] == base, [*_SAME, "value"]].groupby(_SAME, as_index=False).mean()
    both = known(found).merge(reference.rename(columns={"value": "base"}), on=_SAME)
    relative = both["metric"].map(lambda key: METRICS[key].relative).astype(bool)
    scale = both["base"].abs().where(relative, 1.0)
    both["change"] = ((both["value"] - both["base"]) / scale).replace([np.inf, -np.inf], np.nan)
    return both.dropna(subset="change")


def by_dataset(compared: pd.DataFrame) -> pd.DataFrame:
    """Means over the trials of each data set.

    Returns
    -------
    Columns ``kind``, ``label``, ``set``, ``metric``, ``dataset``; the means ``value``, ``base`` and
    ``change``; ``trials``; whether the change is for the ``better`` or for the ``worse``; and whether it is
    ``clear``: its 95 % t interval over trials leaves zero out.
    """
    mean = compared.groupby(CELL, as_index=False).agg(
        value=("value", "mean"),
        base=("base", "mean"),
        change=("change", "mean"),
        sd=("change", "std"),
        trials=("change", "size"),
    )
    sign = mean["metric"].map(lambda key: METRICS[key].sign).astype(int)
    within = stats.t.ppf(0.975, mean["trials"] - 1) * mean.pop("sd") / np.sqrt(mean["trials"])
    return mean.assign(
        better=mean["change"] * sign > 0, worse=mean["change"] * sign < 0, clear=mean["change"].abs() > within
    )


def base_of(found: pd.DataFrame, decoder: str = "") -> str | None:
    """The plain backbone to compare methods of a decoder with; scVI or the VAE if none is given."""
    plain = [backbone.plain for backbone in BACKBONES if decoder in ("", backbone.decoder)]
    present = set(found["label"])
    return next((name for name in reversed(plain) if name in present), None)
