"""Methods x data sets x seeds: jobs, results, tables and figures of a comparison."""
