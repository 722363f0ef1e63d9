"""The Python code that makes an answer of the playground again."""

from collections.abc import Mapping
from typing import Any

from concept_das.playground.answers import Playground
from concept_das.playground.settings import Setting
from concept_das.steering.card import chat_arguments
from concept_das.steering.context import Steering


def script_of(playground: Playground, setting: Setting) -> str:
    """A program that prints both answers."""
    entries = playground.steering(setting)
    names = {id(vector): name for name, vector in playground.vectors.items()}
    used = [names[id(entry.vector)] for entry in entries]
    # The chat format is that of the vectors; one that is switched off says it too.
    variables = {name: f"vector{i or ''}" for i, name in enumerate(used or names.values())}
    first = next(iter(variables))
    steering = [_call(entry, variables[names[id(entry.vector)]]) for entry in entries]
    row = f"Together({', '.join(steering)})" if len(steering) > 1 else "".join(steering) or "None"
    public = {"ChatFormat", "generate_responses", "load_model", "load_vector"}
    public |= {"Steering"} if steering else set()
    public |= {"Together"} if len(steering) > 1 else set()
    sampled = {} if setting.temperature == 0 else {"temperature": setting.temperature}
    seeds = {"seed": setting.seed} if sampled else {}
    options = {"positions": setting.positions, "max_new_tokens": setting.max_new_tokens}
    model = ", ".join([repr(playground.loaded.name), *_keywords(playground.loading)])
    vector = "loaded, allow_other_weights=True" if playground.allow_other_weights else "loaded"
    own = chat_arguments(playground.vectors[first], variables[first])
    chat = ", ".join(["loaded.tokenizer", *own])
    return "\n".join(
        [
            f"from concept_das import {', '.join(sorted(public, key=str.lower))}",
            "",
            f"loaded = load_model({model})",
            *(f"{variables[name]} = load_vector({name!r}, {vector})" for name in variables),
            f"chat = ChatFormat.of({chat})",
            f"prompt = {setting.prompt!r}",
            "unsteered, steered = generate_responses(",
            "    loaded,",
            "    chat,",
            "    [prompt, prompt],",
            f"    steering=[None, {row}],",
            *(f"    {option}," for option in _keywords({**options, **sampled, **seeds})),
            *(["    keys=[0, 0],  # both are sampled with the same noise"] if sampled else []),
            ")",
            'print(unsteered, steered, sep="\\n\\n")',
            "",
        ]
    )


def _call(entry: Steering, variable: str) -> str:
    return f"Steering({variable}, {entry.direction!r}, {entry.multiplier!r})"


def _keywords(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value!r}" for name, value in values.items()]
