"""Print what is installed for this project as pip constraints.

    .venv/bin/python .ci/freeze.py > constraints.txt

Only the dependencies of `concept-das[test]` are listed, whatever else the environment holds. A
release that does not run on Python 3.10 is pinned from 3.11 on, so that 3.10 takes an older one.
"""

from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = "concept-das[test]"

# Pinned exactly by the package that needs it: torch its CUDA libraries, wandb cwevals.
PINNED_ELSEWHERE = ("nvidia-", "cuda-", "triton", "cwevals")


def dependencies(root: str) -> dict[str, Distribution]:
    """The installed distributions that a requirement needs, directly or not, by name."""
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    waiting = [Requirement(root)]
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        name = canonicalize_name(wanted.name)
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # needed on another platform
        for line in found[name].requires or []:
            needed = Requirement(line)
            extras = wanted.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    return found


def pin(package: Distribution) -> str:
    """One line of the constraints file."""
    line = f"{canonicalize_name(package.name)}=={Version(package.version).public}"
    supported = SpecifierSet(package.metadata.get("Requires-Python", ""))
    # 3.10.999: a bound such as >=3.10.5 does not leave 3.10 out.
    return line if "3.10.999" in supported else f'{line} ; python_version >= "3.11"'


if __name__ == "__main__":
    packages = dependencies(ROOT)
    packages.pop(canonicalize_name(Requirement(ROOT).name))
    for name in sorted(packages):
        if not name.startswith(PINNED_ELSEWHERE):
            print(pin(packages[name]))
