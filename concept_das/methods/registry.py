"""The methods by name, those of installed packages included."""

import importlib.metadata

from concept_das.errors import InputError
from concept_das.methods.additive import BiPO, Lang, RePS
from concept_das.methods.base import Method, TrainedMethod
from concept_das.methods.diffmean import DiffMean
from concept_das.methods.interchange import CDAS, DAS, PDAS, KLStudentTeacher, KLTeacherStudent
from concept_das.methods.learned_factors import CDASLearned
from concept_das.methods.lora import LoRA
from concept_das.methods.loreft import CDASLoReFT, LoReFT
from concept_das.methods.prompt import Prompting
from concept_das.methods.prosv import PrOSVLang, PrOSVSimPO
from concept_das.methods.psr import APSR

# The group of entry points by which an installed package brings methods of its own.
ENTRY_POINTS = "concept_das.methods"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        CDAS(),
        KLTeacherStudent(),
        KLStudentTeacher(),
        DAS(),
        PDAS(),
        DiffMean(),
        Lang(),
        BiPO(),
        RePS(),
        LoReFT(),
        CDASLoReFT(),
        LoRA(),
        Prompting(),
        # In the order in which they came: a method's colour follows from its place.
        CDASLearned(),
        PrOSVLang(),
        PrOSVSimPO(),
        APSR(),
    )
}


def register(method: Method) -> None:
    """Make a method of your own known by its name, to everything in this process.

    A package does the same for every process, by an entry point in the group
    `concept_das.methods` that names the `Method` subclass.

    Raises:
        InputError: if the name is taken by another class.
    """
    known = METHODS.get(method.name)
    if known is not None and type(known) is not type(method):
        raise InputError(f"there is a method {method.name!r} already; choose another name")
    METHODS[method.name] = method


def all_methods() -> dict[str, Method]:
    """Every method, those of installed packages included.

    Raises:
        InputError: if a package's method cannot be loaded.
    """
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.name not in METHODS:
            try:
                register(entry.load()())
            except (ImportError, AttributeError, TypeError) as error:
                raise InputError(
                    f"the method {entry.name!r} cannot be loaded from {entry.value} ({error}); fix "
                    "or uninstall the package that brings it"
                ) from error
    return METHODS


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: naming the known ones.
    """
    if name not in METHODS and name not in all_methods():
        raise InputError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def trained_method(name: str) -> TrainedMethod:
    """The method of that name, which learns by gradient.

    Raises:
        InputError: if it does not.
    """
    method = find_method(name)
    if not isinstance(method, TrainedMethod):
        raise InputError(f"{name} is not trained; call train_vector, which fits it")
    return method
