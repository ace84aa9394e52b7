"""Geometry of pairs. Takes arrays, returns records, and depends on neither AnnData nor scvi-tools."""
