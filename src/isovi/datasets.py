"""Public sections, fetched at first use and kept: Visium data of 10x Genomics, under the licence CC BY 4.0.

The files are those of the `dataset pages <https://www.10xgenomics.com/datasets>`_ of 10x Genomics, from the
copy that scverse keeps for squidpy. Each is checked against its SHA-256, so a section is always the same.

The sections of the tutorials are :data:`EXAMPLES`. :func:`example` reads them where they are at hand, fetches
them from the repositories of their authors where these have them as tables, and else simulates a tissue.
"""

from __future__ import annotations

import os
import tarfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from isovi.data import io
from isovi.data.outputs import output_directory
from isovi.data.readers.table import read_counts
from isovi.errors import InputError, IsoviWarning
from isovi.simulate import simulate

CACHE_VARIABLE = "ISOVI_DATA"
"""Environment variable with the folder in which sections are kept, in place of the user's cache folder."""

_COUNTS, _IMAGES = "filtered_feature_bc_matrix.h5", "spatial.tar.gz"


@dataclass(frozen=True)
class PublicSection:
    """Where a section is from, and the checksums of its files."""

    tissue: str
    sample: str
    """Name that 10x Genomics gave it."""
    counts: str
    """SHA-256 of the counts."""
    images: str
    """SHA-256 of the archive with positions and images."""
    base_url: str = "https://exampledata.scverse.org/squidpy/10x_genomics"

    def url(self, file: str) -> str:
        """Address of one of its files."""
        return f"{self.base_url}/{self.sample}/{self.sample}_{file}"


SECTIONS = {
    "human_lymph_node": PublicSection(
        "human lymph node",
        "V1_Human_Lymph_Node",
        "86fd533eb907450e7125b9820183a0ca73776eeafcc5eddae5695b6aabfd9139",
        "812808883366ff9623dc8354847a7211b0d922b2bfc4c9359d6e12e993ea6a73",
    ),
    "human_breast_cancer_1": PublicSection(
        "human breast cancer, block A, section 1",
        "V1_Breast_Cancer_Block_A_Section_1",
        "b3cbb6ead60afad848ebcc07a34835613d9d2d79e416ad8300b210d9de584b65",
        "415530a9d31172f63fd358d5d1cefb0798698ef9c0e614f52825894cd45c61bf",
    ),
    "human_breast_cancer_2": PublicSection(
        "human breast cancer, block A, section 2, beside section 1",
        "V1_Breast_Cancer_Block_A_Section_2",
        "e325b4e53f0036a71904cea6b7cd65945f10c25cf2ef8e2f681de9ac1ff7766c",
        "15fcf837478bcba847b50e393b016f95f02067ea930e81f96b103f2a14bf6db0",
    ),
    "human_heart": PublicSection(
        "human heart",
        "V1_Human_Heart",
        "a7274ea2ff2717693b200e614c288c174f02925b6d82c98221871a08e52d415b",
        "f2033b6ec4c13dcaf75386d4de3e86cb3357e15fe0eaa2be7037c3d3f0194188",
    ),
    "mouse_brain_coronal": PublicSection(
        "mouse brain, coronal",
        "V1_Adult_Mouse_Brain",
        "eb78379e02dcf48036abf05b67233e73ecb0d880787feb82f76ff16f6ce01eb3",
        "46d6b05ba740f232d6bf4b27b9a8846815851e000985fb878f1364bab04e5bd4",
    ),
    "mouse_brain_sagittal": PublicSection(
        "mouse brain, sagittal, anterior",
        "V1_Mouse_Brain_Sagittal_Anterior",
        "56078d8d6fe6c13de248fdb1c518b691cdef78fb00021b659786b4a47c6656d5",
        "5f41a803e2bd69fa4dfca6abc8fa2d4e0d76aeb6c72d7038a5fdcf9cc50a36f8",
    ),
}
"""The sections by name. All are Visium, with raw counts of all genes, positions and the histology image."""


@dataclass(frozen=True)
class Example:
    """A section of the tutorials, and the tissue that is simulated in its place."""

    tissue: str
    kind: str
    """As in :func:`isovi.simulate.simulate`; so are the others."""
    n_obs: int
    seed: int
    base_url: str = ""
    """A commit of the repository in which its authors, or those of a package, keep it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Its files there with their SHA-256 (counts, spots and labels of an array, or what Xenium writes)."""


_GITHUB = "https://raw.githubusercontent.com"
_HER2ST = f"{_GITHUB}/almaan/her2st/85df7411b987a7dec3feff9718b869a7a82091ec/data"
_STUTILITY = f"{_GITHUB}/jbergenstrahle/STUtility/9a8f421499e58b13340ee386db07b0eba923c88c/inst/extdata"
_HIPPO1 = "counts/alignment_table_Hippo1.tsv.gz"
_XENIUM = (
    f"{_GITHUB}/drighelli/SpatialExperiment/3f497acdd98cedbb7e712b59f56bc8fbf9eacfd7/inst/extdata/10xXenium"
)


def _her2st(section: str, *sums: str) -> dict[str, str]:
    files = "ST-cnts/{}.tsv.gz", "ST-spotfiles/{}_selection.tsv", "ST-pat/lbl/{}_labeled_coordinates.tsv"
    return {path.format(section): sum_ for path, sum_ in zip(files, sums, strict=False)}


EXAMPLES = {
    "dlpfc_151673": Example(
        "human prefrontal cortex, Visium (spatialLIBD, section 151673)", "layers", 900, 0
    ),
    "her2st_D1": Example(
        "breast tumour of patient D, Spatial Transcriptomics (her2st)",
        *("layers", 300, 1, _HER2ST),
        _her2st(
            "D1",
            "8fe13d29763b3f6a9e85322dae97e05c4ca42b57cef4b1077c88b9b7b6a980ac",
            "7ba7843b52ddc2b147ee968fe9466a5d1fa0d884b51def292ce340d88da034eb",
            "c8bf26103d1aac42611d9c85ba3db9c596b9a80ec045ca9b246b8d14d8b3c20f",
        ),
    ),
    "her2st_D2": Example(
        "breast tumour of patient D, the next section (her2st)",
        *("layers", 300, 2, _HER2ST),
        _her2st(
            "D2",
            "e63818ad8717b47ca949e082c1f28b9c807475b8d722a6f5c1acda7b618b5495",
            "5e0cadc230094060d071124cfb5ab6223d3dbb56b6aa6c3e4f8f9c8f1e329fb5",
        ),
    ),
    "her2st_G2": Example(
        "breast tumour of patient G, Spatial Transcriptomics (her2st)",
        *("blobs", 450, 3, _HER2ST),
        _her2st(
            "G2",
            "9d51a5ed85bdf60069dcf51beeffba4e90e35e8630ec3b707a2453ffdd608e3b",
            "abae30bb6f434cb2aae34b8ef56da6b613c840d48c49279d55f4600ad496245c",
            "8466275647ad125569ee94d099cc7b78c15028968ba1dd267a85a81c001a16ff",
        ),
    ),
    "st2k_mouse_hippo_Hippo1": Example(
        "mouse brain, Spatial Transcriptomics (STUtility)",
        *("blobs", 700, 4, _STUTILITY),
        {
            "counts/Hippo1.tsv.gz": "fd8c5924f437e515085b31b347658238df02323d31551741f67e195ab9345fe5",
            _HIPPO1: "b0ff535e7060b102372790d2625bb5d5dc22b13bd9f706011f8df25c2444bcf3",
        },
    ),
    "starmap_mpfc_BZ5": Example("mouse medial prefrontal cortex, STARmap", "layers", 700, 5),
    "xenium_mouse_brain_tiny_36k": Example(
        "mouse brain, Xenium (10x Genomics)",
        *("blobs", 1500, 6, _XENIUM),
        {
            "cell_feature_matrix.h5": "c46affded533ee3802a8136ab61b51868831a9cd07226121f5426c81bccde12d",
            "cells.csv.gz": "9fbeb446c201e12802808ae58d027daaeb7b90051a09c3d4c74bcf46aec253f2",
        },
    ),
}
"""The sections of the tutorials by name. ``uns["source"]`` of files at hand says where each is from."""


def example(name: str) -> AnnData:
    """Read a section of the tutorials, fetch it, or simulate a tissue.

    Parameters
    ----------
    name
        One of :data:`EXAMPLES`. Its file, ``NAME.h5ad``, is looked for in the folder in the environment
        variable ``ISOVI_DATA``, and in ``shared/data`` of the working folder and the three above it. Without
        it the section is fetched where its authors have it as tables, and kept as by :func:`fetch`. Where it
        cannot be fetched either, a tissue is simulated.

    Returns
    -------
    Raw counts, with positions in ``obsm["spatial"]``, labels in ``obs["label"]`` where there are such, and in
    ``uns["example"]`` the sentence that says what it is.

    Raises
    ------
    InputError
        If there is no example of this name.

    Warns
    -----
    IsoviWarning
        If the tissue is simulated.
    """
    if name not in EXAMPLES:
        raise InputError(
            f"name={name!r}.", "It must be the name of an example.", f"Use one of {', '.join(EXAMPLES)}."
        )
    about, file = EXAMPLES[name], _at_hand(f"{name}.h5ad")
    try:
        adata = io.read(file) if file else _of_its_authors(name, about)
    except InputError as error:
        if file:
            raise
        return _stand_in(name, about, error.received)
    adata.uns["example"] = f"Real data: {about.tissue}."
    return adata


def _at_hand(file: str) -> Path | None:
    here = Path.cwd()
    named = [Path(os.environ[CACHE_VARIABLE]).expanduser()] if os.environ.get(CACHE_VARIABLE) else []
    folders = [*named, *(parent / "shared" / "data" for parent in (here, *here.parents[:3]))]
    return next((path for folder in folders if (path := folder / file).is_file()), None)


def _of_its_authors(name: str, about: Example) -> AnnData:
    if not about.files:
        raise InputError("It is not public as tables.", "Only those are fetched.", "Save it as that file.")
    folder = _cache(None) / name
    wanted = ((f"{about.base_url}/{path}", sum_) for path, sum_ in about.files.items())
    files = [_download(url, sum_, folder, folder) for url, sum_ in wanted]
    return io.read(folder) if "cells.csv.gz" in about.files else _spatial_transcriptomics(*files)


def _spatial_transcriptomics(counts: Path, spots: Path, labels: Path | None = None) -> AnnData:
    """A section of an array of Spatial Transcriptomics, whose spots are named COLUMNxROW."""
    adata = read_counts(counts)
    table = pd.read_csv(spots, sep="\t").query("selected == 1")
    table.index = table["x"].astype(str) + "x" + table["y"].astype(str)
    adata = adata[adata.obs_names.isin(table.index)].copy()
    adata.obsm["spatial"] = table.loc[adata.obs_names, ["pixel_x", "pixel_y"]].to_numpy(dtype=float)
    if labels is not None:
        said = pd.read_csv(labels, sep="\t").dropna(subset=["x", "y"])
        places = said[["x", "y"]].round().astype(int).astype(str)
        said.index = places["x"] + "x" + places["y"]
        adata.obs["label"] = pd.Categorical(said["label"].reindex(adata.obs_names))
    return adata


def _stand_in(name: str, about: Example, reason: str) -> AnnData:
    adata = simulate(about.kind, n_obs=about.n_obs, n_genes=200, depth=3.0, seed=about.seed)
    adata.obs["label"] = adata.obs.pop("domain")
    adata.uns["example"] = (
        f"Simulated, because {name}.h5ad is not at hand. {reason} It stands for: {about.tissue}. "
        "What the text says of results is of the real data."
    )
    warnings.warn(adata.uns["example"], IsoviWarning, stacklevel=3)
    return adata


def load(name: str, cache: str | os.PathLike[str] | None = None) -> AnnData:
    """Read a public section, after fetching it if this is its first use.

    Parameters
    ----------
    name
        One of :data:`SECTIONS`.
    cache
        Folder in which sections are kept; by default that in the environment variable ``ISOVI_DATA``, else
        the user's cache folder.

    Returns
    -------
    Raw counts of the spots in the tissue, with positions in ``obsm["spatial"]``, in pixels.

    Raises
    ------
    InputError
        See :func:`fetch`.
    """
    return io.read(fetch(name, cache))


def fetch(name: str, cache: str | os.PathLike[str] | None = None) -> Path:
    """Fetch a public section once, and return its folder, which every command of isoVI takes.

    Parameters
    ----------
    name
        One of :data:`SECTIONS`.
    cache
        See :func:`load`.

    Returns
    -------
    Folder as Space Ranger writes it: ``filtered_feature_bc_matrix.h5`` and ``spatial/``.

    Raises
    ------
    InputError
        If there is no section of this name, pooch is not installed, the section cannot be fetched (no
        network, for example), or what arrives has another checksum.
    """
    if name not in SECTIONS:
        raise InputError(
            f"name={name!r}.",
            "It must be the name of a public section.",
            f"Use one of {', '.join(SECTIONS)}.",
        )
    section, folder = SECTIONS[name], _cache(cache) / name
    if folder.is_dir():
        return folder
    downloads = folder.with_name("downloads")
    counts = _download(section.url(_COUNTS), section.counts, downloads, folder)
    images = _download(section.url(_IMAGES), section.images, downloads, folder)
    with output_directory(folder) as new:  # whole or not at all
        with tarfile.open(images) as archive:
            archive.extractall(new, filter="data")
        os.replace(counts, new / _COUNTS)
    images.unlink()
    return folder


def _cache(given: str | os.PathLike[str] | None) -> Path:
    if given or os.environ.get(CACHE_VARIABLE):
        return Path(given or os.environ[CACHE_VARIABLE]).expanduser()
    return Path(_pooch().os_cache("isovi"))


def _pooch() -> Any:
    try:
        import pooch
    except ImportError as error:
        raise InputError(
            "pooch is not installed.",
            "Public sections are fetched with it.",
            'Install it, for example by pip install "isovi[datasets]".',
        ) from error
    return pooch


def _download(url: str, sha256: str, downloads: Path, folder: Path) -> Path:
    """A file of the section that is to be kept in `folder`, with the right checksum."""
    pooch = _pooch()
    pooch.get_logger().setLevel("WARNING")
    name = folder.name
    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=url.rpartition("/")[2], path=downloads))
    except ValueError as error:  # pooch has removed what arrived
        raise InputError(
            f"What {url} sent has another checksum than {name!r}.",
            "A section must be the bytes that were published.",
            "Try again later. If it persists, report it: the file was replaced, or a proxy changes it.",
        ) from error
    except OSError as error:  # those of requests among them
        raise InputError(
            f"{url} could not be fetched ({type(error).__name__}).",
            f"The first use of {name!r} needs a network; later ones read it from {folder.parent}.",
            f"Fetch it on a machine with a network and copy {folder} to this one, or use isovi.simulate.",
        ) from error
