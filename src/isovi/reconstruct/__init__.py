"""From latent distances to coordinates: solvers only, arrays in, records out."""
