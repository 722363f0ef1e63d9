"""The command line: `concept-das train --help`.

A command is a plain function in this package. Its signature and docstring are its flags and its
help, and the schema of the yaml file that it can be run from. The modules of the commands load
torch and everything else that is slow inside the function, so that help comes at once.
"""

import inspect
import logging
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from concept_das.cli import (
    compare,
    data,
    demo,
    evaluate,
    export,
    methods,
    steer,
    sweep,
    train,
)
from concept_das.cli import inspect as inspect_command
from concept_das.errors import InputError, TrainingError
from concept_das.methods.recipes import (
    known_methods,
    method_defaults,
    read_recipe,
    recipe_names,
)
from concept_das.methods.settings import TrainingConfig
from concept_das.runs.files import write_atomically

COMMANDS: dict[str, Callable[..., None]] = {
    "data make": data.data_make,
    "data axbench": data.data_axbench,
    "data check": data.data_check,
    "train": train.train,
    "evaluate": evaluate.evaluate_vector,
    "steer": steer.steer_prompts,
    "export": export.export,
    "inspect": inspect_command.inspect_row,
    "methods": methods.methods,
    "compare": compare.compare,
    "sweep": sweep.sweep,
    "demo": demo.demo,
}

# Their `out` is a folder, and gets the resolved options as config.yaml.
RUNS = ("train", "compare", "sweep", "demo")

# Options of a group that a command has lists for, of its own.
REPLACED: dict[Callable[..., None], Set[str]] = {sweep.sweep: {"layers", "rank", "seed"}}


def _groups(command: Callable[..., None]) -> dict[str, type]:
    """The parameters of a command that are option groups (dataclasses)."""
    hints = typing.get_type_hints(command)
    return {name: hint for name, hint in hints.items() if is_dataclass(hint)}  # type: ignore[misc]


def _parser_of(command: Callable[..., None], without: Set[str] = frozenset()) -> ArgumentParser:
    """Flags from the signature; the fields of option groups stand beside the others.

    Args:
        without: fields of the groups that are no flags.
    """
    parser = ArgumentParser(description=_summary(command))
    parser.add_argument(
        "--config",
        action="config",
        help="yaml file with any of these options"
        + (", e.g. a run's own, or a recipe's name" if command in COMMANDS.values() else ""),
    )
    groups = _groups(command)
    parser.add_function_arguments(command, skip=set(groups), as_group=False)
    for group in groups.values():
        skipped = without & {field.name for field in fields(group)}
        parser.add_class_arguments(group, as_group=True, skip=set(skipped))
    for action in parser._actions:
        if isinstance(action.default, bool):  # `--compare` alone means `--compare=true`
            action.nargs, action.const = "?", True
        # Help shows hyphens; what is typed is read with underscores, see `_underscored`.
        action.option_strings = [option.replace("_", "-") for option in action.option_strings]
    return parser


def build_parser(method: str = "cdas", only: str | None = None) -> ArgumentParser:
    """Build the parser, one subcommand a function.

    Args:
        method: whose hyper-parameters are the defaults of `train` and `sweep`.
        only: the command whose flags are needed; the others are listed without theirs. All if None.
    """
    parser = ArgumentParser(prog="concept-das", description="Concept DAS model steering.")
    subcommands = parser.add_subcommands(required=True, dest="command")
    rows = ArgumentParser(description="Make or check contrastive quadruples.")
    subcommands.add_subcommand("data", rows, help=rows.description)
    data_commands = rows.add_subcommands(required=True, dest="data_command")
    for name, command in COMMANDS.items():
        group, word = (data_commands, name[5:]) if name.startswith("data ") else (subcommands, name)
        replaced = REPLACED.get(command, frozenset())
        if only not in (None, name):
            sub = ArgumentParser(description=_summary(command))
        else:
            sub = _parser_of(command, replaced)
            if TrainingConfig in _groups(command).values():
                own = {"method": method, **_defaults_of(method)}
                sub.set_defaults({key: own[key] for key in own.keys() - replaced})
        group.add_subcommand(word, sub, help=sub.description)
    return parser


def _summary(command: Callable[..., None]) -> str:
    return (inspect.getdoc(command) or "").split("\n")[0]


def _defaults_of(method: str) -> Mapping[str, Any]:
    """A method's hyper-parameters that differ from those of `TrainingConfig`, which are CDAS's."""
    if method in known_methods():  # no need to load the methods
        return method_defaults(method)
    from concept_das.methods import find_method

    return find_method(method).defaults


def _call(command: Callable[..., None], options: Namespace, without: Set[str]) -> None:
    """Put the flags back into their option groups and run."""
    values = {key: value for key, value in options.items() if key != "config"}
    arguments: dict[str, Any] = {}
    for parameter, group in _groups(command).items():
        names = {field.name for field in fields(group)} - without
        arguments[parameter] = group(**{name: values.pop(name) for name in names})
    command(**values, **arguments)


def _underscored(argument: str) -> str:
    """`--batch-size=8` and `--batch_size=8` are the same option."""
    if not argument.startswith("--"):
        return argument
    option, separator, value = argument.partition("=")
    return "--" + option[2:].replace("-", "_") + separator + value


def _with_recipes(arguments: Sequence[str], method: str) -> list[str]:
    """`--config NAME` of a recipe becomes the options that it has for the method, as yaml."""
    changed = list(arguments)
    for i, (option, value) in enumerate(pairwise(arguments)):
        if option == "--config" and not Path(value).exists() and value in recipe_names():
            changed[i + 1] = yaml.safe_dump(read_recipe(value).options(method))
    return changed


def _command_of(arguments: Sequence[str]) -> str:
    """The command that is asked for, with its second word; not always one that there is."""
    return " ".join(arguments[: 2 if arguments[:1] == ["data"] else 1])


def _method_of(arguments: Sequence[str]) -> str:
    """The method that is asked for on the command line, or else in its yaml file."""
    chosen = "cdas"
    for option, value in pairwise([*arguments, ""]):
        if option == "--config" and Path(value).is_file():
            content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            if isinstance(content, dict):
                chosen = str(content.get("method", chosen))
    for option, value in pairwise([*arguments, ""]):
        name, separator, joined = option.partition("=")
        if name == "--method":
            chosen = joined if separator else value
    return chosen


def _set_up() -> None:
    """Set up logging and tokenizers as every command wants them."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "transformers", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _guarded(prog: str, run: Callable[[], None]) -> int:
    """Run something; 0 on success, 2 on unusable input, 130 on an interrupt."""
    try:
        run()
    except (InputError, TrainingError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def run_command(
    command: Callable[..., None],
    argv: Sequence[str] | None,
    prog: str,
    without: Set[str] = frozenset(),
) -> int:
    """Run a function as a command of its own, its signature and docstring being the flags.

    Args:
        command: a typed function; parameters that are dataclasses are groups of flags.
        argv: the process's own arguments if None.
        prog: its name in messages.
        without: fields of the groups that it has no use for, and that are no flags.

    Returns:
        As `main`.
    """
    _set_up()
    parser = _parser_of(command, without)
    parser.prog = prog
    given = sys.argv[1:] if argv is None else argv
    options = parser.parse_args([_underscored(argument) for argument in given])
    return _guarded(prog, lambda: _call(command, options, without))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 2 on unusable input, 130 on an interrupt."""
    _set_up()
    given = [_underscored(one) for one in (sys.argv[1:] if argv is None else argv)]
    try:
        method = _method_of(given)
        arguments = _with_recipes(given, method)
        parser = build_parser(method, only=_command_of(arguments))
    except InputError as error:
        print(f"concept-das: {error}", file=sys.stderr)
        return 2
    options = parser.parse_args(arguments)
    name, chosen = options.command, options[options.command]
    if name == "data":
        name = f"data {chosen.data_command}"
        chosen = chosen[chosen.data_command]
    out = chosen.get("out")

    def run() -> None:
        command = COMMANDS[name]
        replaced = REPLACED.get(command, frozenset())
        if isinstance(out, Path) and name in RUNS:
            config = _parser_of(command, replaced).dump(chosen)
            write_atomically(out / "config.yaml", config.encode())
        _call(command, chosen, replaced)

    return _guarded("concept-das", run)
