"""The report of a run: a plain record of what there is to say, and the page that is rendered from it."""
