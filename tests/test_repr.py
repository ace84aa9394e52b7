from __future__ import annotations

import re
from dataclasses import dataclass, fields, is_dataclass
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import scvi
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import isovi
from isovi import Constraint, IsoSCVI, IsoVAE
from isovi._repr import ReprMixin, as_html, short_repr
from isovi.geometry.align import similarity
from isovi.geometry.certificate import certify_curve, certify_point
from isovi.geometry.distortion_map import spot_distortion
from isovi.geometry.profile import distortion_profile
from isovi.geometry.tissot import tissot_ellipses
from isovi.simulate import simulate
from isovi.tl import PlacedCells
from isovi.tl.certificate import Certificate

LONGEST = 1_200  # characters of a record's text: of thousands of numbers none are listed


class Text(HTMLParser):
    """Words and tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002  # signature of the base class
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def records() -> list[ReprMixin]:
    rng = np.random.default_rng(0)
    n = 2_000
    positions, latent = rng.random((n, 2)) * 30, rng.random((n, 4))
    tissue = rng.random(n) + 0.1
    ratios = tissue * rng.lognormal(0, 0.3, n)
    source, target = np.arange(n), np.arange(n) + n
    profile = distortion_profile(ratios, tissue, edges=(0.0, 0.5, 1.2))
    curve = certify_curve(ratios, tissue, source, target)
    point = certify_point(ratios, tissue, source, target, rng=rng)
    sections = np.zeros(n, dtype=np.int64)
    names = np.array(["A", "B"], dtype=object)[sections]
    genes = [f"gene {number}" for number in range(500)]
    inside = rng.random(n) < 0.1
    return [
        profile, profile.bins[0], curve, point,
        Certificate(curve, point, True), Certificate(curve, None, False),
        tissot_ellipses(latent, positions, sections),
        spot_distortion(latent, positions, sections, rng=rng),
        PlacedCells(positions, tissue, inside, names, genes, tissue, 0.5),
        similarity(positions, positions),
    ]  # fmt: skip


@pytest.mark.parametrize("record", records(), ids=lambda record: type(record).__name__)
def test_records_show_themselves_briefly(record: ReprMixin) -> None:
    shown = repr(record)
    assert shown.startswith(type(record).__name__)
    assert len(shown) < LONGEST and "array(" not in shown
    page = Text(record._repr_html_())
    assert page.tags.count("tr") == shown.count("\n")
    for line in shown.splitlines()[1:]:
        assert re.split(r"\s{2,}", line.strip())[0] in page.words


def test_what_a_profile_shows_is_what_it_says() -> None:
    profile = records()[0]
    assert re.search(rf"L\(0\.1\) +{profile.for_epsilon(0.1).L:.4g}\n", repr(profile))


def test_a_certificate_shows_the_tighter_bound_first() -> None:
    found = records()[4]
    rows = found.summary()
    assert rows["L(0.1) at most"] == found.point.L
    assert list(rows).index("L(0.1) at most") < list(rows).index("η")


@given(st.text(), st.text())
def test_nothing_is_read_as_markup(name: str, value: str) -> None:
    page = Text(as_html("<b>", {name + "<script>": value + "</td><img>"}))
    assert page.tags == ["table", "caption", "tbody", "tr", "th", "td"]


@given(hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=40)))
def test_any_array_is_shown_in_one_line(values: np.ndarray) -> None:
    line = short_repr(values)
    assert len(line) < 120 and "\n" not in line
    assert str(values.shape) in line


def test_lists_and_mappings_are_cut() -> None:
    assert short_repr([]) == "none"
    assert short_repr({"a": 1.23456, "b": 2, "c": 3, "d": 4}) == "a: 1.235, b: 2, c: 3 and 1 more"
    assert short_repr(np.array(["x", "y", "x"], dtype=object)) == "array of shape (3,): x, y"
    assert short_repr(np.array([True, False])) == "1 of 2"


def test_records_of_arrays_are_all_shortened() -> None:
    """A dataclass with an array among its fields must not list it when it is shown."""
    public = [getattr(isovi.tl, name) for name in isovi.tl.__all__]
    classes = [one for one in public if isinstance(one, type) and is_dataclass(one)]
    assert classes
    for one in classes:
        if any("NDArray" in str(field.type) or "Array" in str(field.type) for field in fields(one)):
            assert issubclass(one, ReprMixin) and one.__repr__ is ReprMixin.__repr__


@dataclass(frozen=True, repr=False)
class Pair(ReprMixin):
    one: float
    other: np.ndarray


def test_fields_are_shown_where_nothing_else_is_said() -> None:
    assert repr(Pair(1.0, np.zeros((3, 2)))) == "Pair\n  one    1\n  other  array of shape (3, 2), 0 to 0"


# ---------------------------------------------------------------------------- models


@pytest.fixture(scope="module")
def tissue() -> Any:
    return simulate("layers", n_obs=60, n_genes=20, n_sections=2, seed=0)


def test_a_model_shows_what_it_is_and_what_it_reached(
    tissue: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    IsoSCVI.setup_anndata(tissue, section_key="section")
    model = IsoSCVI(tissue, n_latent=4, distortion=Constraint(0.3))
    assert re.search(r"trained +no", repr(model))
    model.train(max_epochs=2, enable_progress_bar=False)
    capsys.readouterr()
    shown = repr(model)
    assert capsys.readouterr().out == ""  # scvi-tools prints when asked for text; ours does not
    assert "60 cells x 20 features" in shown and "constraint 0.3" in shown
    assert re.search(r"pairs +all\n", shown)
    assert re.search(rf"λ +{model.distance_scale:.4g}\n", shown)
    assert model.training_summary_ in shown and model.training_summary_ in Text(model._repr_html_()).words


def test_a_plain_backbone_shows_no_distances(tissue: Any) -> None:
    IsoSCVI.setup_anndata(tissue)
    shown = repr(IsoSCVI(tissue, n_latent=4, distortion=None))
    assert "the plain backbone" in shown and "λ" not in shown


def test_the_vae_does_not_claim_a_likelihood_of_counts(tissue: Any) -> None:
    IsoVAE.setup_anndata(tissue)
    assert "likelihood: normal" in repr(IsoVAE(tissue, n_latent=4))
    assert "zinb" not in repr(IsoVAE(tissue, n_latent=4))


def test_other_backbones_show_their_own_network(tissue: Any) -> None:
    cls = isovi.preserve_distances(scvi.model.LinearSCVI)
    cls.setup_anndata(tissue)
    assert re.match(r"IsoLinearSCVI\n.*\n.*\n  network +n_hidden: 128", repr(cls(tissue)))
