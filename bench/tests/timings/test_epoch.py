from __future__ import annotations

from pathlib import Path

import pytest

from isovi.errors import InputError
from isovi.model import model
from isovi.simulate import simulate
from isovi_bench.resources import processor_name
from isovi_bench.rows import Rows
from isovi_bench.timings import epoch


@pytest.mark.slow
def test_every_contender_is_timed_and_compared_with_scvi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = simulate("layers", n_obs=80, n_genes=30, seed=0)
    monkeypatch.setattr(epoch, "tissues", lambda *_: [("tiny", adata)])
    (row,) = epoch.measure(epochs=2, repeats=1, rows=Rows(tmp_path / "rows"))
    for clock in ("cpu", "wall"):
        assert set(row[f"{clock}_ratio"]) == set(epoch.CONTENDERS)
        assert row[f"{clock}_ratio"]["scvi"] == 1
        assert all(value > 0 for value in row[f"{clock}_seconds"].values())
    written = epoch.table([row])
    assert written.count("\n|") == 2 and written.endswith(processor_name())
    assert f"| {row['density']:.1%} |" in written and "scvi (wall)" not in written


def test_an_interrupted_measurement_is_resumed_and_medians_are_over_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []

    def seconds(name: str, *_: object) -> list[tuple[float, float]]:
        if len(called) == 3:
            raise KeyboardInterrupt
        called.append(name)
        return [(1.0 + len(called), 5.0)]

    monkeypatch.setattr(epoch, "seconds", seconds)
    adata = simulate("layers", n_obs=80, n_genes=30, seed=0)
    monkeypatch.setattr(epoch, "tissues", lambda *_: [("tiny", adata)])
    asked = {"repeats": 3, "contenders": ["equal"], "rows": Rows(tmp_path / "rows")}
    with pytest.raises(KeyboardInterrupt):
        epoch.measure(**asked)
    called.append("interrupted")
    (row,) = epoch.measure(**asked)
    assert called == ["scvi", "equal", "scvi", "interrupted", *["scvi", "equal"] * 2]
    assert row["cpu_seconds"] == {"scvi": 6.0, "equal": 7.0}  # of 2, 6, 8 and of 3, 7, 9
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in said] == [
        f"Epochs of tiny: {n}" for n in ("1 of 3", "1 of 2", "2 of 2")
    ]
    assert epoch.measure(**asked) == [row] and len(called) == 8


def test_epochs_are_timed_from_start_to_start_without_the_first() -> None:
    clock = epoch.Clock()
    clock.ticks = [(0.0, 10.0), (5.0, 20.0), (6.0, 22.0), (8.0, 25.0)]
    assert clock.epochs() == [(1.0, 2.0), (2.0, 3.0)]


def test_speed_ups_are_turned_on_again() -> None:
    before = model.resident, model.logging_by_epoch
    with epoch.speed_ups(False):
        assert model.resident is not before[0]
        assert model.logging_by_epoch(int) is int
    assert (model.resident, model.logging_by_epoch) == before


def test_scvi_is_always_among_the_contenders() -> None:
    assert epoch.chosen(()) == list(epoch.CONTENDERS)
    assert epoch.chosen(["equal", "scvi", "equal"]) == ["scvi", "equal"]
    with pytest.raises(InputError, match=r"contenders=fast\. The contenders are scvi, default"):
        epoch.chosen(["fast", "equal"])


def test_a_section_is_cut_to_its_variable_genes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch, "N_GENES", 20)
    simulate("layers", n_obs=60, n_genes=30, seed=0).write_h5ad(tmp_path / "mine.h5ad")
    *simulated, (name, section) = epoch.tissues(tmp_path / "mine.h5ad", 50)
    assert name == "mine" and section.shape == (60, 20)
    assert [tissue.n_obs for _, tissue in simulated] == [50] * 3
