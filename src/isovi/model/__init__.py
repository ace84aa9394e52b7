"""Models: the objective on distances, over any scvi-tools module."""
