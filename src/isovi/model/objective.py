"""Objectives on latent distances: a fixed penalty, or a constraint met by dual ascent.

The paper (Zhou & Du 2024, arXiv:2408.00911) adds ``α mean G |d_Z - λ d_S|`` to the ELBO loss:
:class:`Penalty`. isoVI's default states a tolerance instead and finds the weight that meets it:
:class:`Constraint`. Both have the same options for λ and for the latent distance.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import nn

from isovi._shapes import CellIndices, Coordinates, Latent, PairFloats, SectionFloats
from isovi.data.loading.inclusion import InclusionProbability
from isovi.errors import InputError
from isovi.geometry.distortion import (
    LATENT_POINTS,
    LatentDistance,
    Posterior,
    all_distances,
    profile_scale,
    raw_distortion,
    relative_distortion,
)
from isovi.geometry.pairs import PairSet
from isovi.graph import PairWeights

ScaleKind = Literal["profiled", "learned"]
Part = Literal["whole", "place", "identity"]

N_PLACE = 3  # latent dimensions whose distances count, by default
SCALE_LEARNING_RATE = 10.0  # λ = exp(10 p): Adam moves log λ ten times as fast as the network
MOMENTUM = 0.1  # of the running averages that dual ascent reads, as in batch normalisation
ASCENT_RATE = 0.05  # change of the log multiplier per step, for a violation as large as the target
START_SHARE = 0.03  # first multiplier, in units of the balance
LIMIT_SHARE = 1.0  # highest multiplier, likewise


@dataclass(frozen=True, kw_only=True)
class Distortion:
    """Options that :class:`Penalty` and :class:`Constraint` share.

    Parameters
    ----------
    distance
        Latent distance d_Z: Euclidean between posterior means (``"mean"``), between samples z ~ q
        (``"sample"``, the paper's), or 2-Wasserstein between the posteriors (``"wasserstein"``).
    scale
        λ: the minimiser for the distances of each minibatch, in closed form (``"profiled"``), or a
        parameter with ten times the network's learning rate (``"learned"``, the paper's).
    per_section
        One λ for each section instead of a shared one.
    n_place
        Number of latent dimensions whose distances count, the first ones: the place part. The others, the
        identity part, are free. 0 for the whole latent representation (the paper's), as is a number that is
        not smaller than that of the latent dimensions.
    """

    distance: LatentDistance = "mean"
    scale: ScaleKind = "profiled"
    per_section: bool = False
    n_place: int = N_PLACE

    BEFORE: ClassVar[dict[str, Any]] = {"n_place": 0}  # fields that earlier versions did not write

    def __post_init__(self) -> None:
        _one_of("distance", self.distance, LATENT_POINTS)
        _one_of("scale", self.scale, ("profiled", "learned"))
        if not isinstance(self.n_place, int) or self.n_place < 0:
            raise InputError(
                f"n_place={self.n_place!r} was given.",
                "It is the number of latent dimensions whose distances count.",
                "Give for example 3, or 0 for the whole latent representation.",
            )

    @property
    def place(self) -> slice:
        """Latent dimensions whose distances count."""
        return slice(self.n_place or None)

    def part(self, latent: Any, name: Part) -> Any:
        """A part of latent representations.

        Parameters
        ----------
        latent
            Shape ``(cell, latent)``, or with more dimensions before.
        name
            ``"place"``: the dimensions whose distances count. ``"identity"``: the others, or all where all
            count. ``"whole"``: all.
        """
        _one_of("part", name, get_args(Part))
        n_place = self.place.stop
        if name == "whole" or n_place is None or n_place >= latent.shape[-1]:
            return latent
        return latent[..., :n_place] if name == "place" else latent[..., n_place:]


@dataclass(frozen=True)
class Penalty(Distortion):
    """The ELBO loss plus ``weight`` times the distortion: the paper's objective.

    Parameters
    ----------
    weight
        α, in nats per unit of relative distortion, or per latent length if ``relative=False``.
    relative
        Penalise the relative distortion. The raw one of the paper can be lowered by shrinking the
        latent and λ together.
    normalization
        For the raw distortion: divide by the sum of weights (``"mean"``) or by N² (``"paper"``);
        α is not comparable between the two.
    """

    weight: float
    relative: bool = True
    normalization: Literal["mean", "paper"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("normalization", self.normalization, ("mean", "paper"))
        if not 0 <= self.weight < math.inf:
            raise InputError(
                f"Penalty(weight={self.weight}) was given.",
                "The weight must be zero or more, and finite.",
                "Give a positive weight, or distortion=None for the plain backbone.",
            )

    def __str__(self) -> str:
        return f"penalty {self.weight:g}" if self.weight else "none"

    @property
    def place(self) -> slice:
        """Latent dimensions whose distances count; without a weight no dimension differs from the others."""
        return super().place if self.weight else slice(None)


@dataclass(frozen=True)
class Constraint(Distortion):
    """The ELBO loss subject to relative distortion <= ``target``.

    The multiplier is found by dual ascent, up to a limit that protects the likelihood (see
    :class:`isovi.model.training.DualAscent`).

    Parameters
    ----------
    target
        Tolerated relative distortion, between 0 and 1: with 0.2, latent distances deviate from
        tissue distances by 20 % on average.
    """

    target: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.target < 1:
            raise InputError(
                f"Constraint(target={self.target}) was given.",
                "The target is a relative distortion between 0 and 1.",
                "Give for example 0.2, or distortion=None for the plain backbone.",
            )

    def __str__(self) -> str:
        return f"constraint {self.target:g}"


class DistortionTerm(NamedTuple):
    """What one minibatch adds to the loss; numbers on the device, shape ``()``.

    Attributes
    ----------
    loss, relative
        The term, and the relative distortion, both with their gradient.
    scale
        λ, its mean over the pairs.
    known
        Whether there is a pair of positive weight and length whose λ is known; without one ``loss`` and
        ``relative`` are zero and count for nothing.
    """

    loss: torch.Tensor
    relative: torch.Tensor
    scale: torch.Tensor
    known: torch.Tensor


class Objective(nn.Module):
    """Distortion of minibatches, with λ and the multiplier as its state.

    A training step reads no number back from the device: what depends on values is chosen there, by masks.

    Parameters
    ----------
    distortion
        The penalty or constraint.
    n_sections
        Number of sections, for one λ each.

    Attributes
    ----------
    weights
        Pair weights bound to the training tissue; ``None`` before training and on other data,
        where all pairs of a section have the same weight.
    inclusion
        Probability that a pair occurs in a minibatch.
    weighs
        Whether :meth:`weigh` still looks at gradients; the constraint may act in the middle of an epoch.
    """

    scale: torch.Tensor  # λ, shape (section,) or (1,)
    running: torch.Tensor  # averages of distortion, balance and spread
    log_multiplier: torch.Tensor
    log_limit: torch.Tensor
    scale_parameter: nn.Parameter  # of a learned λ only

    def __init__(self, distortion: Distortion, n_sections: int) -> None:
        super().__init__()
        self.distortion = distortion
        self.weights: PairWeights | None = None
        self.inclusion: InclusionProbability | None = None
        self.weighs = isinstance(distortion, Constraint)
        self._noted: dict[bool, torch.Tensor] = {}  # of training, of validation
        n_scales = n_sections if distortion.per_section else 1
        if distortion.scale == "learned":
            self.scale_parameter = nn.Parameter(torch.zeros(n_scales))
        self.register_buffer("scale", torch.full((n_scales,), float("nan")))
        self.register_buffer("running", torch.full((3,), float("nan")))
        self.register_buffer("log_multiplier", torch.tensor(self._start()))
        self.register_buffer("log_limit", torch.tensor(float("inf")))

    def _start(self) -> float:
        weight = self.distortion.weight if isinstance(self.distortion, Penalty) else 0.0
        return math.log(weight) if weight else -math.inf

    @property
    def multiplier(self) -> torch.Tensor:
        """Weight of the relative distortion, in units of the backbone's loss (nats per spot for scVI)."""
        return self.log_multiplier.exp()

    def forward(
        self,
        loc: Latent,
        sd: Latent,
        sample: Latent,
        coordinates: Coordinates,
        section: CellIndices,
        cells: CellIndices,
    ) -> DistortionTerm:
        """Distortion of one minibatch.

        Parameters
        ----------
        loc, sd, sample
            Mean, standard deviation and a sample of each posterior, shape ``(cell, latent)``.
        coordinates
            Positions in coordinate units, shape ``(cell, axis)``; NaN for cells without a position.
        section, cells
            Section code, and index in the tissue, of each cell.
        """
        loc, sd, sample = (values[:, self.distortion.place] for values in (loc, sd, sample))
        pairs, share = self._pairs(coordinates, section, cells)
        latent = all_distances(LATENT_POINTS[self.distortion.distance](Posterior(loc, sd, sample)))
        scale, pairs = self._scale(latent, pairs, section)
        relative = relative_distortion(latent, pairs.length, pairs.weight, scale)
        known = torch.isfinite(relative.detach()) & ((pairs.weight * pairs.length).sum() > 0)
        relative = torch.where(known, relative, 0.0)
        if self.training:
            self._remember(known, relative.detach(), self.running[1], self._spread(loc, sd))
        counted = pairs.weight > 0
        mean = scale.mean() if len(scale) == 1 else (scale * counted).sum() / counted.sum()
        return DistortionTerm(self._loss(relative, latent, pairs, scale, share), relative, mean, known)

    def _pairs(
        self, coordinates: Coordinates, section: CellIndices, cells: CellIndices
    ) -> tuple[PairSet, torch.Tensor | float]:
        """All pairs of the minibatch, without weight where they do not count, and 1 / n²."""
        source, target = _all_pairs(len(section), section.device)
        alone = -1 - torch.arange(len(section), device=section.device)  # a code that no other cell has
        code = torch.where(torch.isfinite(coordinates).all(dim=-1), section, alone)
        paired = code[source] == code[target]
        length = torch.where(paired, all_distances(coordinates), 0.0)
        share: torch.Tensor | float = 1.0 / max(len(section), 1) ** 2
        weight = paired.to(length)
        if self.weights is not None:
            weight = weight * self.weights.among(cells, source, target)
        if self.inclusion is not None:
            correction, share = self.inclusion.correction(source, target, cells)
            weight = weight * correction
        return PairSet(source, target, length, weight), share

    def _scale(
        self, latent: PairFloats, pairs: PairSet, section: CellIndices
    ) -> tuple[torch.Tensor, PairSet]:
        """λ, one number or one per pair, and the pairs, without weight where it is not known.

        In training its running average is updated.
        """
        code = section[pairs.source] if self.distortion.per_section else None
        found = self._profile(latent.detach(), pairs, code)
        if self.distortion.scale == "profiled":
            self._average_scale(found)
        else:
            found = self._learned(found)
        scale = found if code is None else found[code]
        known = torch.isfinite(scale)
        return torch.where(known, scale, 1.0), replace(pairs, weight=pairs.weight * known)

    def _learned(self, profiled: SectionFloats) -> torch.Tensor:
        if self.training:
            self._initialise(profiled)
            learned = (SCALE_LEARNING_RATE * self.scale_parameter.detach()).exp()
            self.scale = torch.where(torch.isfinite(profiled), learned, self.scale)  # of sections seen so far
        learned = (SCALE_LEARNING_RATE * self.scale_parameter).exp()
        return torch.cat([learned, profiled[len(learned) :]])  # profiled for sections unseen in training

    def _profile(self, latent: PairFloats, pairs: PairSet, code: CellIndices | None) -> SectionFloats:
        """The minimiser for each section, or for all pairs; the running average where there is none."""
        relative = not isinstance(self.distortion, Penalty) or self.distortion.relative
        known = self.scale
        if code is not None and self.weights is None and len(code):  # other data than was trained on
            n_new = int(code.max()) + 1 - len(known)
            known = torch.cat([known, known.new_full((max(n_new, 0),), math.nan)])
        of = (latent, pairs.length, pairs.weight)
        if code is None or len(known) == 1:
            fitted = profile_scale(*of, relative=relative)
        else:
            fitted = profile_scale(*of, relative=relative, group=code, n_groups=len(known))
        return torch.where((fitted > 0) & torch.isfinite(fitted), fitted.to(known), known)

    @torch.no_grad()
    def fit_scale(self, latent: PairFloats, pairs: PairSet, section: CellIndices) -> None:
        """Set λ to the minimiser for the given distances.

        Parameters
        ----------
        latent
            d_Z of each pair.
        pairs
            The pairs, with their tissue distance and weight.
        section
            Section of each pair.
        """
        self.scale.copy_(self._profile(latent, pairs, section if self.distortion.per_section else None))

    def _average_scale(self, profiled: SectionFloats) -> None:
        if self.training:
            self.scale = _follow(self.scale, profiled)

    @torch.no_grad()
    def _initialise(self, profiled: SectionFloats) -> None:
        new = torch.isnan(self.scale) & torch.isfinite(profiled)
        start = profiled.log() / SCALE_LEARNING_RATE
        self.scale_parameter.copy_(torch.where(new, start, self.scale_parameter))

    @staticmethod
    @torch.no_grad()
    def _spread(loc: Latent, sd: Latent) -> torch.Tensor:
        """Standard deviation of posterior means over posterior standard deviation, root mean square."""
        return (loc.var(dim=0, correction=int(len(loc) > 1)).mean() / sd.square().mean()).sqrt()

    @torch.no_grad()
    def _remember(self, known: torch.Tensor, *now: torch.Tensor) -> None:
        followed = _follow(self.running, torch.stack([value.to(self.running) for value in now]))
        self.running = torch.where(known, followed, self.running)

    def weigh(self, backbone_loss: torch.Tensor, term: DistortionTerm, loc: Latent) -> None:
        """Have the backward pass update the running average of the balance, until the constraint acts.

        The balance is the multiplier at which the distortion pulls on the place part of the posterior means
        as hard as the backbone's loss: the ratio of the norms of their gradients. The loss itself is no scale
        for a multiplier: that of a Gaussian likelihood may be zero or negative. As long as the multiplier is
        zero, the gradient that the backward pass finds anyway is that of the backbone's loss alone.

        Parameters
        ----------
        backbone_loss
            The backbone's loss of a training minibatch; the backward pass may begin from a multiple of it.
        term
            The distortion of the same minibatch.
        loc
            The posterior means that both were computed from, shape ``(cell, latent)``.
        """
        if not self.weighs or not loc.requires_grad or not backbone_loss.requires_grad:
            return
        place = self.distortion.place
        factor: list[torch.Tensor] = []  # by which the backward pass multiplies the loss
        (pull,) = torch.autograd.grad(term.relative, loc, retain_graph=True, materialize_grads=True)

        def follow(gradient: torch.Tensor) -> None:
            of_backbone.remove()  # a leaf may see another backward pass
            if factor:
                self._balance(gradient[:, place].norm() / factor[0] / pull[:, place].norm())

        backbone_loss.register_hook(factor.append)
        of_backbone = loc.register_hook(follow)

    @torch.no_grad()
    def _balance(self, balance: torch.Tensor) -> None:
        before = self.running[1]
        counts = (balance > 0) & torch.isfinite(balance) & torch.isinf(self.log_multiplier)
        self.running[1] = torch.where(counts, _follow(before, balance.to(before)), before)

    def note(self, term: DistortionTerm, n_cells: int) -> None:
        """Add a minibatch, of training or validation, to the averages that :meth:`noted` returns."""
        now = torch.stack(
            [part.detach().to(term.relative) for part in (term.relative, term.scale, term.known)]
        )
        now = torch.where(term.known, n_cells * now, 0.0)
        training = torch.is_grad_enabled()  # not self.training, which a query's model is without
        before = self._noted.get(training)
        self._noted[training] = now if before is None else before + now

    def noted(
        self, training: bool = True, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums
    ) -> dict[str, float]:
        """Metrics of the minibatches since the last call; empty if none of them had pairs.

        The relative distortion is the mean over their cells. So is λ in validation; in training it is the
        running average (its mean over sections). The multiplier is the current value.

        Parameters
        ----------
        training
            Whether of training or of validation.
        reduce
            Sums over the processes that train together.
        """
        sums = self._noted.pop(training, None)
        total, scale, n_cells = reduce(self.scale.new_zeros(3) if sums is None else sums).tolist()
        if not n_cells:
            return {}
        running = float(self.scale[torch.isfinite(self.scale)].mean())
        return {
            "relative_distortion": total / n_cells,
            "distance_scale": running if training else scale / n_cells,
            "multiplier": float(self.multiplier),
        }

    @property
    def running_distortion(self) -> float:
        """Running average of the relative distortion of training minibatches."""
        return float(self.running[0])

    @property
    def balance(self) -> float:
        """Running average of the balance (see :meth:`weigh`) in the warm-up; NaN before."""
        return float(self.running[1])

    @property
    def running_spread(self) -> float:
        """Running average of the latent's spread; near zero, it carries no information about the cells."""
        return float(self.running[2])

    def _loss(
        self,
        relative: torch.Tensor,
        latent: PairFloats,
        pairs: PairSet,
        scale: torch.Tensor,
        share: torch.Tensor | float,
    ) -> torch.Tensor:
        asked = self.distortion
        if not isinstance(asked, Penalty) or asked.relative:
            return self.multiplier * relative
        if asked.normalization == "mean":
            return self.multiplier * raw_distortion(latent, pairs.length, pairs.weight, scale)
        total = 2 * (pairs.weight * (latent - scale * pairs.length).abs()).sum()  # ordered pairs
        return self.multiplier * share * total

    def averages(self) -> list[torch.Tensor]:
        """The running averages: what the ranks of a training have to average.

        Each is linear in its value of the minibatch, so the mean over the ranks is the running average of
        the mean.
        """
        learned = [self.scale_parameter.detach()] if self.distortion.scale == "learned" else []
        return [self.scale, self.running, *learned]

    @property
    def reaches_limit(self) -> torch.Tensor:
        """Whether the multiplier is at its limit, on the device."""
        return self.log_multiplier >= self.log_limit

    @property
    def at_limit(self) -> bool:
        """Whether the multiplier is at its limit."""
        return bool(self.reaches_limit)

    @torch.no_grad()
    def ascend(self) -> None:
        """One step of dual ascent on the log multiplier, up to its limit."""
        if not isinstance(self.distortion, Constraint):
            return
        distortion, balance = self.running.double()[:2]  # logarithms in double precision
        waits = torch.isinf(self.log_multiplier)
        starts = waits & torch.isfinite(balance) & torch.isfinite(distortion)
        first = (START_SHARE * balance).log().to(self.log_multiplier)
        multiplier = torch.where(starts, first, self.log_multiplier).double()
        limit = torch.minimum((LIMIT_SHARE * balance).log().to(self.log_limit), self.log_limit)
        self.log_limit.copy_(torch.where(starts, limit, self.log_limit))
        violation = distortion / self.distortion.target - 1
        raised = torch.minimum(multiplier + ASCENT_RATE * violation, self.log_limit.double())
        moves = torch.isfinite(distortion) & (starts | ~waits)
        self.log_multiplier.copy_(torch.where(moves, raised.to(self.log_multiplier), self.log_multiplier))

    def settle(self) -> None:
        """Stop looking for the balance once the constraint acts: the one answer that is waited for."""
        self.weighs = self.weighs and math.isinf(float(self.log_multiplier))


def _follow(average: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """A running average after new values; NaN is replaced by them."""
    moved = torch.lerp(average, new, MOMENTUM)
    return torch.where(torch.isfinite(average), moved, new)


@functools.lru_cache(maxsize=4)
def _all_pairs(n: int, device: torch.device) -> torch.Tensor:
    """Indices of the two cells of every pair of a minibatch; most minibatches have the same size."""
    return torch.triu_indices(n, n, 1, device=device)


def _one_of(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise InputError(
            f"{name}={value!r} was given.",
            f"{name} is one of {', '.join(map(repr, choices))}.",
            "Give one of these.",
        )
