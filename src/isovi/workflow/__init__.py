"""From a file to a finished run: prepare, fit, evaluate, write."""
