"""``python -m isovi.cli``."""

from __future__ import annotations

from isovi.cli import main

if __name__ == "__main__":
    main()
