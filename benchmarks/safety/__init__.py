"""What the benchmarks of safety-relevant behaviours share: stages, measures and the report."""
