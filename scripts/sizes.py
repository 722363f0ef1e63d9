"""Print the size of each room of a checkout, so that two checkouts can be compared.

    python scripts/sizes.py
    python scripts/sizes.py --root ../older-checkout

A room is a package folder: the lines and modules that lie directly in it, the longest chain of
imports that starts in it, its public names (functions, classes and constants without a leading
underscore), and the arguments that it gives to a command line. Files are parsed, never imported.
"""

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("objectives", "interventions", "concept_das", "benchmarks")
# Folders and files that define commands, by today's names and those of the first release.
COMMANDS = ("concept_das.cli", "concept_das.commands")
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def modules(root: Path) -> dict[str, Path]:
    """The modules of the packages by dotted name; a package is named by its folder."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(tree: ast.Module, known: dict[str, Path]) -> set[str]:
    """The project's modules that a module imports when it is loaded."""
    found = set()
    for node in _at_load(tree.body):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {_nearest(name, known) for name in names}
    return found - {""}


def _nearest(name: str, known: dict[str, Path]) -> str:
    """The module that a dotted name leads to; empty if it is not the project's."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def _at_load(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements outside of functions and of `if TYPE_CHECKING`."""
    for node in body:
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not node.level):
            yield node
        elif isinstance(node, (ast.If, ast.Try)):
            if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
                yield from _at_load(node.body)
            yield from _at_load(node.orelse)


def public_names(tree: ast.Module) -> int:
    """Functions, classes and constants at the top of a module, without a leading underscore."""
    names = set()
    for node in tree.body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return sum(not name.startswith("_") for name in names)


def arguments(name: str, tree: ast.Module) -> int:
    """Fields of option groups (classes named *Options or *Config) and parameters of commands."""
    count = 0
    is_command = name.endswith("__main__") or name.startswith(COMMANDS)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Options", "Config")):
            count += sum(isinstance(field, ast.AnnAssign) for field in node.body)
        elif is_command and isinstance(node, FUNCTION) and not node.name.startswith("_"):
            given = [*node.args.args, *node.args.kwonlyargs]
            shown = ast.get_docstring(node) or ""
            count += sum(f"{one.arg}:" in shown for one in given)
    return count


def sizes(root: Path) -> list[tuple[str, int, int, int, int, int]]:
    """Rows of the table: room, lines, modules, levels, public names, arguments."""
    known = modules(root)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in known.items()}
    edges = {name: imports_of(tree, known) - {name} for name, tree in trees.items()}
    under_way: set[str] = set()

    @cache
    def level(name: str) -> int:
        if name in under_way:  # a circle
            return 0
        under_way.add(name)
        found = 1 + max(map(level, edges[name]), default=0)
        under_way.discard(name)
        return found

    rooms: dict[str, list[str]] = defaultdict(list)
    for name, path in known.items():
        rooms[path.parent.relative_to(root).as_posix()].append(name)
    return [
        (
            room,
            sum(len(known[name].read_bytes().splitlines()) for name in names),
            len(names),
            max(map(level, names)),
            sum(public_names(trees[name]) for name in names),
            sum(arguments(name, trees[name]) for name in names),
        )
        for room, names in sorted(rooms.items())
    ]


def main() -> None:
    """Print the table of one checkout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    root = parser.parse_args().root
    rows = sizes(root)
    if not rows:
        sys.exit(f"{root} holds none of the packages {', '.join(PACKAGES)}; name a checkout")
    total = ("total", *map(sum, zip(*(row[1:] for row in rows), strict=True)))
    levels = max(row[3] for row in rows)
    head = ("room", "lines", "modules", "levels", "names", "arguments")
    for row in (head, *rows, (*total[:3], levels, *total[4:])):
        print(f"{row[0]:<28}" + "".join(f"{value:>10}" for value in row[1:]))


if __name__ == "__main__":
    main()
