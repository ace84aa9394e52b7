"""Peers in environments of their own: what they are, where they are, how they are installed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from isovi.errors import InputError, OutputError

FOLDER = "ISOVI_PEERS"  # environment variable
STAMP = "isovi-requirements.sha256"  # written last: an environment without it is not complete
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True)
class Peer:
    """A published method that runs in an environment of its own.

    Attributes
    ----------
    name
        As a grid names it.
    package
        On PyPI.
    module
        What its environment has to be able to import.
    latent
        What is taken as its latent; empty if it has none and places cells.
    smooths
        How it averages over the spatial graph, which makes Moran's I of its latent partly circular; empty
        if it does not.
    reference
        Where it was published.
    clustering
        Which of the common last steps to domains its authors take, ``"leiden"`` or ``"mixture"``, unless its
        script returns domains.
    encodes
        Whether it has a latent, or a position, for spots that it was not fitted on.
    sees_positions
        Whether it is fitted to positions.
    unavailable
        Why it cannot be run on a CPU with packages of the index; empty if it can.
    """

    name: str
    package: str
    module: str
    latent: str
    smooths: str
    reference: str
    clustering: Literal["leiden", "mixture"] = "leiden"
    encodes: bool = False
    sees_positions: bool = True
    unavailable: str = ""


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "banksy",
            package="pybanksy",
            module="banksy.embed_banksy",
            latent="20 principal components of the BANKSY matrix",
            smooths="the matrix holds mean and gradient of the expression around each spot",
            reference="Singhal et al. 2024, Nature Genetics 56:431",
        ),
        Peer(
            "cellcharter",
            package="cellcharter",
            module="cellcharter",
            latent="scVI's latent of a spot beside its means over three rings of neighbours",
            smooths="three quarters of the latent are means over neighbours",
            clustering="mixture",
            reference="Varrone et al. 2024, Nature Genetics 56:74",
        ),
        Peer(
            "graphpca",
            package="st-graphpca",
            module="GraphPCA",
            latent="50 components with a Laplacian penalty",
            smooths="the penalty pulls neighbours together",
            reference="Yang et al. 2024, Genome Biology 25:287",
        ),
        Peer(
            "graphst",
            package="graphst",
            module="GraphST.GraphST",
            latent="20 principal components of the reconstruction, which its authors cluster on",
            smooths="two graph convolutions",
            clustering="mixture",
            reference="Long et al. 2023, Nature Communications 14:1155",
        ),
        Peer(
            "spagcn",
            package="spagcn",
            module="SpaGCN, louvain",
            latent="50 dimensions behind the graph convolution",
            smooths="one convolution with a Gaussian kernel of the distance",
            reference="Hu et al. 2021, Nature Methods 18:1342",
        ),
        Peer(
            "stagate",
            package="stagate-modern",
            module="STAGATE_pyG",
            latent="30 dimensions between encoder and decoder",
            smooths="attention over spatial neighbours",
            clustering="mixture",
            reference="Dong & Zhang 2022, Nature Communications 13:1739",
        ),
        Peer(
            "celery",
            package="celerypy",
            module="CeLEry",
            latent="",
            smooths="",
            reference="Zhang et al. 2023, Nature Communications 14:4050",
            encodes=True,
        ),
        Peer(
            "decipher",
            package="cell-decipher",
            module="decipher",
            latent="an embedding of the spot beside one of its neighbourhood, 32 dimensions each",
            smooths="half of the latent is attention over 20 neighbours",
            reference="Xia et al. 2025, Nature Communications",
            unavailable="its loader needs pyg-lib or torch-sparse, which the index has no wheels of",
        ),
        Peer(
            "harmony",
            package="harmonypy",
            module="harmonypy",
            latent="50 principal components whose sections are pulled together",
            smooths="",
            reference="Korsunsky et al. 2019, Nature Methods 16:1289",
            sees_positions=False,
        ),
        Peer(
            "moscot",
            package="moscot",
            module="moscot.problems.space",
            latent="",
            smooths="",
            reference="Klein et al. 2025, Nature 638:1065",
            encodes=True,
        ),
        Peer(
            "nichecompass",
            package="nichecompass",
            module="nichecompass",
            latent="its active gene programmes",
            smooths="attention over spatial neighbours",
            reference="Birk et al. 2025, Nature Genetics 57:897",
            unavailable="its loaders need pyg-lib or torch-sparse, which the index has no wheels of, and "
            "its gene programmes are fetched from databases",
        ),
        Peer(
            "nichepca",
            package="nichepca",
            module="nichepca",
            latent="30 principal components of means over 25 neighbours",
            smooths="all of the latent are means over neighbours",
            reference="Schaub et al. 2024, bioRxiv",
        ),
        Peer(
            "novae",
            package="novae",
            module="novae",
            latent="64 dimensions of its graph encoder, trained on the section alone",
            smooths="attention over a graph of two hops",
            reference="Blampey et al. 2025, Nature Methods 22:2539",
        ),
        Peer(
            "novosparc",
            package="novosparc",
            module="novosparc",
            latent="",
            smooths="",
            reference="Nitzan et al. 2019, Nature 576:132",
            encodes=True,
        ),
        Peer(
            "resolvi",
            package="scvi-tools",
            module="scvi.external",
            latent="10 dimensions of resolVI",
            smooths="",
            reference="Ergen & Yosef 2025, bioRxiv",
        ),
        Peer(
            "scviva",
            package="scvi-tools",
            module="scvi.external, igraph",
            latent="10 dimensions of scVIVA",
            smooths="the loss asks the latent for the niche, which means over neighbours describe",
            reference="Levy et al. 2025, bioRxiv",
        ),
        Peer(
            "smoother",
            package="smoother-omics",
            module="smoother, jax",
            latent="10 dimensions of SpatialVAE, scVI with a spatial loss",
            smooths="the loss pulls neighbours together",
            reference="Su et al. 2023, Genome Biology 24:291",
            encodes=True,
        ),
        Peer(
            "spaceflow",
            package="spaceflow",
            module="SpaceFlow.SpaceFlow",
            latent="50 dimensions of two graph convolutions",
            smooths="two graph convolutions",
            reference="Ren et al. 2022, Nature Communications 13:4076",
        ),
        Peer(
            "tangram",
            package="tangram-sc",
            module="tangram",
            latent="",
            smooths="",
            reference="Biancalani et al. 2021, Nature Methods 18:1352",
            encodes=True,
        ),
    )
}


@dataclass(frozen=True)
class Status:
    """Whether a peer can be run.

    Attributes
    ----------
    peer
        The peer.
    version
        Of its package, as pinned.
    folder
        Of its environment, whether or not it is there.
    installed
        Whether the environment is complete and has this release's pins.
    """

    peer: Peer
    version: str
    folder: Path
    installed: bool

    @property
    def message(self) -> str:
        """The same in words."""
        if self.peer.unavailable:
            return f"cannot be run: {self.peer.unavailable}"
        if self.installed:
            return f"installed in {self.folder}"
        return f"not installed: isovi-bench peers --install {self.peer.name}"


def status() -> list[Status]:
    """Every peer, by name, and whether it can be run."""
    return [
        Status(peer, _pins(peer).get(peer.package, ""), folder(peer), installed(peer))
        for peer in sorted(PEERS.values(), key=lambda peer: peer.name)
    ]


def named(name: str) -> Peer:
    """The peer of a name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in PEERS:
        raise InputError(
            f"There is no peer {name!r}.",
            f"The peers are {', '.join(sorted(PEERS))}.",
            "Name one of them.",
        )
    return PEERS[name]


def home() -> Path:
    """Where the environments are: ``$ISOVI_PEERS``, or a folder of the user's cache."""
    if FOLDER in os.environ:
        return Path(os.environ[FOLDER]).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache).absolute() / "isovi" / "peers"


def folder(peer: Peer) -> Path:
    """The environment of a peer, whether or not it is there."""
    return home() / peer.name


def python(peer: Peer) -> Path:
    """The interpreter of a peer's environment."""
    return folder(peer) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def installed(peer: Peer) -> bool:
    """Whether a peer's environment is complete and has this release's pins."""
    stamp = folder(peer) / STAMP
    return stamp.is_file() and stamp.read_text() == _digest(peer)


def install(name: str, report: Callable[[str], None] = lambda _: None) -> Path:
    """Make the environment of a peer, in place of an older one.

    Parameters
    ----------
    name
        Of the peer.
    report
        Called with a line for each step.

    Returns
    -------
    The environment's folder.

    Raises
    ------
    InputError
        If there is no such peer, or none that can be installed.
    OutputError
        If a step fails.
    """
    peer = named(name)
    if peer.unavailable:
        raise InputError(f"The peer {name!r} cannot be installed.", f"{peer.unavailable}.", "Leave it out.")
    shutil.rmtree(folder(peer), ignore_errors=True)
    for step, command in _steps(peer):
        report(f"{name}: {step}")
        _run(peer, step, command)
    (folder(peer) / STAMP).write_text(_digest(peer))
    return folder(peer)


def _steps(peer: Peer) -> list[tuple[str, list[str]]]:
    """What makes an environment, in order."""
    pip = [str(python(peer)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    steps = [("new environment", [sys.executable, "-m", "venv", str(folder(peer))])]
    if "torch" in (pins := _pins(peer)):
        # First and alone, so that where PyTorch's own index can be reached it is the wheel without CUDA.
        torch = ["--retries", "1", "--extra-index-url", CPU_WHEELS, f"torch=={pins['torch']}"]
        steps.append(("torch", [*pip, *torch]))
    steps.append(("packages", [*pip, "--no-deps", "--requirement", str(requirements(peer))]))
    steps.append(("import", [str(python(peer)), "-c", f"import {peer.module}"]))
    return steps


def _run(peer: Peer, step: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise OutputError(
            f"The environment of {peer.name} could not be made ({step}): {last_line(done.stderr)}.",
            f"It takes {requirements(peer).name} from the package index that pip is set up with.",
            f"Correct that and run isovi-bench peers --install {peer.name} again.",
        )


def environment(threads: int = 1) -> dict[str, str]:
    """Environment variables of a peer's process: none of ours that would change what Python imports."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    count = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads)
    )
    return {**kept, **count, "PYTHONHASHSEED": "0", "PYTHONNOUSERSITE": "1", "MPLBACKEND": "agg"}


def last_line(text: str) -> str:
    """The last line of a text that holds anything."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def requirements(peer: Peer) -> Path:
    """The pins of a peer's environment."""
    return data("requirements", f"{peer.name}.txt")


def data(*parts: str) -> Path:
    """A file of this package."""
    return Path(str(resources.files("isovi_bench.peers").joinpath(*parts)))


def _digest(peer: Peer) -> str:
    return hashlib.sha256(requirements(peer).read_bytes()).hexdigest()


def _pins(peer: Peer) -> dict[str, str]:
    """Version of each pinned package, by name as it is written there; none if it cannot be installed."""
    lines = [] if peer.unavailable else requirements(peer).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)
