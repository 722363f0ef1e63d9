"""The command line: `concept-das train --help`.

A command is a plain function in this package. Its signature and docstring are its flags and its
help, and the schema of the yaml file that it can be run from. The modules of the commands load
torch and everything else that is slow inside the function, so that help comes at once.
"""

import inspect
import io
import logging
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_dumper

from concept_das.cli import (
    compare,
    data,
    demo,
    evaluate,
    export,
    methods,
    play,
    serve,
    share,
    steer,
    sweep,
    train,
)
from concept_das.cli import inspect as inspect_command
from concept_das.cli.configs import (
    arranged,
    command_of,
    dumped,
    gathered,
    method_of,
    underscored,
    with_recipes,
)
from concept_das.errors import InputError, OutsideError, TrainingError
from concept_das.methods.recipes import known_methods, method_defaults
from concept_das.methods.settings import TrainingConfig
from concept_das.runs.alone import alone_in
from concept_das.runs.files import check_writable, write_atomically

log = logging.getLogger(__name__)

COMMANDS: dict[str, Callable[..., None]] = {
    "data make": data.data_make,
    "data axbench": data.data_axbench,
    "data check": data.data_check,
    "train": train.train,
    "evaluate": evaluate.evaluate_vector,
    "steer": steer.steer_prompts,
    "play": play.play,
    "serve": serve.serve,
    "export": export.export,
    "share": share.share,
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


def _groups(command: Callable[..., Any]) -> dict[str, type]:
    """The parameters of a command that are option groups (dataclasses)."""
    hints = typing.get_type_hints(command)
    return {name: hint for name, hint in hints.items() if is_dataclass(hint)}  # type: ignore[misc]


def _parser_of(command: Callable[..., Any], without: Set[str] = frozenset()) -> ArgumentParser:
    """Flags from the signature; the fields of option groups stand beside the others.

    Args:
        without: fields of the groups that are no flags.
    """
    set_dumper("yaml", dumped)
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
        # What is typed for a text stays as it is: as yaml, "# Be brief" and "null" are nothing.
        hint = getattr(action, "_typehint", None)
        for kind in (str, Path):
            if hint == kind | None:
                vars(action)["_typehint"] = kind
        if hint == list[str]:  # words one after the other, and no yaml
            vars(action)["_typehint"], action.nargs, action.metavar = str, "+", "NAME"
            action.option_strings = [o for o in action.option_strings if not o.endswith("+")]
        if isinstance(action.default, bool):  # `--compare` alone means `--compare=true`
            action.nargs, action.const = "?", True
        # Help shows hyphens; what is typed is read with underscores, see `underscored`.
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


def _summary(command: Callable[..., Any]) -> str:
    return (inspect.getdoc(command) or "").split("\n")[0]


def _defaults_of(method: str) -> Mapping[str, Any]:
    """A method's hyper-parameters that differ from those of `TrainingConfig`, which are CDAS's."""
    if method in known_methods():  # no need to load the methods
        return method_defaults(method)
    from concept_das.methods import find_method

    return find_method(method).defaults


def _call(command: Callable[..., Any], options: Namespace, without: Set[str]) -> Any:
    """Put the flags back into their option groups and run."""
    values = {key: value for key, value in options.items() if key != "config"}
    for value in values.values():
        if isinstance(value, str):
            value.encode()  # raises where what was typed is no text in the terminal's encoding
    arguments: dict[str, Any] = {}
    for parameter, group in _groups(command).items():
        names = {field.name for field in fields(group)} - without
        arguments[parameter] = group(**{name: values.pop(name) for name in names})
    return command(**values, **arguments)


def _set_up() -> None:
    """Set up logging and tokenizers as every command wants them."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "transformers", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not if it is closed
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know every letter
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="strict")


def guarded(prog: str, run: Callable[[], None]) -> int:
    """Run something; 0 on success, 2 on unusable input or disk, 130 on an interrupt."""
    try:
        run()
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk shows here
    except (InputError, TrainingError, OutsideError) as error:
        reason = str(error)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:
        reason = " ".join(str(error).split())
        if error.strerror:
            reason = f"cannot read or write {error.filename or 'a file'}: {error.strerror}"
        reason += "; make that possible or choose another place"
    except UnicodeError as error:
        reason = f"a text is not in the encoding that was expected ({error}); write it as UTF-8"
    else:
        return 0
    log.debug("the error in full", exc_info=True)
    print(f"{prog}: {reason}", file=sys.stderr)
    return 2


def called(
    command: Callable[..., Any], argv: Sequence[str], prog: str, without: Set[str] = frozenset()
) -> Any:
    """Call a function with the flags of a command line, and give what it returns.

    Args:
        command: a typed function; parameters that are dataclasses are groups of flags.
        prog: its name in messages.
        without: fields of the groups that it has no use for, and that are no flags.
    """
    _set_up()
    parser = _parser_of(command, without)
    parser.prog = prog
    options = parser.parse_args([underscored(argument) for argument in argv])
    return _call(command, options, without)


def run_command(
    command: Callable[..., None],
    argv: Sequence[str] | None,
    prog: str,
    without: Set[str] = frozenset(),
) -> int:
    """Run a function as a command of its own, its signature and docstring being the flags.

    Args:
        command, prog, without: see `called`.
        argv: the process's own arguments if None.

    Returns:
        As `main`.
    """
    given = sys.argv[1:] if argv is None else argv
    return guarded(prog, lambda: called(command, given, prog, without))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 2 on unusable input, 130 on an interrupt."""
    _set_up()
    given = sys.argv[1:] if argv is None else argv
    return guarded("concept-das", lambda: _run(given))


def _run(given: Sequence[str]) -> None:
    words = arranged(gathered(given))
    method = method_of(words)
    arguments = with_recipes(words, method)
    options = build_parser(method, only=command_of(arguments)).parse_args(arguments)
    name, chosen = options.command, options[options.command]
    if name == "data":
        name = f"data {chosen.data_command}"
        chosen = chosen[chosen.data_command]
    command = COMMANDS[name]
    replaced = REPLACED.get(command, frozenset())
    if name not in RUNS:
        _call(command, chosen, replaced)
        return
    config = chosen.out / "config.yaml"
    check_writable(config)
    with alone_in(chosen.out), recorded(config, _parser_of(command, replaced).dump(chosen)):
        _call(command, chosen, replaced)


@contextmanager
def recorded(path: Path, config: str) -> Iterator[None]:
    """Keep a run's options in its folder, those of an earlier run until this one has succeeded.

    What is refused leaves the folder as it was.
    """
    earlier, made = path.exists(), not path.parent.exists()
    if not earlier:
        write_atomically(path, config.encode())
    try:
        yield
    except (InputError, OSError):
        if not earlier:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # there may be more in it
                if made:
                    path.parent.rmdir()
        raise
    if earlier:
        write_atomically(path, config.encode())
