"""What is a gene: features that an instrument adds to its panel, or a table to its counts, are not."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd

GENE_TYPE = "gene expression"  # as 10x Genomics calls it, in lower case
TYPE_COLUMNS = frozenset(
    {"feature_types", "feature_type", "codeclass", "code_class", "genome", "probe_type"}
    | {"codeword_category", "control_type", "probe_class"}
)
FLAG_COLUMNS = frozenset(  # true for a control
    {"control", "is_control", "control_probe", "is_control_probe", "negative_control", "is_negative_control"}
    | {"neg_control", "is_neg_control", "blank", "is_blank", "negprb", "is_negprb", "neg_probe"}
)
KEPT_COLUMNS = frozenset(  # false for one left out: of Visium's probe sets, and Xenium's transcripts
    {"filtered_probes", "included", "is_gene"}
)
_NUMBER = r"[-_. ]?\d+"  # Seurat writes - for _, R's make.names writes a dot
_TAIL = r"[-_. ].+"  # what follows a prefix: a number, a codeword, a gene
VENDORS = {  # names in full; letter case does not matter
    "Xenium": rf"(neg(ative)?control(probe|codeword)|(unassigned|deprecated)codeword){_TAIL}"
    rf"|(intergenic[-_. ]?region|antisense|blank[-_. ]?codeword){_TAIL}",
    "MERSCOPE": rf"(blank|notarget){_NUMBER}",
    "CosMx": rf"(neg(ative|prb|probe)|falsecode|system[-_. ]?control|negadd)({_NUMBER})?"
    rf"|neg(ative)?[-_. ]?probe({_TAIL})?|rts\d{{7}}",
    "controls": rf"(neg(ative)?|pos(itive)?)[-_. ]?(control|ctrl)({_TAIL}|\d+)?|control{_NUMBER}",
    "Visium probes": rf"deprecated{_TAIL}",
    "spike-ins": r"ercc-\d{5}",
    "columns of a CosMx table": r"fov|cell_id",
}
_VENDORS = {vendor: re.compile(names, re.IGNORECASE) for vendor, names in VENDORS.items()}
_TYPES = re.compile(r"control|codeword|blank|negative|unassigned|deprecated|falsecode|spike", re.IGNORECASE)
_TRUE, _FALSE = frozenset({"true", "1", "1.0", "yes"}), frozenset({"false", "0", "0.0", "no"})


def no_genes(var: pd.DataFrame) -> np.ndarray:
    """Which features are no genes: control probes, codewords and blanks, and features of other kinds.

    Parameters
    ----------
    var
        Annotation of the features, by name; ``var`` of an AnnData. Read are the names, ``gene_ids``,
        ``feature_types`` (and what other vendors call it), and columns that flag controls.

    Returns
    -------
    Mask of shape ``(gene,)``.
    """
    found = _by_name(var.index) | _by_type(var) | _by_flag(var)
    ids = next((var[name] for name in var if str(name).lower() in ("gene_ids", "gene_id")), None)
    if ids is not None:
        found |= _by_name(pd.Index(ids.astype(str)))
    return found


def listed(names: pd.Index, *, limit: int = 3) -> str:
    """Names of features that are left out, in short: the first of each vendor's."""
    first = Counter(re.split(r"[-_. ]?\d", str(name), maxsplit=1)[0] or str(name) for name in names)
    words = [f"{stem} ({n})" if n > 1 else stem for stem, n in first.most_common(limit)]
    return ", ".join(words) + (", ..." if len(first) > limit else "")


def _by_name(names: pd.Index) -> np.ndarray:
    return np.array([any(known.fullmatch(str(name)) for known in _VENDORS.values()) for name in names])


def _by_type(var: pd.DataFrame) -> np.ndarray:
    """By the type of the feature: where some are gene expression, all others are something else."""
    found = np.zeros(len(var), dtype=bool)
    for column in var:
        if str(column).lower() not in TYPE_COLUMNS:
            continue
        types = var[column].astype(str)
        found |= types.str.contains(_TYPES).to_numpy(dtype=bool)
        genes = types.str.lower() == GENE_TYPE
        if genes.any():
            found |= ~genes.to_numpy(dtype=bool)
    return found


def _by_flag(var: pd.DataFrame) -> np.ndarray:
    """By columns that are true for a control, or false for a probe that is not used."""
    found = np.zeros(len(var), dtype=bool)
    for column in var:
        flags = var[column].astype(str).str.lower()
        known = set(flags) <= _TRUE | _FALSE
        if known and str(column).lower() in FLAG_COLUMNS:
            found |= flags.isin(_TRUE).to_numpy()
        elif known and str(column).lower() in KEPT_COLUMNS:
            found |= flags.isin(_FALSE).to_numpy()
    return found
