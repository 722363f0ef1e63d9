"""Pyvene interventions of Concept DAS: swap a coordinate (training), clamp it (inference)."""

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
