"""Public sections, from a server on this machine that counts what is asked of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import h5py
import numpy as np
import pytest

from isovi import datasets
from isovi.datasets import EXAMPLES, SECTIONS, PublicSection
from isovi.errors import InputError, IsoviWarning
from isovi.simulate import simulate

COUNTS, IMAGES = "filtered_feature_bc_matrix.h5", "spatial.tar.gz"


@dataclass
class Server:
    """Files by path, and the paths that were asked for."""

    url: str
    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)


def counts_of_space_ranger() -> bytes:
    """Three spots with two genes each."""
    held = io.BytesIO()
    with h5py.File(held, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array([b"AAAC-1", b"AAAG-1", b"AAAT-1"])
        matrix["data"] = np.array([1, 2, 3, 4, 5, 6])
        matrix["indices"] = np.array([0, 1] * 3)
        matrix["indptr"] = np.array([0, 2, 4, 6])
        matrix["shape"] = np.array([2, 3])
        features = matrix.create_group("features")
        features["id"] = features["name"] = np.array([b"G1", b"G2"])
        features["feature_type"] = np.array([b"Gene Expression"] * 2)
        features["genome"] = np.array([b"GRCh38"] * 2)
    return held.getvalue()


def archive(*names: str) -> bytes:
    text = b"AAAC-1,1,0,0,100,110\nAAAG-1,1,0,2,100,210\nAAAT-1,1,0,4,100,310\n"
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    return held.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    files = {f"/small/small_{COUNTS}": counts_of_space_ranger()}
    files[f"/small/small_{IMAGES}"] = archive("spatial/tissue_positions_list.csv")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found.asked.append(self.path)
            body = found.files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        found = Server(f"http://127.0.0.1:{http.server_address[1]}", files)
        Thread(target=http.serve_forever, daemon=True).start()
        yield found
        http.shutdown()


@pytest.fixture
def small(server: Server, monkeypatch: pytest.MonkeyPatch) -> PublicSection:
    sums = {
        path.rpartition("small_")[2]: hashlib.sha256(body).hexdigest() for path, body in server.files.items()
    }
    section = PublicSection("a tissue", "small", sums[COUNTS], sums[IMAGES], base_url=server.url)
    monkeypatch.setitem(SECTIONS, "small", section)
    return section


@pytest.mark.usefixtures("small")
def test_a_section_is_fetched_once_and_read(server: Server, tmp_path: Path) -> None:
    adata = datasets.load("small", cache=tmp_path)
    assert adata.X.toarray().tolist() == [[1, 2], [3, 4], [5, 6]]
    assert adata.obsm["spatial"].tolist() == [[110, 100], [210, 100], [310, 100]]
    assert sorted(server.asked) == sorted(server.files)
    assert datasets.fetch("small", cache=tmp_path) == tmp_path / "small"
    assert len(server.asked) == 2


@pytest.mark.usefixtures("small")
def test_the_cache_can_be_set_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOVI_DATA", str(tmp_path / "kept"))
    assert datasets.fetch("small") == tmp_path / "kept" / "small"


@pytest.mark.usefixtures("small")
def test_other_bytes_are_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.files[f"/small/small_{IMAGES}"] = archive("spatial/else.csv")
    with pytest.raises(InputError, match="another checksum than 'small'"):
        datasets.fetch("small", cache=tmp_path)
    assert not (tmp_path / "small").exists()
    assert list(tmp_path.rglob(f"*{IMAGES}")) == []


def test_without_a_network_it_says_what_to_copy(
    small: PublicSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SECTIONS, "small", replace(small, base_url="http://127.0.0.1:9"))  # nothing listens
    with pytest.raises(InputError, match="ConnectionError") as caught:
        datasets.fetch("small", cache=tmp_path)
    assert str(tmp_path / "small") in caught.value.remedy


@pytest.mark.usefixtures("small")
def test_what_the_server_lacks_is_named(server: Server, tmp_path: Path) -> None:
    del server.files[f"/small/small_{IMAGES}"]
    with pytest.raises(InputError, match=rf"small_{IMAGES} could not be fetched \(HTTPError\)"):
        datasets.fetch("small", cache=tmp_path)


def test_an_example_is_read_where_it_is_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, stored = "starmap_mpfc_BZ5", simulate("layers", n_obs=20, n_genes=5)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    stored.write_h5ad(tmp_path / "shared" / "data" / f"{name}.h5ad")
    below = tmp_path / "checkout" / "docs"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    monkeypatch.setenv("ISOVI_DATA", str(tmp_path / "empty"))
    found = datasets.example(name)
    assert found.n_obs == 20 and found.uns["example"].startswith("Real data: mouse medial prefrontal cortex")
    stored[:10].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    monkeypatch.setenv("ISOVI_DATA", str(tmp_path))
    assert datasets.example(name).n_obs == 10


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_that_is_not_at_hand_is_simulated_and_says_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away(tmp_path, monkeypatch)
    about = replace(EXAMPLES[name], base_url="http://127.0.0.1:9")  # nothing listens
    monkeypatch.setitem(EXAMPLES, name, about)
    reason = r"\S+ could not be fetched \(ConnectionError\)" if about.files else "It is not public as tables"
    with pytest.warns(IsoviWarning, match=f"Simulated, because {name}.h5ad is not at hand. {reason}."):
        found = datasets.example(name)
    assert found.n_obs == about.n_obs and found.obs["label"].nunique() > 1
    assert about.tissue in found.uns["example"]


def away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no section is at hand: no more than three folders above the working folder are looked into."""
    (folder / "away").mkdir()
    monkeypatch.chdir(folder / "away")
    monkeypatch.setenv("ISOVI_DATA", str(folder / "cache"))


ARRAY = {
    "counts.tsv.gz": gzip.compress(b"\tG1\tG2\n9x10\t1\t2\n10x10\t3\t4\n11x10\t5\t6\n"),
    "spots.tsv": b"x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n"
    b"10\t10\t9.9\t9.9\t110.5\t90\t1\n9\t10\t9\t10\t100\t90\t1\n11\t10\t11\t10\t120\t90\t0\n",
    "labels.tsv": b"Row.names\tx\ty\tlabel\na\t8.9\t10.1\ttumour\n\tNA\tNA\t\nb\t10.2\t9.8\tstroma\n",
}
"""Three spots of Spatial Transcriptomics, of which the last is outside the tissue."""


@pytest.mark.parametrize("n_files", [2, 3])
def test_an_example_is_fetched_from_its_authors_and_kept(
    n_files: int, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away(tmp_path, monkeypatch)
    files = dict(list(ARRAY.items())[:n_files])
    server.files.update({f"/her2st/{path}": body for path, body in files.items()})
    sums = {path: hashlib.sha256(body).hexdigest() for path, body in files.items()}
    about = replace(EXAMPLES["her2st_D1"], base_url=f"{server.url}/her2st", files=sums)
    monkeypatch.setitem(EXAMPLES, "her2st_D1", about)
    for _ in range(2):
        found = datasets.example("her2st_D1")
        assert found.uns["example"].startswith("Real data: breast tumour of patient D")
    assert server.asked == [f"/her2st/{path}" for path in files]
    assert found.obs_names.tolist() == ["9x10", "10x10"] and found.X.toarray().tolist() == [[1, 2], [3, 4]]
    assert found.obsm["spatial"].tolist() == [[100, 90], [110.5, 90]]
    assert n_files == 2 or found.obs["label"].tolist() == ["tumour", "stroma"]


def test_an_example_of_other_bytes_is_not_shown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away(tmp_path, monkeypatch)
    about = replace(EXAMPLES["her2st_D1"], base_url=f"{server.url}/her2st")
    server.files.update({f"/her2st/{path}": b"else" for path in about.files})
    monkeypatch.setitem(EXAMPLES, "her2st_D1", about)
    with pytest.warns(IsoviWarning, match="Simulated, .* sent has another checksum"):
        datasets.example("her2st_D1")


def test_the_files_of_an_example_are_those_of_one_commit() -> None:
    fetched = {name: one for name, one in EXAMPLES.items() if one.files}
    assert len(fetched) == 5
    commit = re.compile(r"https://raw\.githubusercontent\.com/[\w-]+/[\w-]+/[0-9a-f]{40}/\S+\w")
    assert [name for name, one in fetched.items() if not commit.fullmatch(one.base_url)] == []
    sums = [sum_ for one in fetched.values() for sum_ in one.files.values()]
    assert len(set(sums)) == len(sums) == 12
    assert all(len(one) == 64 and int(one, 16) for one in sums)


def test_an_unknown_example_is_refused() -> None:
    with pytest.raises(InputError, match="Use one of dlpfc_151673"):
        datasets.example("else")


def test_an_archive_cannot_write_elsewhere(
    server: Server, small: PublicSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = archive("spatial/tissue_positions_list.csv", "../../outside.csv")
    server.files[f"/small/small_{IMAGES}"] = evil
    monkeypatch.setitem(SECTIONS, "small", replace(small, images=hashlib.sha256(evil).hexdigest()))
    with pytest.raises(tarfile.OutsideDestinationError):
        datasets.fetch("small", cache=tmp_path / "cache")
    assert list(tmp_path.rglob("outside.csv")) == []


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="human_lymph_node, human_breast_cancer_1"):
        datasets.fetch("lymph", cache=tmp_path)


def test_without_pooch_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(InputError, match=r"isovi\[datasets\]"):
        datasets.fetch("human_heart", cache=tmp_path)


def test_every_section_has_checksums_and_its_own_files() -> None:
    sums = [one for section in SECTIONS.values() for one in (section.counts, section.images)]
    assert len(set(sums)) == 2 * len(SECTIONS)
    assert all(len(one) == 64 and int(one, 16) for one in sums)
