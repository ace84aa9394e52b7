"""One adapter per method: from a task to a latent."""
