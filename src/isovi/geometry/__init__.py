"""Geometry of pairs: arrays in, records out; knows neither AnnData nor scvi-tools."""
