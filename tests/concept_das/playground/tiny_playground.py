"""A playground of a tiny model with two vectors: one at two blocks, one at one."""

from typing import Any

from concept_das.playground.answers import Pair, Playground
from concept_das.playground.settings import Setting, Strength
from tests.concept_das.helpers import random_vector, tiny_chat, tiny_loaded, vector_at


def tiny_playground(**vectors: Any) -> Playground:
    """Vectors of one's own by name, or the two, which are named `two` and `one`."""
    loaded = tiny_loaded()
    if not vectors:
        vectors["two"] = vector_at(loaded.model, [1, 2])
        vectors["one"] = random_vector(loaded.model, layer=2, seed=9)
    return Playground(loaded, tiny_chat(), vectors)


def setting_of(playground: Playground, *multipliers: float, **options: Any) -> Setting:
    """The prompt `Hi there` with each vector at a multiplier; 0 for those that are left out."""
    given = [*multipliers, *[0.0] * len(playground.vectors)]
    ways = {name: Strength("elicit", m) for name, m in zip(playground.vectors, given, strict=False)}
    return Setting(**{"prompt": "Hi there", "strengths": ways, "max_new_tokens": 8, **options})


def answered(playground: Playground, setting: Setting) -> Pair:
    """Both answers when they are complete."""
    return [*playground.answers(setting)][-1]
