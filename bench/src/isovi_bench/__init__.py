"""Methods x data sets x seeds: jobs, results, tables and plots of a comparison."""

from __future__ import annotations

__version__ = "0.1.0"
