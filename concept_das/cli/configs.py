"""Yaml files and recipes on the command line, and the method whose hyper-parameters they change."""

import os
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from concept_das.errors import InputError
from concept_das.methods.recipes import read_recipe, recipe_names


def underscored(argument: str) -> str:
    """`--batch-size=8` and `--batch_size=8` are the same option."""
    if not argument.startswith("--"):
        return argument
    option, separator, value = argument.partition("=")
    return "--" + option[2:].replace("-", "_") + separator + value


def gathered(arguments: Sequence[str]) -> list[str]:
    """Put the vectors of `play` and `serve` behind one `--vector`, however they were given.

    What follows `--` are flags of vLLM: `serve --vector A --vector B -- --port 9000` becomes
    `serve --vllm="--port 9000" --vector A B`.
    """
    if list(arguments[:1]) not in (["play"], ["serve"]):
        return list(arguments)
    end = arguments.index("--") if "--" in arguments and arguments[0] == "serve" else None
    words: list[str] = []
    vectors: list[str] = []
    taking = False
    for word in arguments[:end]:
        option, separator, value = word.partition("=")
        if option == "--vector":
            taking = True
            vectors += [value] if separator else []
        elif taking and not word.startswith("--"):
            vectors.append(word)
        else:
            taking = False
            words.append(word)
    if end is not None:
        words.append(f"--vllm={shlex.join(arguments[end + 1 :])}")
    return [*words, "--vector", *vectors] if vectors else words


def arranged(arguments: Sequence[str]) -> list[str]:
    """The command, its configs, and the rest: an option beside a config wins wherever it stands.

    Spells out `--config=FILE`, `--method=NAME` and their shortened forms, as two words each.
    """
    words: list[str] = []
    for argument in map(underscored, arguments):
        option, *value = argument.split("=", 1)
        if len(option) > 4 and "--config".startswith(option):
            words += ["--config", *value]
        elif len(option) > 4 and "--method".startswith(option):
            words += ["--method", *value]
        else:
            words.append(argument)
    configs: list[str] = []
    while "--config" in words[:-1]:
        at = words.index("--config")
        configs += words[at : at + 2]
        del words[at : at + 2]
    first = len(command_of(words).split())
    return [*words[:first], *configs, *words[first:]]


def command_of(arguments: Sequence[str]) -> str:
    """The command that is asked for, with its second word; not always one that there is."""
    return " ".join(arguments[: 2 if arguments[:1] == ["data"] else 1])


def _is_recipe(config: str) -> bool:
    return config in recipe_names() and not Path(config).is_file()


def with_recipes(arguments: Sequence[str], method: str) -> list[str]:
    """`--config NAME` of a recipe becomes the options that it has for the method, as yaml."""
    changed = list(arguments)
    for i, (option, value) in enumerate(pairwise(arguments)):
        if option == "--config" and _is_recipe(value):
            changed[i + 1] = dumped(read_recipe(value).options(method))
    return changed


def read_config(config: str) -> dict[str, Any]:
    """The options of a yaml file, or of yaml text in its place.

    Raises:
        InputError: if there is no such file, or it does not hold options.
    """
    is_text = any(sign in config for sign in "{:\n")
    if not is_text or os.path.isfile(config):
        if not os.path.isfile(config):
            raise InputError(
                f"there is no file {config}; give a yaml file, or one of the recipes "
                f"{', '.join(recipe_names())}"
            )
        content = Path(config).read_bytes()
    else:
        content = config.encode()
    try:
        options = get_loader("yaml")(content.decode())
    except (yaml.YAMLError, ValueError, TypeError) as error:  # the last of a lone question mark
        reason = " ".join(str(error).split())
        raise InputError(f"{config} cannot be read as yaml: {reason}") from error
    if not isinstance(options, dict):
        raise InputError(f"{config} holds no options; write one a line, NAME: VALUE")
    return options


def method_of(arguments: Sequence[str]) -> str:
    """The method that is asked for on the command line, or else in a yaml file."""
    chosen = "cdas"
    for option, value in pairwise(arranged(arguments)):  # the configs come first
        if option == "--method":
            chosen = value
        elif option == "--config" and not _is_recipe(value):
            chosen = str(read_config(value).get("method", chosen))
    return chosen


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """A text, in quotes where the command line would read something else in its place.

    It knows more numbers than yaml's own writer, and other line ends become spaces.
    """
    try:
        plain = isinstance(get_loader("yaml")(text), str) and not set("\x85\u2028\u2029") & set(
            text
        )
    except Exception:  # of many kinds: it is no yaml
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


class _Dumper(yaml.SafeDumper):
    """Writes what the command line reads again: `1e5` of a text in quotes."""


_Dumper.add_representer(str, _quoted)


def dumped(options: dict[str, Any]) -> str:
    """Options as yaml that reads the same again."""
    return yaml.dump(
        options, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )
