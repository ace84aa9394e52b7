"""Local distance preservation as the aim, reconstruction as the constraint."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import sparse
from scvi.module.base import LossOutput

from isovi.errors import InputError
from isovi.graph import Obsp
from isovi.model.model import IsoVAE
from isovi.model.objective import ASCENT_RATE, MOMENTUM, DistortionTerm, Objective, Penalty
from isovi.spots import SPLIT_KEY
from isovi_bench.methods.components import principal_components
from isovi_bench.methods.expression import ExpressionModule, ExpressionVAE, prepared
from isovi_bench.methods.neighbors import continuous_neighbors
from isovi_bench.methods.neural import fit
from isovi_bench.methods.settings import NETWORK, among, take
from isovi_bench.methods.training import trained
from isovi_bench.task import Fitted, Task, method

GRAPH_KEY = "isovi_continuous_neighbors"
N_COMPONENTS = 50  # in which neighbours are sought
SLACK = 0.05
SPAN = 1e3  # factor by which the multiplier may leave its first value, either way


@dataclass(frozen=True)
class Bound:
    """How much reconstruction is given up for distances.

    Attributes
    ----------
    train, validation
        Negative log likelihood of training minibatches, with dropout and thinning, and of validation spots
        that is tolerated, nats per spot.
    allowance
        By how much they exceed those of the plain model, nats per spot.
    """

    train: float
    validation: float
    allowance: float


class LocalObjective(Objective):
    """Distortion as the aim, subject to reconstruction.

    The Lagrangian is ``r + μ (reconstruction + KL - bound)`` with relative distortion r. Its gradient
    divided by μ is that of the backbone's loss plus ``r / μ``, which is how the backbone gets to see it.

    Parameters
    ----------
    bound
        What reconstruction has to keep to.
    """

    reconstruction: torch.Tensor  # running average over training minibatches

    def __init__(self, bound: Bound) -> None:
        super().__init__(Penalty(bound.allowance, n_place=0), 1)
        self.bound = bound
        self.register_buffer("reconstruction", torch.tensor(math.nan))

    @property
    def constraint_multiplier(self) -> float:
        """μ, per nat."""
        return math.exp(-float(self.log_multiplier))

    @torch.no_grad()
    def watch(self, reconstruction: torch.Tensor) -> None:
        """Take note of the reconstruction loss of a training minibatch, nats per spot."""
        known = bool(torch.isfinite(self.reconstruction))
        before = self.reconstruction if known else reconstruction
        self.reconstruction.copy_(torch.lerp(before, reconstruction, MOMENTUM))

    def violation(self, reconstruction: float, bound: float) -> float:
        """By how many allowances a bound is exceeded; -1 is where the plain model stands."""
        return (reconstruction - bound) / self.bound.allowance

    def merit(self, relative: torch.Tensor | None, reconstruction: torch.Tensor) -> torch.Tensor:
        """Exact penalty function of validation spots, by which training is stopped.

        Distortion, plus the allowances by which reconstruction exceeds its bound. Distortion is 1 where no
        two spots are joined.
        """
        excess = (reconstruction - self.bound.validation) / self.bound.allowance
        return (torch.ones_like(excess) if relative is None else relative) + excess.clamp(min=0)

    @torch.no_grad()
    def ascend(self) -> None:
        """One step of dual ascent on log μ, which rises while reconstruction is worse than its bound."""
        violation = self.violation(float(self.reconstruction), self.bound.train)
        if math.isfinite(violation):
            start = math.log(self.bound.allowance)
            lowered = float(self.log_multiplier) - ASCENT_RATE * min(max(violation, -1.0), 1.0)
            reach = math.log(SPAN)
            self.log_multiplier.fill_(min(max(lowered, start - reach), start + reach))


class Edges(Obsp):
    """Weights of a sparse matrix, with random minibatches in the place of patches of near spots."""

    local: ClassVar[bool] = False


class LocalModule(ExpressionModule):
    """The VAE's module; its objective receives the reconstruction loss."""

    _term: DistortionTerm | None = None  # of the minibatch

    def _distortion(self, *args: Any) -> DistortionTerm:
        term: DistortionTerm = super()._distortion(*args)
        self._term = term
        return term

    def _around_loss(self, output: LossOutput, *args: Any) -> LossOutput:
        reconstruction = output.reconstruction_loss_sum.detach() / output.n_obs_minibatch
        if self.training:
            self.objective.watch(reconstruction)
        self._term = None
        output = super()._around_loss(output, *args)
        term = self._term
        relative = None if term is None else torch.where(term.known, term.relative.detach(), 1.0)
        merit = self.objective.merit(relative, reconstruction)
        return replace(output, extra_metrics={**output.extra_metrics, "merit": merit})


class LocalVAE(ExpressionVAE):
    """ExpressionVAE whose aim is distortion and whose constraint is reconstruction."""

    _module_cls = LocalModule


@method("local-isometry", decoder="gaussian", reference="Chen, van der Smagt & Cseke 2022, arXiv:2206.05909")
def local_isometry(task: Task, **settings: Any) -> Fitted:
    """Local distance preservation under a constraint on reconstruction (Chen et al. 2022).

    Taken from the paper: the edges of a continuous k-nearest-neighbour graph of the inputs are to keep their
    length in the latent, this is the objective, and the accuracy of reconstruction is a constraint, whose
    multiplier is found by dual ascent. What differs:

    - the autoencoder is that of ``vae``, the Kullback-Leibler divergence stands beside reconstruction with a
      weight of one, and training is the same but for where it starts: from ``vae`` itself, trained first
      with the same seed, where the constraint holds. It is thus trained longer than ``vae``, which is part
      of a difference between the two wherever ``vae`` had not converged;
    - lengths are compared up to one scale λ, by isoVI's relative distortion over the edges;
    - the graph is one of all training spots, made once from 50 principal components; an edge has its say
      where both its ends are in a random minibatch, as ``vae`` has them; lengths d_X are Euclidean between
      log-normalised expressions, as in ``isometry``;
    - the bound is the reconstruction of that ``vae`` and an allowance;
    - validation spots stop the training and choose the epoch by distortion plus the excess of reconstruction
      over its bound there, since the lowest ELBO would choose an epoch before distances counted.

    Parameters
    ----------
    task
        The data.
    **settings
        ``k``, the neighbour that sets the scale of the graph (10); ``slack``, the share by which residual
        variances may exceed those of ``vae`` (0.05); of the network as for ``vae``.
    """
    given = take("local-isometry", settings, ("k", "slack", *NETWORK))
    network = among(given, NETWORK)
    slack = check_slack(float(given.get("slack", SLACK)))
    plain = fit(IsoVAE, task, Penalty(0.0), network)
    bound = bound_of(plain.model, slack)
    seen = prepared(task, LocalVAE)
    seen.obsp[GRAPH_KEY] = graph(task, given.get("k", 10))
    model = LocalVAE(seen, distortion=Penalty(bound.allowance, n_place=0), pairs=Edges(GRAPH_KEY), **network)
    model.module.objective = LocalObjective(bound)
    begin_from(plain.model, model)
    found = trained(
        model,
        task,
        early_stopping_monitor="merit_validation",
        plan_kwargs={"n_epochs_kl_warmup": None},  # what it starts from is past that
    )
    return replace(found, epochs=(plain.epochs or 0) + (found.epochs or 0))


def begin_from(plain: Any, model: LocalVAE) -> None:
    """Copy the network, but not what the objective remembers."""
    state = {
        key: value for key, value in plain.module.state_dict().items() if not key.startswith("objective.")
    }
    model.module.load_state_dict(state, strict=False)


def check_slack(slack: float) -> float:
    """The slack, refused if it leaves no room."""
    if not 0 < slack < math.inf:
        raise InputError(
            f"The method local-isometry was given slack={slack}.",
            "It is the share by which residual variances may grow, more than 0.",
            f"Give for example {SLACK}.",
        )
    return slack


def bound_of(plain: Any, slack: float) -> Bound:
    """The bound that a plain model's reconstruction sets.

    Parameters
    ----------
    plain
        Trained model with a Gaussian likelihood; the epoch that it kept counts.
    slack
        Share by which the residual variance of every gene may grow: with fitted variances, G genes cost
        ``G/2 log(1 + slack)`` nats per spot.
    """
    history = plain.history_
    stopped = "elbo_validation" in history
    kept = int(history["elbo_validation"].to_numpy(float).argmin()) if stopped else -1
    allowance = 0.5 * plain.summary_stats.n_vars * math.log1p(slack)
    train, validation = (
        float(history[f"reconstruction_loss_{part}"].iloc[kept, 0]) + allowance
        for part in ("train", "validation" if stopped else "train")
    )
    return Bound(train, validation, allowance)


def graph(task: Task, k: int) -> sparse.csr_matrix:
    """Continuous neighbours of the seen spots, those of validation among themselves."""
    points = principal_components(task, N_COMPONENTS)[task.rows]
    part = task.seen.obs[SPLIT_KEY].to_numpy()
    members = [np.flatnonzero(part == name) for name in np.unique(part)]
    blocks = sparse.block_diag([continuous_neighbors(points[of], k) for of in members], format="csr")
    order = np.argsort(np.concatenate(members))
    return blocks[order][:, order]
