"""The methods that can be trained by name; one file each.

Every one of them runs in the same engine, on the same rows, and ends as a `SteeringVector`.
"""

from concept_das.errors import InputError
from concept_das.methods.additive import BiPO, Lang, RePS
from concept_das.methods.base import Method, Term, TrainedMethod
from concept_das.methods.interchange import CDAS, DAS, KLStudentTeacher, KLTeacherStudent
from concept_das.methods.pdas import PDAS

METHODS: dict[str, TrainedMethod] = {
    method.name: method
    for method in (
        CDAS(),
        KLTeacherStudent(),
        KLStudentTeacher(),
        DAS(),
        PDAS(),
        Lang(),
        BiPO(),
        RePS(),
    )
}

__all__ = [
    "METHODS",
    "Method",
    "Term",
    "TrainedMethod",
    "find_method",
]


def find_method(name: str) -> TrainedMethod:
    """The method of that name.

    Raises:
        InputError: naming the known ones.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
