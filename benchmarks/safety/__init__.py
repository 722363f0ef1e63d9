"""Stages, measures and the report of the benchmarks of safety-relevant behaviours."""
