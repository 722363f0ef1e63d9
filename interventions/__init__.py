"""Pyvene interventions of Concept DAS: swap a coordinate (training), clamp it (inference)."""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):  # pyvene prints which optional package it misses
    import pyvene  # noqa: F401

from interventions.clamp import ClampIntervention
from interventions.interchange import DistributedInterchangeIntervention
from interventions.subspace import coordinates, orthonormal_rows, set_coordinates

__all__ = [
    "ClampIntervention",
    "DistributedInterchangeIntervention",
    "coordinates",
    "orthonormal_rows",
    "set_coordinates",
]
