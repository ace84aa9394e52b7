"""AnnData in and out: validation, files, and the fields that scvi-tools reads."""
