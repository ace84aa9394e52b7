"""Where the counts of a minibatch are, found once and remembered with the tensor."""

from __future__ import annotations

import numpy as np
import torch

_REMEMBERED = "_isovi_nonzeros"


def nonzeros(values: torch.Tensor) -> torch.Tensor:
    """Positions of the non-zeros in the flattened array.

    Parameters
    ----------
    values
        Any shape. What :func:`remember` noted of it is used unless it has been written to since.
    """
    where = remembered(values)
    return remember(values, _find(values)) if where is None else where


def known_nonzeros(values: torch.Tensor) -> torch.Tensor | None:
    """As :func:`nonzeros`, but ``None`` where the host would wait for an accelerator to count them."""
    return nonzeros(values) if values.device.type == "cpu" else remembered(values)


def remembered(values: torch.Tensor) -> torch.Tensor | None:
    """What :func:`remember` noted, unless the tensor has been written to since."""
    if values.is_inference():  # those do not count how often they were written to
        return None
    version, where = getattr(values, _REMEMBERED, (None, None))
    return where if version == _writes(values) else None


def remember(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Note the positions of the non-zeros with the tensor itself; returns them.

    Parameters
    ----------
    values, where
        As :func:`nonzeros` takes and returns them.
    """
    if not values.is_inference():
        setattr(values, _REMEMBERED, (_writes(values), where))
    return where


def _writes(values: torch.Tensor) -> int:
    """How often a tensor has been written to."""
    return values._version  # noqa: SLF001  # torch has no public name for it, and documents this one


def _find(values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero((values != 0).numpy()))  # several times faster than torch
