"""Recipes: the hyper-parameters of every method for a model and task, each with its source.

They are the yaml files in `concept_das/recipes`, the one place where hyper-parameters stand.
`defaults.yaml` has each method's own. Another file names a model, a layer and, under `methods`,
what differs from a method's own; with `base` it takes over another recipe first. `concept-das train
--config NAME` and the benchmarks' presets read the same files. With `chat_template` a recipe names
the file beside it (`NAME.jinja`) that is used in place of the tokenizer's own template.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from concept_das.errors import InputError
from concept_das.methods.settings import TrainingConfig

FOLDER = Path(__file__).parents[1] / "recipes"

_KEYS = {
    *("base", "model", "dtype", "load_in_4bit", "chat_template", "chat_source"),
    *("layer", "layer_source", "methods"),
}

# Of a method: `source` and fields of `TrainingConfig`.
_Entry = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters for a model on a task.

    Attributes:
        name: of the file.
        loading: `model`, `dtype` and `load_in_4bit`, those of them that the recipe has.
        layer: decoder block of the methods that act at one, 0-based.
        layer_source: where the layer is from.
        configs: hyper-parameters by method.
        sources: where they are from, by method.
        chat_template: Jinja text in place of the tokenizer's own template; None for its own.
        chat_source: where that is from.
    """

    name: str
    loading: Mapping[str, Any]
    layer: int
    layer_source: str
    configs: Mapping[str, TrainingConfig]
    sources: Mapping[str, str]
    chat_template: str | None = None
    chat_source: str = ""

    def options(self, method: str) -> dict[str, Any]:
        """The options of `concept-das train` for a method.

        Raises:
            InputError: if the recipe does not have the method.
        """
        if method not in self.configs:
            raise InputError(
                f"the recipe {self.name} has no method {method!r}; choose one of "
                f"{', '.join(self.configs)}"
            )
        config = self.configs[method].record()
        return {
            **self.loading,
            **({"chat_template": self.chat_template} if self.chat_template else {}),
            "layer": self.layer,
            **{name: list(v) if isinstance(v, tuple) else v for name, v in config.items()},
        }


def recipe_names() -> list[str]:
    """The names of all recipes, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "defaults")


def known_methods() -> list[str]:
    """The methods whose own hyper-parameters are known without loading them."""
    return list(_read("defaults"))


def method_defaults(method: str) -> dict[str, Any]:
    """A method's own hyper-parameters, those that differ from CDAS's.

    Empty for a method that `defaults.yaml` does not name.
    """
    own = dict(_read("defaults").get(method, {})) if method != "cdas" else {}
    own.pop("source", None)
    return _tuples(own)


@cache
def read_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        InputError: naming the known ones, or a key that a recipe does not have.
    """
    if name not in recipe_names():
        raise InputError(f"unknown recipe {name!r}; choose one of {', '.join(recipe_names())}")
    content = _read(name)
    if unknown := sorted(content.keys() - _KEYS):
        raise InputError(f"the recipe {name} has the unknown key {unknown[0]!r}; remove it")
    entries = _entries(name)
    chat = _with_chat(name)
    return Recipe(
        name=name,
        loading={k: content[k] for k in ("model", "dtype", "load_in_4bit") if k in content},
        layer=content["layer"],
        layer_source=content["layer_source"],
        configs={method: _config(name, method, entry) for method, entry in entries.items()},
        sources={method: entry["source"] for method, entry in entries.items()},
        chat_template=_template(chat["chat_template"]) if chat else None,
        chat_source=chat.get("chat_source", ""),
    )


def _with_chat(name: str) -> dict[str, Any]:
    """The content of the recipe or of its nearest base with a chat template; empty if none has."""
    content = _read(name)
    if "chat_template" in content:
        return content
    return _with_chat(content["base"]) if "base" in content else {}


def _template(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text("utf-8")


def _entries(name: str) -> dict[str, _Entry]:
    """The entries of a recipe by method, its base's included."""
    content = _read(name)
    found = _entries(content["base"]) if "base" in content else {}
    for method, entry in content.get("methods", {}).items():
        found[method] = {**found.get(method, {}), **entry}
    return found


def _config(name: str, method: str, entry: _Entry) -> TrainingConfig:
    values = {**method_defaults(method), **_tuples(entry)}
    values.pop("source")
    try:
        return TrainingConfig(method=method, **values)
    except TypeError as error:
        raise InputError(f"the recipe {name}, method {method}: {error}") from error


def _tuples(entry: _Entry) -> _Entry:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}


@cache
def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8"))
    return content
