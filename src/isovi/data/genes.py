"""What is a gene: features that an instrument adds to its panel, or a table to its counts, are not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from isovi.data.columns import apart, is_no_gene, plain, truth

GENE_TYPE = "gene expression"  # as 10x Genomics calls it, in lower case
TYPE_COLUMNS = frozenset(  # plain names of columns with the type of a feature
    {
        "featuretypes",
        "featuretype",
        "featureclass",
        "codeclass",
        "codetype",
        "codewordcategory",
        "controltype",
    }
    | {
        "probetype",
        "probeclass",
        "probecategory",
        "targettype",
        "genetype",
        "genebiotype",
        "biotype",
        "genome",
    }
    | {"type", "class", "category"}
)
FLAGS = frozenset(  # stems of columns that are true for a control
    {"control", "ctrl", "blank", "negative", "neg", "negcontrol", "negativecontrol", "negctrl", "negprb"}
    | {"systemcontrol", "falsecode", "codeword", "spike", "spikein", "ercc"}
)
KEPT_COLUMNS = frozenset(  # false for one left out: of Visium's probe sets, and Xenium's transcripts
    {"filteredprobes", "included", "isgene", "endogenous", "isendogenous"}
)
NAME_COLUMNS = frozenset(  # with other names of the features
    {"geneids", "geneid", "genename", "genenames", "genesymbol", "genesymbols", "symbol", "geneshortname"}
    | {"featurename", "featureid", "targetname", "ids", "id", "name"}
)
_STEM = re.compile(r"(?:is)?(\w+?)(?:probes?|genes?|features?|s)?")
_NUMBER = r"[-_. ]?\d+([-_.]\d+)?"  # Seurat writes - for _, R's make.names writes a dot; repeats get a number
_TAIL = r"[-_. ].+"  # what follows a prefix: a number, a codeword, a gene
VENDORS = {  # names in full; letter case does not matter
    "Xenium": r"(neg(ative)?[-_. ]?control[-_. ]?(probe|codeword)|(unassigned|deprecated|blank)"
    rf"[-_. ]?codeword|genomic[-_. ]?control)({_TAIL}|\d+)|(intergenic[-_. ]?region|antisense){_TAIL}",
    "MERSCOPE": rf"(blank|notarget|no[-_. ]target)([-_. ]?[a-z])?{_NUMBER}|blank[-_. ]?probe{_NUMBER}",
    "CosMx": rf"(neg(ative|[-_. ]?prb|probe|add)|false[-_. ]?(code|positive)|system[-_. ]?control)"
    rf"({_NUMBER})?|neg(ative)?[-_. ]?probe({_TAIL})?|rts\d{{7}}",
    "nCounter": r"(neg|pos)_[a-h](\(.+\))?",
    "controls": rf"(neg(ative)?|pos(itive)?)[-_. ]?(control|ctrl)({_TAIL}|\d+)?|control{_NUMBER}",
    "Visium probes": rf"deprecated{_TAIL}",
    "spike-ins": r"ercc[-_.]\d{5}|sirv[-_.]?\d+",
    "reads without a gene": r"n_(unmapped|multimapping|nofeature|ambiguous)"
    r"|__(no_feature|ambiguous|too_low_aqual|not_aligned|alignment_not_unique)",
    "columns of a CosMx table": r"cell|slide_id(_numeric)?",
}
_VENDORS = {vendor: re.compile(names, re.IGNORECASE) for vendor, names in VENDORS.items()}
_TYPES = re.compile(  # not "Cell cycle control" or "Negative regulator", classes of genes
    r"^(?:(?:neg|pos)(?:ative|itive)?|ercc|system|genomic|technical)?[-_ ]*(?:control|ctrl)|^neg(?:ative)?$"
    r"|^neg(?:ative)?[-_ ]?(?:prb|probe)|^positive$|codeword|blank|unassigned|deprecated|falsecode|spike",
    re.IGNORECASE,
)


def no_genes(var: pd.DataFrame) -> np.ndarray:
    """Which features are no genes: control probes, codewords and blanks, and features of other kinds.

    Parameters
    ----------
    var
        Annotation of the features, by name; ``var`` of an AnnData. Read are the names, other names
        (``gene_ids``), ``feature_types`` (and what other vendors call it), and columns that flag controls.

    Returns
    -------
    Mask of shape ``(gene,)``.
    """
    columns = apart(filter(is_no_gene, map(str, var.index)))
    found = np.array([str(name) in columns for name in var.index], dtype=bool) | _by_vendor(var.index)
    found |= _by_type(var) | _by_flag(var)
    for column in var:  # names of genes in full are words, of which "T cell receptor" describes no cell
        if plain(column) in NAME_COLUMNS and var[column].dtype.kind not in "biuf":
            found |= _by_vendor(var[column])
    return found


def listed(names: pd.Index, *, limit: int = 3) -> str:
    """Names of features that are left out, in short: the first of each vendor's."""
    first = Counter(re.split(r"[-_. ]?\d", str(name), maxsplit=1)[0] or str(name) for name in names)
    words = [f"{stem} ({n})" if n > 1 else stem for stem, n in first.most_common(limit)]
    return ", ".join(words) + (", ..." if len(first) > limit else "")


def _by_vendor(names: Iterable[object]) -> np.ndarray:
    found = [any(vendor.fullmatch(str(name)) for vendor in _VENDORS.values()) for name in names]
    return np.array(found, dtype=bool)


def _by_type(var: pd.DataFrame) -> np.ndarray:
    """By the type of the feature: where some are gene expression, all others that have a type are not."""
    found = np.zeros(len(var), dtype=bool)
    for column in var:
        if plain(column) not in TYPE_COLUMNS:
            continue
        types = var[column].astype(str)
        found |= types.str.contains(_TYPES).to_numpy(dtype=bool)
        genes = types.str.lower() == GENE_TYPE
        if genes.any():
            found |= ~(genes | var[column].isna()).to_numpy(dtype=bool)
    return found


def _by_flag(var: pd.DataFrame) -> np.ndarray:
    """By columns that are true for a control, or false for a probe that is not used."""
    found = np.zeros(len(var), dtype=bool)
    for column in var:
        name = plain(column)
        stem = _STEM.fullmatch(name)
        is_flag = name in FLAGS or (stem is not None and stem[1] in FLAGS)
        if (is_flag or name in KEPT_COLUMNS) and (flags := truth(var[column])) is not None:
            found |= flags == (0 if name in KEPT_COLUMNS else 1)
    return found
