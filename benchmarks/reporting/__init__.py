"""What the benchmarks' reports share: one page with tables, figures and answers to browse."""
