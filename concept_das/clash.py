"""Notice another package in the place of `objectives`: PyPI has one of the same name."""

from importlib import import_module

from concept_das.errors import InputError


def check_objectives() -> None:
    """Make sure that `objectives` is the one that came with this package.

    Raises:
        InputError: if it is another one, or is gone.
    """
    try:
        found = import_module("objectives")
    except Exception as error:  # whatever the other one does
        reason = f"cannot be imported ({error})"
    else:
        if "jensen_shannon" in getattr(found, "__all__", ()):
            return
        place = getattr(found, "__file__", None) or ", ".join(getattr(found, "__path__", ()))
        reason = f"at {place} is another one"
    raise InputError(
        f"concept-das brings a package named objectives, and the one {reason}; uninstall or rename "
        "that one, and install concept-das again (pip uninstall objectives; pip install "
        "--force-reinstall --no-deps concept-das)"
    )
