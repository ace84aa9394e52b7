"""The verdict on a run, judged once by stated thresholds: log, report and compare read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isovi.geometry.certificate import CERTIFIED_EPSILON, cells_needed
from isovi.model.objective import Constraint, Penalty
from isovi.model.training import TOLERANCE, TrainingOutcome
from isovi.spots import HELDOUT

Status = Literal["good", "caution", "bad", "note"]

HELDOUT_FACTOR = 1.5
"""Held-out relative distortion is good up to this many times the target (the default one, if none is set)."""

GOOD_SPEARMAN, UNRELATED_SPEARMAN = 0.5, 0.1
"""Spearman's ρ of held-out distances from which they follow the tissue, and below which they do not."""

GOOD_FACTOR = 5.0
"""Largest certified factor that is good."""

FALLING = 0.001
"""Fall of validation ELBO over the last epochs, as a share of it, above which training has not converged."""

LAST_SHARE, LEAST_EPOCHS = 0.2, 10
"""Share of the epochs, and least number of them, over which that fall is measured."""

ACTIVE_VARIANCE = 0.01
"""Variance of posterior means over spots above which a latent dimension is in use (Burda et al. 2016)."""

_COLLAPSED_KL = 0.1  # nats per spot: the latent says nothing
_ALIKE = 0.01  # relative difference that counts as none
_COMPARED = {
    "coordinate_error": "coordinate error",
    "relative_distortion": "relative distortion",
    "reconstruction": "reconstruction loss",
}
WORDS = {"good": "good", "note": "good", "caution": "caution", "bad": "problem"}
_RANK = ("note", "good", "caution", "bad")

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Statement:
    """One sentence of the verdict.

    Attributes
    ----------
    status
        Whether it is good news; ``"note"`` is neither.
    title
        The news in a few words.
    text
        What stands behind it, in plain words with numbers.
    """

    status: Status
    title: str
    text: str


@dataclass(frozen=True)
class Convergence:
    """How training ended, from the history.

    Attributes
    ----------
    n_epochs
        Epochs with a validation ELBO loss.
    last
        The last ones, over which the fall was measured; 0 if there were too few.
    fall
        By how much the loss fell over them, nats per spot.
    falling
        Whether that is more than noise and more than :data:`FALLING`; ``None`` if there were too few.
    """

    n_epochs: int
    last: int = 0
    fall: float = 0.0
    falling: bool | None = None


@dataclass(frozen=True)
class Verdict:
    """What was measured of a run, and how it is judged.

    Attributes
    ----------
    target
        Tolerated relative distortion, where there was a constraint.
    distortion
        The distortion that was applied, in words; empty for none.
    train, heldout, spearman, constant
        Relative distortion of training and of held-out spots, and Spearman's ρ and L(0.1) of the held-out
        ones; ``None`` where there is none.
    n_heldout
        Number of held-out spots; ``None`` if there are no metrics of them.
    certificate
        As in the metrics; empty if nothing is certified.
    convergence, ended
        How training ended; ``ended`` is ``None`` for runs that did not record it.
    n_latent, unused, kl
        Latent dimensions, those of them that are not in use, counted from 1, and nats per spot; ``kl`` is
        ``None`` if the likelihood is not finite.
    """

    target: float | None
    distortion: str
    train: float | None
    heldout: float | None
    spearman: float | None
    constant: float | None
    n_heldout: int | None
    certificate: Metrics
    convergence: Convergence
    ended: TrainingOutcome | None
    n_latent: int
    unused: tuple[int, ...]
    kl: float | None

    # ---------------------------------------------------------------- judged

    @property
    def holds_on_training(self) -> bool | None:
        """Whether training spots are within the tolerance; ``None`` if that is not known."""
        if self.target is None or self.train is None:
            return None
        return self.train <= self.target * (1 + TOLERANCE)

    @property
    def tolerance(self) -> float:
        """Held-out relative distortion that is good."""
        return HELDOUT_FACTOR * (Constraint().target if self.target is None else self.target)

    @property
    def carries_over(self) -> bool | None:
        """Whether distances of held-out spots are good; ``None`` if they were not measured."""
        if self.heldout is None or self.spearman is None or self.constant is None:
            return None
        return self.heldout <= self.tolerance and self.spearman >= GOOD_SPEARMAN

    @property
    def memorised(self) -> bool:
        """Whether what holds on training spots does not hold on held-out ones."""
        return bool(self.holds_on_training) and self.carries_over is False

    @property
    def converged(self) -> bool | None:
        """Whether training was long enough; ``None`` if that is not known."""
        if self.ended is not None and self.ended.reason == "epochs" and self.holds_on_training is False:
            return False
        falling = self.convergence.falling
        if falling is None:
            return False if 0 < self.convergence.n_epochs < LEAST_EPOCHS else None
        return not falling

    # ---------------------------------------------------------------- in words

    def statements(self) -> list[Statement]:
        """What is said of the run, most important first."""
        return [
            self._heldout(),
            self._constraint(),
            self._certified(),
            self._convergence(),
            self._health(),
        ]

    @property
    def status(self) -> Status:
        """The worst of the statements."""
        return max((said.status for said in self.statements()), key=_RANK.index)

    def headline(self) -> str:
        """One line: the worst status, and the titles that are no good news."""
        worries = [said.title for said in self.statements() if said.status in ("caution", "bad")]
        shown = "; ".join(worries) if worries else self.statements()[0].title
        return f"{WORDS[self.status]}: {shown}"

    def _heldout(self) -> Statement:
        if self.n_heldout is None:
            text = (
                "All metrics are of training spots, whose geometry is largely memorised. Fit with "
                "holdout=0.25 to measure what holds for new spots."
            )
            return Statement("caution", "No spots were held out", text)
        if self.heldout is None or self.spearman is None or self.constant is None:
            text = (
                f"{self.n_heldout:,} held-out spots form too few pairs to compare distances: pairs within "
                "sections, of spots at different positions, whose distances vary."
            )
            return Statement("caution", "Held-out spots could not be measured", text)
        text = (
            f"On {self.n_heldout:,} spots that the fit never saw, latent distances differ from λ times those "
            f"in tissue by {self.heldout:.1%} on average (good: up to {self.tolerance:.0%}), and all but a "
            f"tenth of the pairs keep theirs within a factor of {self.constant:.2f}. Rank correlation of "
            f"distances: {self.spearman:.2f} (good: from {GOOD_SPEARMAN:g})."
        )
        memory = " Training spots do better: they are memorised." if self.memorised else ""
        if self.spearman < UNRELATED_SPEARMAN:
            return Statement("bad", "Held-out spots do not follow the tissue", text + memory)
        if self.spearman < GOOD_SPEARMAN:
            return Statement("caution", "Held-out spots follow the tissue only loosely", text + memory)
        if not self.carries_over:
            return Statement("caution", "Held-out distances are off by more than is good", text + memory)
        return Statement("good", "Held-out spots follow the tissue", text)

    def _constraint(self) -> Statement:
        if self.train is None:
            text = "Training spots form no pairs whose distances vary."
            return Statement("caution", "Distances of training spots could not be measured", text)
        off = f"On training spots, latent distances differ from λ times those in tissue by {self.train:.1%}"
        if self.target is None:
            how = (
                f"a {self.distortion} was applied to them" if self.distortion else "they were not constrained"
            )
            return Statement("note", "No tolerance was set", f"{off}; {how}.")
        off = f"{off}; {self.target:.0%} was tolerated."
        if not self.holds_on_training:
            return Statement("caution", "The constraint was not reached", f"{off} {self._why()}".rstrip())
        if self.memorised:
            text = f"{off} That is memorised: held-out spots are at {self.heldout:.1%}."
            return Statement("caution", "The constraint holds on training spots only", text)
        if self.carries_over is None:
            text = f"{off} Whether it holds for new spots was not measured."
            return Statement("note", "The constraint holds on training spots", text)
        text = f"{off} Held-out spots are at {self.heldout:.1%}, which is near enough to count as kept."
        return Statement("good", "The constraint holds", text)

    def _why(self) -> str:
        """Why a constraint was missed, as the training recorded it, and what to do."""
        if self.ended is None or self.ended.reason is None:  # a run of 0.1.0
            return "The run does not record why."
        if self.ended.reason == "met":
            seen = self.ended.train_distortion
            measured = "" if seen is None else f" of {seen:.1%}"
            return (
                f"Training pressed no harder because of its own estimate{measured}, from minibatches with "
                "thinned counts. Tighten the target."
            )
        return f"In training, {self.ended.why}"

    def _certified(self) -> Statement:
        found = self.certificate
        if not found or plain_number(found["L"]) is None:
            why = (
                "no spots were held out"
                if self.n_heldout is None
                else "too few spots at different positions were held out"
            )
            return Statement("caution", "Nothing is certified", f"There is no certificate: {why}.")
        text = (
            f"With {1 - found['delta']:.0%} confidence, all but {found['epsilon']:.0%} of the pairs of new "
            f"spots of this tissue keep their distance within a factor of {found['L']:.2f} (good: up to "
            f"{GOOD_FACTOR:g}; from {found['n_pairs']:,} disjoint pairs of held-out spots)."
        )
        approximate = plain_number(found.get("approximate_L"))
        if approximate is not None:
            limit = f"approximate {1 - found['delta']:.0%} limit (bootstrap over cells)"
            text += f" The {limit} is a factor of {approximate:.2f}, which is no guarantee."
        if found["epsilon"] > CERTIFIED_EPSILON:
            enough = f"{cells_needed(CERTIFIED_EPSILON)} held-out spots would do for {CERTIFIED_EPSILON:.0%}."
            return Statement("caution", "Little is certified", f"{text} {enough}")
        if found["L"] > GOOD_FACTOR:
            return Statement("caution", "Little is certified", text)
        return Statement("good", "Distances are certified", text)

    def _convergence(self) -> Statement:
        found = self.convergence
        if self.ended is not None and self.ended.reason == "epochs" and self.holds_on_training is False:
            text = "The constraint was still tightening when training ended. Train for more epochs."
            return Statement("caution", "Train longer", text)
        if not found.n_epochs:
            return Statement("note", "Convergence is not known", "The run keeps no validation ELBO.")
        if found.falling is None:
            text = f"{found.n_epochs} epochs are too few to see convergence. Train for more epochs."
            return Statement("caution", "Train longer", text)
        change = f"over the last {found.last} of {found.n_epochs} epochs"
        if found.falling:
            fell = f"Validation ELBO loss still fell, by {found.fall:.3g} nats per spot {change}."
            text = f"{fell} Train for more epochs."
            return Statement("caution", "Train longer", text)
        text = (
            f"Validation ELBO loss fell no further {change} (by no more than {FALLING:.1%} of it, or noise)."
        )
        return Statement("good", "Training has converged", text)

    def _health(self) -> Statement:
        if self.kl is None:
            text = "The likelihood of the counts is not finite."
            return Statement("caution", "The latent representation could not be judged", text)
        used = self.n_latent - len(self.unused)
        text = (
            f"{used} of {self.n_latent} latent dimensions are in use, with {self.kl:.2g} nats per spot (KL)."
        )
        if not used or self.kl < _COLLAPSED_KL:
            remedy = "loosen the target" if self.converged else "train for more epochs, or loosen the target"
            if self.target is None:
                remedy = "use more genes" if self.converged else "train for more epochs"
            why = f"It says next to nothing about the spots: {remedy}."
            return Statement("bad", "The latent representation has collapsed", f"{text} {why}")
        if self.unused:
            why = f"Unused: {', '.join(map(str, self.unused))}. They do no harm; a smaller n_latent would do."
            return Statement("caution", "Some latent dimensions are unused", f"{text} {why}")
        return Statement("good", "All latent dimensions are in use", text)


# ---------------------------------------------------------------------------- from a run


def verdict(run: Any) -> Verdict:
    """Judge an :class:`isovi.Run` that has its metrics; it shows its verdict, so it is not known here."""
    metrics, asked = run.metrics, run.settings.distortion
    heldout = metrics.get(HELDOUT, {})
    latent = run.latent()
    elbo, reconstruction = (plain_number(metrics["all"].get(name)) for name in ("elbo", "reconstruction"))
    names = ("relative_distortion", "spearman_distance", "distortion_constant")
    off, spearman, constant = (plain_number(heldout.get(name)) for name in names)
    measured = None not in (off, spearman, constant)
    free = asked is None or (isinstance(asked, Penalty) and not asked.weight)
    return Verdict(
        target=run.settings.target,
        distortion="" if free else str(asked),
        train=plain_number(metrics["train"].get("relative_distortion")),
        heldout=off,
        spearman=spearman,
        constant=constant,
        n_heldout=metrics["n_heldout"] if heldout else None,
        certificate=(metrics.get("certificate") or {}) if measured else {},
        convergence=convergence(run.history),
        ended=_ended(run.training),
        n_latent=latent.shape[1],
        unused=_unused(latent),
        kl=None if elbo is None or reconstruction is None else max(elbo - reconstruction, 0.0),
    )


def in_epochs(training: Mapping[str, Any]) -> str:
    """How long was trained. What that reached is the verdict's to say: in training it is only estimated."""
    ended = _ended(training)
    if ended is None:
        return f"{str(training['summary']).split('. ')[0].split(';')[0].rstrip('.')}."
    return f"Trained {ended.n_epochs} epochs; the state of epoch {ended.kept_epoch} is kept."


def _unused(latent: NDArray) -> tuple[int, ...]:
    return tuple(int(one) + 1 for one in np.flatnonzero(np.var(latent, axis=0) < ACTIVE_VARIANCE))


def _ended(training: Mapping[str, Any]) -> TrainingOutcome | None:
    if "n_epochs" not in training or "kept_epoch" not in training:
        return None
    names = {field.name for field in fields(TrainingOutcome)}
    return TrainingOutcome(**{name: value for name, value in training.items() if name in names})


def convergence(history: pd.DataFrame) -> Convergence:
    """Whether the validation ELBO loss still fell over the last epochs: the slope of a line through them."""
    if "elbo_validation" not in history:
        return Convergence(0)
    loss = pd.DataFrame(history["elbo_validation"]).iloc[:, 0].to_numpy(dtype=float)
    loss = loss[np.isfinite(loss)]
    if len(loss) < LEAST_EPOCHS:
        return Convergence(len(loss))
    last = max(LEAST_EPOCHS, round(LAST_SHARE * len(loss)))
    x, y = np.arange(last) - (last - 1) / 2, loss[-last:]
    slope = float(x @ y / (x @ x))
    noise = np.sqrt(np.square(y - y.mean() - slope * x).sum() / ((last - 2) * (x @ x)))
    fall = -slope * (last - 1)
    return Convergence(len(loss), last, fall, bool(-slope > 2 * noise and fall > FALLING * abs(y.mean())))


def beside(metrics: Metrics, plain: Metrics) -> Statement:
    """A run's metrics against those of the plain backbone on the same spots."""
    part = HELDOUT if HELDOUT in metrics else "all"
    ours, theirs = metrics[part], plain[part]
    changes = []
    for key, name in _COMPARED.items():
        mine, other = plain_number(ours.get(key)), plain_number(theirs.get(key))
        if mine is not None and other is not None:
            changes.append(f"{name} {_change(mine, other)}")
    where = "held-out" if part == HELDOUT else "all"
    return Statement("note", "Compared with the plain backbone", f"On {where} spots: {'; '.join(changes)}.")


def _change(ours: float, theirs: float) -> str:
    change = (ours - theirs) / abs(theirs) if theirs else 0.0
    if abs(change) < _ALIKE:
        return f"the same within {_ALIKE:.0%}"
    return f"{abs(change):.0%} {'lower' if change < 0 else 'higher'}"


def plain_number(value: Any) -> float | None:
    """A number as JSON can hold it: ``None`` if it is missing or not finite."""
    return None if value is None or not np.isfinite(value) else float(value)
