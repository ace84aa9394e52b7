"""``python -m isovi_bench.cli``."""

from __future__ import annotations

from isovi_bench.cli import main

if __name__ == "__main__":
    main()
