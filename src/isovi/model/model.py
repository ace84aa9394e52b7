"""Distance-preserving models over any scvi-tools variational autoencoder."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from contextlib import nullcontext
from os import PathLike
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from scvi.model import SCVI
from scvi.model.base import VAEMixin
from scvi.module.base import BaseModuleClass, PyroBaseModuleClass

from isovi._repr import ReprMixin, Rows
from isovi.data import check
from isovi.data.fields import (
    COORDINATES,
    SECTION,
    pair_weights,
    registered_spots,
    spatial_fields,
    units_of,
)
from isovi.data.fingerprint import keeps_record, records_cells
from isovi.data.loading.disk import DiskLoader, DiskSplitter, counts_on_disk
from isovi.data.loading.inclusion import InclusionProbability
from isovi.data.loading.resident import resident
from isovi.data.loading.splitter import PatchSplitter, ShardSplitter
from isovi.data.query import GenesDiffer, aligned, forget, with_genes
from isovi.data.readers.spatialdata import place_table
from isovi.errors import InputError, NotAvailableError
from isovi.geometry.distortion import euclidean
from isovi.geometry.pairs import PairSet, tissue_distance
from isovi.graph import AllPairs, PairKind, PairWeights, require_pairs
from isovi.model.checkpoint import restoring
from isovi.model.datamodule import DatamoduleObjective, check_pairs
from isovi.model.distributed import (
    Processes,
    as_in_one_process,
    is_distributed,
    stop_together,
)
from isovi.model.gaussian import GaussianSCVI
from isovi.model.hooks import (
    ChoosesLoader,
    TakesOtherData,
    Training,
    builds,
    files_read_by,
    manager_of,
    module_of,
    quiet_training,
    training_by,
    training_of,
    under_name_of_backbone,
)
from isovi.model.module import DistancePreservingModule, check_thinning, distance_preserving
from isovi.model.objective import Constraint, Distortion, Objective, Part, Penalty
from isovi.model.saving import SavesAsData, loads_query_data, read_files, reads_reference
from isovi.model.speed import FusedAdam, logging_by_epoch
from isovi.model.training import BestEpoch, CollapseWatch, DualAscent, PairBinding, n_epochs, outcome

logger = logging.getLogger(__name__)

THINNING = (0.3, 1.0)
SCALE_PAIRS = 200_000  # pairs over which λ is fitted after training


class DistancePreservingMixin(SavesAsData, ChoosesLoader, TakesOtherData, ReprMixin):
    """What :func:`~isovi.preserve_distances` adds to a scvi-tools model class.

    Parameters
    ----------
    adata
        AnnData or MuData set up with :meth:`setup_anndata`.
    registry
        As for the backbone: of a datamodule, or when loading without data. Without both ``adata`` and
        ``registry``, where the backbone allows it, the network is made by :meth:`train`, which then needs a
        ``datamodule``.
    distortion
        Objective for latent distances: :class:`~isovi.Constraint` (default),
        :class:`~isovi.Penalty`, or ``None`` for the plain backbone.
    pairs
        Pairs whose distances count; see :mod:`isovi.graph`.
    **kwargs
        All that the backbone takes.

    Raises
    ------
    InputError
        If counts are needed and the data holds other values.
    """

    network_defaults: ClassVar[dict[str, Any]] = {}
    training_defaults: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        adata: Any = None,
        registry: dict[str, Any] | None = None,
        *,
        distortion: Distortion | None = Constraint(),  # noqa: B008  # frozen, and the documented default
        pairs: PairKind = AllPairs(),  # noqa: B008  # likewise
        **kwargs: Any,
    ) -> None:
        _require_data(adata)
        _check_distortion(distortion)
        if distortion is not None:  # kept in init_params_, so that a saved model knows its network
            kwargs = {**self.network_defaults, **kwargs}
        if adata is not None and self.reads_counts(**kwargs):
            _require_counts(manager_of(type(self), adata))
        backbone_init: Callable[..., None] = super().__init__
        takes_registry = "registry" in inspect.signature(backbone_init).parameters
        without_data = adata is None and registry is None
        with under_name_of_backbone(self) if without_data else nullcontext():
            backbone_init(adata, **kwargs, **({"registry": registry} if takes_registry else {}))
        self.distortion, self.pairs = distortion, pairs
        objective = self._new_objective()
        if self.module is not None:  # else it is made in training
            _require_own_network(type(self), self.module)
            self.module.objective = objective
        asked = {"distortion": distortion, "pairs": pairs}
        self.init_params_ = {"non_kwargs": asked, "kwargs": {"kwargs": kwargs}}  # read by load

    @classmethod
    def reads_counts(cls, **_: Any) -> bool:
        """Whether a model made with these arguments needs raw counts, which are then checked."""
        return False

    def _new_objective(self) -> Objective | None:
        if self.distortion is None:
            return None
        n_sections = getattr(self, "summary_stats", {}).get(f"n_{SECTION}")
        if n_sections is None and self.distortion.per_section:
            raise InputError(
                f"{self.distortion!r} was given without the sections of the data.",
                "One λ for each section needs their number, which setup_anndata registers.",
                "Give the AnnData or its registry, or use per_section=False.",
            )
        return Objective(self.distortion, n_sections or 1)

    @classmethod
    def setup_anndata(
        cls,
        adata: Any,
        *args: Any,
        spatial_key: str = "spatial",
        section_key: str | None = None,
        check_counts: bool = True,
        **kwargs: Any,
    ) -> None:
        """Register the data, with positions and sections besides what the backbone reads.

        Parameters
        ----------
        adata
            AnnData or MuData with expression, raw counts unless the model's likelihood takes others, and
            positions.
        spatial_key
            Key in ``adata.obsm`` of the positions, shape ``(cell, 2)`` or ``(cell, 3)``, in any unit, the
            same for all cells of a section.
        section_key
            Key in ``adata.obs`` of the tissue section; pairs are formed within sections only.
        check_counts
            Whether models look at every count when they are made. Set it to ``False`` only for data that was
            checked before: what is not a finite whole number then spoils the fit unseen.
        **kwargs
            All that the backbone's ``setup_anndata`` takes.

        Raises
        ------
        InputError
            If positions or sections are missing or cannot be used.
        """
        _require_data(adata)
        source = kwargs.get("source_registry")
        genes = _genes_of(source)
        if genes is not None and isinstance(adata, AnnData) and not adata.var_names.equals(genes):
            check.genes_in_common(adata.var_names, genes)
            raise GenesDiffer(adata, genes)
        fields = spatial_fields(spatial_key, section_key, source)
        super().setup_anndata(adata, *args, **kwargs)
        manager = _manager_after_setup(cls, adata)
        known = manager.data_registry  # some backbones number the cells themselves
        manager.register_new_fields([field for field in fields if field.registry_key not in known])
        manager.update_setup_method_args({"spatial_key": spatial_key, "section_key": section_key})
        manager.counts_are_checked = not check_counts  # the model looks at them otherwise

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
            If there is no such table or coordinate system, or ``obsm[spatial_key]`` holds other positions.

        Warns
        -----
        IsoviWarning
            If the table annotates several elements and no ``section_key`` tells them apart.
        """
        adata = place_table(sdata, table_name, coordinate_system, spatial_key, section_key)
        cls.setup_anndata(adata, spatial_key=spatial_key, section_key=section_key, **kwargs)
        return adata

    @classmethod
    def load(
        cls,
        dir_path: str | PathLike[str],
        adata: Any = None,
        *args: Any,
        trust: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a saved model, as the backbone does; genes of ``adata`` may be in any order.

        Parameters
        ----------
        dir_path, adata, *args, **kwargs
            As for the backbone. If the genes of ``adata`` are not in the model's order, the model gets a copy
            in which they are.
        trust
            Load a pickle that may execute code; only for a folder of your own, or of someone whom you trust.

        Raises
        ------
        InputError
            If ``adata`` has other genes than the model.
        """
        loading: Callable[..., Any] = super().load
        return with_genes(
            lambda data: loading(dir_path, data, *args, trust=trust, **kwargs), adata, same=True
        )

    def other_data(self, adata: AnnData) -> AnnData:
        """Data with the model's genes in its order: the data itself, or a copy that the next one replaces.

        Raises
        ------
        InputError
            If no gene is shared, or the model needs counts and finds other values.
        """
        registry = getattr(self, "registry_", None)
        genes = _genes_of(registry)
        if registry is None or genes is None:
            return adata
        matched = aligned(adata, genes)
        if matched is not adata:
            if (before := vars(self).pop("_matched", None)) is not None:
                forget(self, before)
            self._matched = matched
        asked: Any = self.init_params_["kwargs"]
        if self.reads_counts(**asked["kwargs"]):
            layer = registry["setup_args"].get("layer")
            if REGISTRY_KEYS.MINIFY_TYPE_KEY not in registry["field_registries"]:
                check.counts(matched, layer, allow_empty_genes=True, allow_empty_spots=True)
        return matched

    @records_cells
    @files_read_by(read_files)  # by scvi-tools' SaveCheckpoint
    @quiet_training()
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
            With a ``datamodule`` distances are kept if its minibatches hold the fields that
            :meth:`setup_anndata` registers; else the model is trained as its backbone, with a warning.
            Several ``devices`` or ``num_nodes`` train in as many processes; ``batch_size`` is then that
            of one process. An :class:`~isovi.EpochCheckpoint` among ``callbacks`` makes it possible to
            resume after an interruption.

        Notes
        -----
        With ``distortion=None`` and no thinning this is the backbone's own training.
        """
        has_data = getattr(self, "adata", None) is not None  # else a datamodule brings it
        objective = self._new_objective() if self.module is None else self.module.objective
        if self.module is not None:
            self.module.thinning = self._thinning(thinning)
        plain = objective is None and (thinning is None or thinning == "auto")
        if plain and not (has_data and counts_on_disk(self.adata_manager)):
            with restoring(kwargs.get("ckpt_path")) as watch:
                super().train(
                    max_epochs, callbacks=[*(kwargs.pop("callbacks", None) or []), *watch], **kwargs
                )
            return
        if has_data and kwargs.get("train_size") != 1:  # else there may be no validation to stop by
            kwargs = {**self.training_defaults, **kwargs}
        shared = is_distributed(kwargs)
        callbacks = self._callbacks(objective, kwargs, shared)
        if not has_data:
            callbacks = [self._on_datamodule(objective, thinning), *callbacks]
        if shared:
            kwargs = stop_together(kwargs, any(isinstance(one, BestEpoch) for one in callbacks))
        trained = n_epochs(self.history_) if self.is_trained_ else 0
        plan, splitter = training_of(type(self))
        try:
            if has_data:
                splitter = self._splitter(splitter, kwargs, shared)
            training = training_by(self, Training(logging_by_epoch(plan), splitter))
            given = kwargs.pop("callbacks", None) or []
            with (
                training,
                as_in_one_process(kwargs) if shared else nullcontext(),
                restoring(kwargs.get("ckpt_path")) as watch,
            ):
                super().train(max_epochs, callbacks=[*given, *callbacks, *watch], **kwargs)
            if has_data:
                self._fit_scale()
        finally:
            self._unbind_pairs()
        if self.history_:  # that of several processes is with the first
            self.training_outcome_ = outcome(callbacks, self.distortion, self.history_, trained)
            self.training_summary_ = str(self.training_outcome_)
            logger.info(self.training_summary_)

    def summary(self) -> Rows:
        """What is shown of the model, by name: data, network, what is asked and what was reached."""
        return {**_data_of(self), **_network_of(self), **_distances_of(self), **_training_of(self)}

    def get_latent_representation(self, *args: Any, part: Part = "whole", **kwargs: Any) -> Any:
        """Latent representation of cells, or one of its parts.

        Parameters
        ----------
        part
            ``"whole"``; ``"place"``, the dimensions whose distances are to follow the tissue; or
            ``"identity"``, the other ones. Both are the whole with ``n_place=0`` or ``distortion=None``.
        *args, **kwargs
            All that the backbone's ``get_latent_representation`` takes.

        Returns
        -------
        As the backbone's, shape ``(cell, latent)``; mean and variance with ``return_dist=True``.
        """
        encoding: Callable[..., Any] = super().get_latent_representation
        found = encoding(*args, **kwargs)
        distortion = self.distortion or Penalty(0.0)
        if isinstance(found, tuple):
            return tuple(distortion.part(values, part) for values in found)
        return distortion.part(found, part)

    @property
    def distance_scale(self) -> float | dict[str, float]:
        """λ, latent length per coordinate unit, shared or for each section.

        The coordinate unit is the section's median nearest-neighbour distance,
        :attr:`coordinate_units`. It is NaN for a section that was not trained on.
        """
        objective = self.module.objective
        if objective is None:
            raise NotAvailableError(
                "This model was made with distortion=None.",
                "The plain backbone has no distance scale.",
                "Make the model with a Constraint or a Penalty; Penalty(0) measures without pressing.",
            )
        scale = objective.scale.cpu().tolist()
        if not objective.distortion.per_section:
            return scale[0]
        names = self._registered(SECTION)["categorical_mapping"]
        return dict(zip(map(str, names), scale, strict=True))

    @property
    def coordinate_units(self) -> dict[str, float]:
        """Length of one coordinate unit of each section, in the units of ``obsm[spatial_key]``."""
        return units_of(self._registered(COORDINATES))

    def _registered(self, key: str) -> dict[str, Any]:
        """What ``setup_anndata`` registered of a field."""
        fields = getattr(self, "registry_", {}).get("field_registries", {})
        if key not in fields:
            raise NotAvailableError(
                "This model was made without AnnData and without its registry.",
                "Sections and coordinate units are registered by setup_anndata.",
                "Make the model of an AnnData, or pass registry= of one that was set up.",
            )
        return fields[key]["state_registry"]

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

    def _on_datamodule(
        self, objective: Objective | None, thinning: tuple[float, float] | str | None
    ) -> DatamoduleObjective:
        """A callback for training without AnnData; thinning is automatic only along with distances."""
        if objective is not None:
            check_pairs(self.pairs)
        if thinning != "auto":
            check_thinning(thinning)
        return DatamoduleObjective(
            objective, self, lambda placed: self._thinning(thinning if placed or thinning != "auto" else None)
        )

    def _callbacks(
        self, objective: Objective | None, kwargs: dict[str, Any], shared: bool = False
    ) -> list[Callback]:
        """The callbacks of a training, in the order in which Lightning runs each of their hooks.

        At the end the best epoch is restored first, then shared by all processes, then judged. After each
        step the processes average their state before dual ascent reads it.
        """
        callbacks: list[Callback] = [FusedAdam()]
        if objective is not None and getattr(self, "adata", None) is not None:
            callbacks.append(PairBinding(self._bound_weights, objective))
        if kwargs.get("early_stopping", self._stops_early_by_default()):
            monitor = kwargs.get("early_stopping_monitor", "elbo_validation")
            callbacks.append(BestEpoch(monitor, kwargs.get("early_stopping_mode", "min")))
        if shared:
            callbacks.append(Processes(objective))
        if objective is not None:
            callbacks += [DualAscent(objective), CollapseWatch(objective)]
        return callbacks

    def _stops_early_by_default(self) -> bool:
        """Whether the backbone stops early by default, as TOTALVI and PEAKVI do."""
        backbone_train: Callable[..., None] = super().train
        stopping = inspect.signature(backbone_train).parameters.get("early_stopping")
        return stopping is not None and stopping.default is True

    def _splitter(self, own: type, kwargs: dict[str, Any], shared: bool) -> type:
        """The class that splits the data and draws minibatches, once pairs are bound to the data.

        It is the backbone's with its data kept at hand, unless counts are on disk, near pairs have to meet,
        or several processes have to share each cell's one turn, for which scvi-tools would repeat cells.
        """
        objective, given = self.module.objective, dict(kwargs.get("datasplitter_kwargs") or {})
        local, replaceable = objective is not None and self.pairs.local, issubclass(own, DataSplitter)
        on_disk = counts_on_disk(self.adata_manager)
        self._require_loaders(on_disk, local, replaceable)
        if objective is not None and (on_disk or local):
            objective.inclusion = given["inclusion"] = InclusionProbability(self.adata.n_obs)
            kwargs["datasplitter_kwargs"] = given
        if shared and (replaceable or on_disk):
            kwargs["use_distributed_sampler"] = False  # ours is one: Lightning must not wrap it
        if on_disk:
            kwargs["datasplitter_kwargs"] = given | ({} if objective is None else {"patches": local})
            return DiskSplitter
        own_or_shared = ShardSplitter if shared and replaceable else own
        return resident(PatchSplitter if local else own_or_shared)

    def _bound_weights(self, heldout: np.ndarray, trained: np.ndarray) -> PairWeights:
        """Weights of the pairs of training and validation spots: positions of others are not looked at."""
        spots = registered_spots(self.adata_manager).without_positions(heldout)
        weights = pair_weights(self.adata, spots, self.pairs)
        require_pairs(self.pairs, weights, spots, trained)
        return weights

    def _require_loaders(self, on_disk: bool, local: bool, replaceable: bool) -> None:
        if local and not on_disk and not replaceable:
            raise InputError(
                f"pairs={self.pairs!r} was asked for with {type(self).__name__}.",
                "Near pairs need minibatches of patches, and this backbone draws its own.",
                "Use pairs=AllPairs().",
            )

    def loader_of(self, adata: AnnData | MuData) -> type | None:
        """Class of the loader for some data after training; ``None`` for scvi-tools' own."""
        return DiskLoader if counts_on_disk(self.get_anndata_manager(adata, required=True)) else None

    def _unbind_pairs(self) -> None:
        """The weights belong to the training data; elsewhere all pairs count alike."""
        objective = None if self.module is None else self.module.objective
        if objective is not None:
            objective.weights = objective.inclusion = None

    @torch.no_grad()
    def _fit_scale(self) -> None:
        """Fit λ to the trained latent, without dropout or thinning, over pairs of training spots."""
        objective = self.module.objective
        if objective is None or objective.weights is None or objective.distortion.scale == "learned":
            return
        spots = registered_spots(self.adata_manager)
        usable = torch.zeros(len(spots), dtype=torch.bool)
        usable[torch.as_tensor(np.asarray(self.train_indices, dtype=np.int64))] = True
        usable &= torch.as_tensor(spots.placed)
        source, target, weight = objective.weights.draw(SCALE_PAIRS, np.random.default_rng(0))
        counts = (weight > 0) & usable[source] & usable[target]
        source, target, weight = source[counts], target[counts], weight[counts]
        if not len(source):
            return
        cells, ends = torch.unique(torch.stack([source, target]), return_inverse=True)
        latent = torch.as_tensor(self.get_latent_representation(indices=cells.numpy(), part="place"))
        coordinates = torch.as_tensor(spots.coordinates, dtype=torch.float32)
        pairs = PairSet(source, target, tissue_distance(coordinates, source, target), weight)
        objective.fit_scale(euclidean(latent, *ends), pairs, torch.as_tensor(spots.section)[source])


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
    module = module_of(backbone)
    if reason := _why_unsupported(backbone, module):
        raise InputError(
            f"{getattr(backbone, '__name__', repr(backbone))} was given to preserve_distances.",
            reason,
            "Give a model class such as scvi.model.SCVI, SCANVI, TOTALVI or PEAKVI.",
        )
    name = f"Iso{backbone.__name__}"
    added = {"__module__": __name__, "__doc__": backbone.__doc__}
    if hasattr(backbone, "from_scvi_model"):
        added["from_scvi_model"] = keeps_record(backbone.from_scvi_model.__func__)
    for prepare in ("prepare_query_anndata", "prepare_query_mudata"):
        if hasattr(backbone, prepare):
            added[prepare] = reads_reference(getattr(backbone, prepare))
    if hasattr(backbone, "load_query_data"):
        added["load_query_data"] = loads_query_data(backbone.load_query_data.__func__)
    return builds(distance_preserving(module))(type(name, (DistancePreservingMixin, backbone), added))


def _why_unsupported(backbone: Any, module: Any) -> str:
    """Why distances cannot be kept in the latent of a model class, or nothing if they can."""
    if module is None:
        return "Its network is not built by a class of its own that could be replaced."
    if issubclass(module, PyroBaseModuleClass):
        return "It is a model of Pyro, whose loss Pyro computes: a term for distances cannot be added to it."
    if not issubclass(module, BaseModuleClass):
        return "Its network is not one of torch."
    if not issubclass(backbone, VAEMixin):
        return "It has no latent representation of each cell, as scvi-tools' VAEMixin gives it."
    return ""


def _manager_after_setup(model: type, adata: Any) -> AnnDataManager:
    """The manager that a backbone's ``setup_anndata`` made; some have the method and make none."""
    try:
        return manager_of(model, adata)
    except ValueError as error:
        raise InputError(
            f"The backbone of {model.__name__} did not register the AnnData.",
            "Positions are registered with an AnnData, and this backbone takes MuData only.",
            "Give preserve_distances a model class such as scvi.model.SCVI, SCANVI, TOTALVI or PEAKVI.",
        ) from error


def _require_own_network(model: type, module: Any) -> None:
    """Refuse a backbone that makes its network by another class than it says."""
    if not isinstance(module, DistancePreservingModule):
        raise InputError(
            f"{model.__name__} makes a network of {type(module).__name__}.",
            "Distances can be kept where a model builds its network by its own class, and this one does not.",
            "Give preserve_distances a model class such as scvi.model.SCVI, SCANVI, TOTALVI or PEAKVI.",
        )


def _require_data(adata: Any) -> None:
    """Say what to do with a SpatialData or a file, of which no model is made."""
    if adata is None or isinstance(adata, AnnData | MuData):
        return
    if hasattr(adata, "tables"):  # SpatialData, without importing it
        raise InputError(
            "A SpatialData was given.",
            "A model is made of one of its tables, once positions are registered.",
            "Call table = IsoSCVI.setup_spatialdata(sdata), and make the model of what it returns: "
            "IsoSCVI(table).",
        )
    raise InputError(
        f"{type(adata).__name__} was given.",
        "A model is made of an AnnData that was set up.",
        "Read a file with isovi.data.io.read(path), and call setup_anndata first.",
    )


def _genes_of(registry: dict[str, Any] | None) -> pd.Index | None:
    """Names of the genes in a registry, if they are there."""
    fields = {} if registry is None else registry["field_registries"]
    names = fields.get(REGISTRY_KEYS.X_KEY, {}).get("state_registry", {}).get("column_names")
    return None if names is None else pd.Index(np.asarray(names).astype(str))


def _data_of(model: Any) -> Rows:
    stats = getattr(model, "summary_stats", None)
    if stats is None:
        return {"data": "of a datamodule"}
    sections, batches = stats.get(f"n_{SECTION}", 1), stats.get("n_batch", 1)
    return {
        "data": f"{stats.n_cells} cells x {stats.n_vars} features",
        "sections, batches": f"{sections}, {batches}",
    }


def _network_of(model: Any) -> Rows:
    """Numbers and words among the arguments of the network, as given or by the backbone's default."""
    classes = [cls for cls in type(model).__mro__ if not issubclass(cls, DistancePreservingMixin)]
    inits = [inspect.signature(vars(cls)["__init__"]) for cls in reversed(classes) if "__init__" in vars(cls)]
    arguments = {name: one.default for init in inits for name, one in init.parameters.items()}
    arguments |= model.init_params_["kwargs"]["kwargs"]
    plain = {name: value for name, value in arguments.items() if type(value) in (bool, int, float, str)}
    return {"network": ", ".join(f"{name}: {value}" for name, value in plain.items())}


def _distances_of(model: Any) -> Rows:
    if model.distortion is None:
        return {"distortion": "none: the plain backbone"}
    n_place = model.distortion.place.stop
    of = "the whole latent" if n_place is None else f"the first {n_place} latent dimensions"
    rows = {
        "distortion": f"{model.distortion}, d_Z by {model.distortion.distance} of {of}",
        "pairs": model.pairs,
    }
    return rows | ({"λ": model.distance_scale} if model.is_trained else {})


def _training_of(model: Any) -> Rows:
    if not model.is_trained:
        return {"trained": "no"}
    return {"trained": getattr(model, "training_summary_", "yes")}


def _require_counts(manager: AnnDataManager) -> None:
    """Check what was registered as counts, unless minified data has none."""
    registry, checked = manager.data_registry, getattr(manager, "counts_are_checked", False)
    if REGISTRY_KEYS.MINIFY_TYPE_KEY not in registry and not checked:
        check.counts(manager.adata, registry[REGISTRY_KEYS.X_KEY].attr_key, allow_empty_genes=True)


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
        AnnData set up with ``setup_anndata``: raw counts and positions. With ``gene_likelihood="normal"``
        expression may be any numbers, for example log-normalised.
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

    network_defaults: ClassVar[dict[str, Any]] = {"n_layers": 2, "dropout_rate": 0.2}
    training_defaults: ClassVar[dict[str, Any]] = {"early_stopping": True}

    @classmethod
    def reads_counts(cls, **kwargs: Any) -> bool:
        """Whether a model made with these arguments needs raw counts; a Gaussian one takes any values."""
        return kwargs.get("gene_likelihood") != "normal"


class IsoVAE(preserve_distances(GaussianSCVI)):  # likewise
    """The paper's VAE: Gaussian likelihood on log-normalised expression, with distances kept.

    Takes raw counts and what :class:`IsoSCVI` takes, but for what a Gaussian leaves no choice of: the
    likelihood, the library size, and a dispersion of each cell. ``dispersion`` is ``"gene"`` (default),
    ``"gene-batch"`` or ``"gene-label"``: what a gene has one variance for.
    """

    network_defaults: ClassVar[dict[str, Any]] = {"n_layers": 2, "dropout_rate": 0.2}
    training_defaults: ClassVar[dict[str, Any]] = {"early_stopping": True}

    @classmethod
    def reads_counts(cls, **_: Any) -> bool:
        """Raw counts are needed always: they are normalised as they are loaded."""
        return True
