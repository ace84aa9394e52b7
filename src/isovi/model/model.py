"""Distance-preserving models over any scvi-tools variational autoencoder."""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from rich.text import Text
from scvi.dataloaders import DataSplitter
from scvi.model import SCVI

from isovi._repr import Rows, Told
from isovi.data import check
from isovi.data.fields import COORDINATES, MINIFIED, SECTION, spatial_fields, tissue_of
from isovi.data.loading.disk import DiskLoader, DiskSplitter, counts_on_disk
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.resident import resident
from isovi.data.loading.splitter import PatchSplitter, ShardSplitter
from isovi.data.readers.spatialdata import place_table
from isovi.errors import InputError
from isovi.geometry.distortion import euclidean
from isovi.geometry.pairs import PairSet, tissue_distance
from isovi.graph import AllPairs, PairKind
from isovi.model.distributed import (
    Processes,
    is_distributed,
    log_in_memory,
    own_stopping,
    reporting_plan,
    stop_together,
)
from isovi.model.gaussian import GaussianSCVI
from isovi.model.module import check_thinning, distance_preserving
from isovi.model.objective import Constraint, Distortion, Objective
from isovi.model.speed import FusedAdam, logging_by_epoch
from isovi.model.training import BestEpoch, CollapseWatch, DualAscent, outcome

logger = logging.getLogger(__name__)

THINNING = (0.3, 1.0)
SCALE_PAIRS = 200_000  # pairs over which λ is fitted after training


class DistancePreservingMixin(Told):
    """What :func:`~isovi.preserve_distances` adds to a scvi-tools model class.

    Parameters
    ----------
    adata
        AnnData set up with :meth:`setup_anndata`.
    registry
        As for the backbone, when loading without data.
    distortion
        What is asked of latent distances: :class:`~isovi.Constraint` (default),
        :class:`~isovi.Penalty`, or ``None`` for the plain backbone.
    pairs
        Pairs whose distances count; see :mod:`isovi.graph`.
    **kwargs
        All that the backbone takes.
    """

    reads_counts: ClassVar[bool] = False
    network_defaults: ClassVar[dict[str, Any]] = {}
    training_defaults: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        distortion: Distortion | None = Constraint(),  # noqa: B008  # frozen, and the documented default
        pairs: PairKind = AllPairs(),  # noqa: B008  # likewise
        **kwargs: Any,
    ) -> None:
        _check_distortion(distortion)
        if distortion is not None:  # kept in init_params_, so that a saved model knows its network
            kwargs = {**self.network_defaults, **kwargs}
        backbone_init: Callable[..., None] = super().__init__
        takes_registry = "registry" in inspect.signature(backbone_init).parameters
        backbone_init(adata, **kwargs, **({"registry": registry} if takes_registry else {}))
        self.distortion, self.pairs = distortion, pairs
        if distortion is not None:
            self.module.objective = Objective(distortion, self.summary_stats[f"n_{SECTION}"])
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *args: Any,
        spatial_key: str = "spatial",
        section_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the data, with positions and sections besides what the backbone reads.

        Parameters
        ----------
        adata
            Data with raw counts and positions.
        spatial_key
            Key in ``adata.obsm`` of the positions, shape ``(cell, 2)`` or ``(cell, 3)``, in any unit, the
            same for all cells of a section.
        section_key
            Key in ``adata.obs`` of the tissue section; pairs are formed within sections only.
        **kwargs
            All that the backbone's ``setup_anndata`` takes.

        Raises
        ------
        InputError
            If positions, sections or counts are missing or cannot be used.
        """
        if cls.reads_counts and MINIFIED not in adata.uns:
            check.counts(adata, args[0] if args else kwargs.get("layer"), allow_empty_genes=True)
        source = kwargs.get("source_registry")
        if cls.reads_counts and source is not None:
            known = source["field_registries"]["X"]["state_registry"]["column_names"]
            check.genes_in_common(adata.var_names, known)
        fields = spatial_fields(spatial_key, section_key, source)
        super().setup_anndata(adata, *args, **kwargs)
        manager = cls._get_most_recent_anndata_manager(adata, required=True)
        manager.register_new_fields(fields)
        manager.update_setup_method_args({"spatial_key": spatial_key, "section_key": section_key})

    @classmethod
    def setup_spatialdata(
        cls,
        sdata: Any,
        table_name: str | None = None,
        coordinate_system: str | None = None,
        *,
        spatial_key: str = "spatial",
        section_key: str | None = None,
        **kwargs: Any,
    ) -> AnnData:
        """Register a table of SpatialData, with the centroids of its elements as positions.

        The table stays in ``sdata`` and is changed as :meth:`setup_anndata` changes an AnnData, and by
        ``obsm[spatial_key]``; nothing else of ``sdata`` is, and no counts are copied. What is written to the
        returned table is therefore in ``sdata``.

        Parameters
        ----------
        sdata
            :class:`spatialdata.SpatialData` with a table of raw counts that annotates shapes, labels or
            points.
        table_name
            Table; needed where there are several and none is called ``"table"``.
        coordinate_system
            Coordinate system of the positions; ``"global"`` by default, or the only one that all its
            elements have.
        spatial_key
            Key in the table's ``obsm`` under which the centroids are stored, shape ``(cell, 2)`` or
            ``(cell, 3)``, in units of the coordinate system.
        section_key
            Key in the table's ``obs`` of the tissue section. The table's ``region_key`` tells elements apart.
        **kwargs
            All that the backbone's ``setup_anndata`` takes.

        Returns
        -------
        The table, to make a model of: ``model = IsoSCVI(IsoSCVI.setup_spatialdata(sdata))``.

        Raises
        ------
        InputError
            If there is no such table or coordinate system, ``obsm[spatial_key]`` holds other positions, or
            counts cannot be used.

        Warns
        -----
        IsoviWarning
            If the table annotates several elements and no ``section_key`` tells them apart.
        """
        adata = place_table(sdata, table_name, coordinate_system, spatial_key, section_key)
        cls.setup_anndata(adata, spatial_key=spatial_key, section_key=section_key, **kwargs)
        return adata

    def train(
        self,
        max_epochs: int | None = None,
        *,
        thinning: tuple[float, float] | str | None = "auto",
        **kwargs: Any,
    ) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            As for the backbone.
        thinning
            Range of the share of counts that the encoder sees in training, for backbones that encode
            counts as scVI does; ``None`` shows it all. ``"auto"`` is (0.3, 1) where that is possible.
        **kwargs
            All that the backbone's ``train`` takes. With early stopping the best epoch is restored.
            Several ``devices`` or ``num_nodes`` train in as many processes; ``batch_size`` is then that
            of one process. An :class:`~isovi.EpochCheckpoint` among ``callbacks`` makes it possible to
            go on after an interruption.

        Notes
        -----
        With ``distortion=None`` and no thinning this is the backbone's own training.
        """
        self.module.thinning = self._thinning(thinning)
        if (
            self.distortion is None
            and self.module.thinning is None
            and not counts_on_disk(self.adata_manager)
        ):
            super().train(max_epochs, **kwargs)
            return
        if kwargs.get("train_size") != 1:  # else there is no validation to stop by
            kwargs = {**self.training_defaults, **kwargs}
        shared = is_distributed(kwargs)
        callbacks = self._callbacks(kwargs, shared)
        if shared:
            kwargs = stop_together(kwargs, any(isinstance(one, BestEpoch) for one in callbacks))
            log_in_memory(kwargs)
        trained = len(self.history_["elbo_train"]) if self.is_trained_ else 0
        try:
            self._speed_up()
            self._bind_pairs(kwargs)
            if shared:
                self._share_minibatches(kwargs)
            with own_stopping() if shared else nullcontext():
                super().train(
                    max_epochs, callbacks=[*(kwargs.pop("callbacks", None) or []), *callbacks], **kwargs
                )
        finally:
            self._unbind_pairs()
        self._fit_scale()
        if self.history_:  # that of several processes is with the first
            self.training_outcome_ = outcome(callbacks, self.distortion, self.history_, trained)
            self.training_summary_ = str(self.training_outcome_)
            logger.info(self.training_summary_)

    def summary(self) -> Rows:
        """What is shown of the model, by name: data, network, what is asked and what was reached."""
        return {**_data_of(self), **_network_of(self), **_distances_of(self), **_training_of(self)}

    @property
    def distance_scale(self) -> float | dict[str, float]:
        """λ, latent length per coordinate unit, shared or for each section.

        The coordinate unit is the section's median nearest-neighbour distance,
        :attr:`coordinate_units`.
        """
        objective = self.module.objective
        if objective is None:
            raise InputError(
                "This model was made with distortion=None.",
                "The plain backbone has no distance scale.",
                "Make the model with a Constraint or a Penalty; Penalty(0) measures without pressing.",
            )
        scale = objective.scale.cpu().tolist()
        if not objective.distortion.per_section:
            return scale[0]
        names = self.adata_manager.get_state_registry(SECTION).categorical_mapping
        return dict(zip(map(str, names), scale, strict=True))

    @property
    def coordinate_units(self) -> dict[str, float]:
        """Length of one coordinate unit of each section, in the units of ``obsm[spatial_key]``."""
        return dict(self.adata_manager.get_state_registry(COORDINATES)["units"])

    def _thinning(self, asked: tuple[float, float] | str | None) -> tuple[float, float] | None:
        if asked == "auto":
            return THINNING if self.distortion is not None and self.module.can_thin else None
        given = check_thinning(asked)
        if given is not None and not self.module.can_thin:
            raise InputError(
                f"thinning={asked!r} was asked for with {type(self).__name__}.",
                "Only backbones that encode counts with an observed library size can be thinned.",
                "Leave thinning at its default.",
            )
        return given

    def _callbacks(self, kwargs: dict[str, Any], shared: bool = False) -> list[Callback]:
        """The callbacks of a training, in the order in which Lightning runs each of their hooks.

        At the end the best epoch is restored first, then shared by all processes, then judged. After each
        step the processes average their state before dual ascent reads it.
        """
        callbacks: list[Callback] = [FusedAdam()]
        objective = self.module.objective
        if kwargs.get("early_stopping", self._stops_early_by_default()):
            monitor = kwargs.get("early_stopping_monitor", "elbo_validation")
            callbacks.append(BestEpoch(monitor, kwargs.get("early_stopping_mode", "min")))
        if shared:
            callbacks.append(Processes(objective))
        if objective is not None:
            callbacks += [DualAscent(objective), CollapseWatch(objective)]
        return callbacks

    def _stops_early_by_default(self) -> bool:
        """Whether the backbone stops early unless told otherwise, as TOTALVI and PEAKVI do."""
        backbone_train: Callable[..., None] = super().train
        stopping = inspect.signature(backbone_train).parameters.get("early_stopping")
        return stopping is not None and stopping.default is True

    def _speed_up(self) -> None:
        """Have this training keep its data at hand and log by the epoch."""
        self._training_plan_cls = logging_by_epoch(type(self)._training_plan_cls)
        self._data_splitter_cls = resident(type(self)._data_splitter_cls)

    def _bind_pairs(self, kwargs: dict[str, Any]) -> None:
        objective = self.module.objective
        if objective is not None:
            objective.weights = self.pairs.fit(tissue_of(self.adata_manager, self.pairs))
        if counts_on_disk(self.adata_manager):
            self._read_from_disk(objective, kwargs)
        elif objective is not None and self.pairs.local:
            self._draw_patches(objective, kwargs)

    def _read_from_disk(self, objective: Objective | None, kwargs: dict[str, Any]) -> None:
        given = dict(kwargs.get("datasplitter_kwargs") or {})
        if objective is not None:
            objective.inclusion = given["inclusion"] = InclusionProbability(self.adata.n_obs)
            given["patches"] = self.pairs.local
        self._data_splitter_cls = DiskSplitter
        kwargs["datasplitter_kwargs"] = given

    def _make_data_loader(self, adata: AnnData, *args: Any, **kwargs: Any) -> Any:
        if counts_on_disk(self.get_anndata_manager(adata, required=True)):
            kwargs["data_loader_class"] = DiskLoader
        return super()._make_data_loader(adata, *args, **kwargs)

    def _draw_patches(self, objective: Objective, kwargs: dict[str, Any]) -> None:
        if not issubclass(type(self)._data_splitter_cls, DataSplitter):
            raise InputError(
                f"pairs={self.pairs} was asked for with {type(self).__name__}.",
                "Near pairs need minibatches of patches, and this backbone draws its own.",
                "Use pairs=AllPairs().",
            )
        objective.inclusion = InclusionProbability(self.adata.n_obs)
        self._data_splitter_cls = resident(PatchSplitter)
        given = kwargs.get("datasplitter_kwargs") or {}
        kwargs["datasplitter_kwargs"] = {**given, "inclusion": objective.inclusion}

    def _share_minibatches(self, kwargs: dict[str, Any]) -> None:
        """Give each process its own part of every cell's one turn; else scvi-tools deals them out."""
        if issubclass(self._data_splitter_cls, DiskSplitter):
            raise InputError(
                "Counts on disk are to be shared by several processes.",
                "Each process reads the whole store in its own order, so cells would be seen more than once.",
                "Train in one process, or hold the counts in memory.",
            )
        self._training_plan_cls = reporting_plan(self._training_plan_cls)
        if issubclass(self._data_splitter_cls, DataSplitter):
            kwargs["use_distributed_sampler"] = False  # ours is one: Lightning must not wrap it
            if not issubclass(self._data_splitter_cls, PatchSplitter):
                self._data_splitter_cls = resident(ShardSplitter)

    def _unbind_pairs(self) -> None:
        """The weights belong to the training data; elsewhere all pairs count alike."""
        objective = self.module.objective
        if objective is not None:
            objective.weights = objective.inclusion = objective.agree = None
        for changed in ("_data_splitter_cls", "_training_plan_cls"):
            self.__dict__.pop(changed, None)

    @torch.no_grad()
    def _fit_scale(self) -> None:
        """Fit λ to the trained latent, without dropout or thinning, over pairs of training spots."""
        objective = self.module.objective
        if objective is None or objective.distortion.scale == "learned":
            return
        manager, weights = self.adata_manager, self.pairs.fit(tissue_of(self.adata_manager, self.pairs))
        coordinates = torch.as_tensor(np.asarray(manager.get_from_registry(COORDINATES)))
        section = torch.as_tensor(np.asarray(manager.get_from_registry(SECTION)).ravel()).long()
        usable = torch.isfinite(coordinates).all(1)
        usable &= torch.as_tensor(np.isin(np.arange(len(usable)), self.train_indices))
        source, target, weight = weights.draw(SCALE_PAIRS, np.random.default_rng(0))
        counts = (weight > 0) & usable[source] & usable[target]
        source, target, weight = source[counts], target[counts], weight[counts]
        if not len(source):
            return
        cells, place = torch.unique(torch.stack([source, target]), return_inverse=True)
        latent = torch.as_tensor(self.get_latent_representation(indices=cells.numpy()))
        pairs = PairSet(source, target, tissue_distance(coordinates, source, target), weight)
        objective.fit_scale(euclidean(latent, *place), pairs, section[source])


@functools.cache
def preserve_distances(backbone: type) -> type:
    """Make a scvi-tools model class distance-preserving.

    Parameters
    ----------
    backbone
        A model class whose module infers Gaussian posteriors ``qz``: SCVI, SCANVI, TOTALVI, PEAKVI,
        LinearSCVI, AUTOZI, ...

    Returns
    -------
    A subclass named ``Iso<backbone>`` that takes ``distortion`` and ``pairs`` besides the backbone's
    arguments; see :class:`~isovi.model.model.DistancePreservingMixin`.

    Examples
    --------
    >>> import scvi
    >>> preserve_distances(scvi.model.LinearSCVI).__name__
    'IsoLinearSCVI'
    """
    if getattr(backbone, "_module_cls", None) is None:
        raise InputError(
            f"{backbone!r} was given.",
            "preserve_distances needs a scvi-tools model class with a torch module.",
            "Give for example scvi.model.SCANVI.",
        )
    name = f"Iso{backbone.__name__}"
    added = {"_module_cls": distance_preserving(backbone._module_cls), "__module__": __name__}
    return type(name, (DistancePreservingMixin, backbone), {**added, "__doc__": backbone.__doc__})


def _data_of(model: Any) -> Rows:
    stats = model.summary_stats
    sections, batches = stats[f"n_{SECTION}"], stats.get("n_batch", 1)
    return {
        "data": f"{stats.n_cells} cells x {stats.n_vars} features",
        "sections, batches": f"{sections}, {batches}",
    }


def _network_of(model: Any) -> Rows:
    """The backbone's own words for its network, without its markup."""
    told = Text.from_markup(getattr(model, "_model_summary_string", "")).plain.strip().rstrip(".")
    return {"network": told.partition(": ")[2] or told}


def _distances_of(model: Any) -> Rows:
    if model.distortion is None:
        return {"distortion": "none: the plain backbone"}
    rows = {"distortion": f"{model.distortion}, d_Z by {model.distortion.distance}", "pairs": model.pairs}
    return rows | ({"λ": model.distance_scale} if model.is_trained else {})


def _training_of(model: Any) -> Rows:
    if not model.is_trained:
        return {"trained": "no"}
    return {"trained": getattr(model, "training_summary_", "yes")}


def _check_distortion(distortion: Any) -> None:
    if distortion is not None and not isinstance(distortion, Distortion):
        raise InputError(
            f"distortion={distortion!r} was given.",
            "It is a Constraint, a Penalty, or None.",
            "Give for example Constraint(0.2).",
        )


class IsoSCVI(preserve_distances(SCVI)):  # a class made at run time
    """scVI whose latent distances follow tissue distances.

    Parameters
    ----------
    adata
        AnnData set up with ``setup_anndata``: raw counts and positions.
    distortion
        :class:`~isovi.Constraint` (default), :class:`~isovi.Penalty`, or ``None`` for plain scVI.
    pairs
        Pairs whose distances count; all pairs of a section by default.
    **kwargs
        All that :class:`scvi.model.SCVI` takes. Where not given, and unless ``distortion=None``,
        ``n_layers=2`` and ``dropout_rate=0.2``.

    Examples
    --------
    >>> from isovi.simulate import simulate
    >>> adata = simulate("layers", n_obs=60, n_genes=20, seed=0)
    >>> IsoSCVI.setup_anndata(adata)
    >>> model = IsoSCVI(adata, n_latent=4)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> model.get_latent_representation().shape
    (60, 4)
    """

    reads_counts = True
    network_defaults: ClassVar[dict[str, Any]] = {"n_layers": 2, "dropout_rate": 0.2}
    training_defaults: ClassVar[dict[str, Any]] = {"early_stopping": True}


class IsoVAE(preserve_distances(GaussianSCVI)):  # likewise
    """The paper's VAE: Gaussian likelihood on log-normalised expression, with distances kept.

    Takes raw counts and what :class:`IsoSCVI` takes, but for the likelihood.
    """

    reads_counts = True
    network_defaults: ClassVar[dict[str, Any]] = {"n_layers": 2, "dropout_rate": 0.2}
    training_defaults: ClassVar[dict[str, Any]] = {"early_stopping": True}

    def summary(self) -> Rows:
        """What is shown of the model, by name; scVI's likelihood is not this one's."""
        rows = dict(super().summary())
        rows["network"] = re.sub(r"gene_likelihood: \w+", "likelihood: normal", rows["network"])
        return rows
