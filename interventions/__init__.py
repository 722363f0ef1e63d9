"""Pyvene interventions.

Concept DAS swaps a coordinate (training) and clamps it (inference); the methods that it is compared
with add a direction or null it out.
"""

import contextlib
import io

with contextlib.redirect_stdout(io.StringIO()):  # pyvene prints which optional package it misses
    import pyvene  # noqa: F401

from interventions.additive import (
    AdditiveIntervention,
    NullOutIntervention,
    add_direction,
    null_out,
)
from interventions.clamp import ClampIntervention
from interventions.interchange import DistributedInterchangeIntervention
from interventions.subspace import coordinates, orthonormal_rows, set_coordinates

__all__ = [
    "AdditiveIntervention",
    "ClampIntervention",
    "DistributedInterchangeIntervention",
    "NullOutIntervention",
    "add_direction",
    "coordinates",
    "null_out",
    "orthonormal_rows",
    "set_coordinates",
]
