"""Time and memory of isoVI and of the benchmark: what ``isovi-bench time`` measures."""
