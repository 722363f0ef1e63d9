"""Measure a vector without a judge."""

from concept_das.clash import check_objectives

check_objectives()
