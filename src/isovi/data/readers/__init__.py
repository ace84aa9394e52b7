"""One file for each kind of input: what is read of it, and in which unit its positions are."""
