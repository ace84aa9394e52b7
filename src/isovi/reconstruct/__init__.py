"""Solvers that compute coordinates from latent distances. They take arrays and return records."""
