"""Model organisms: small models with a known behaviour, on which steering methods are tested.

SmolLM2-135M-Instruct neither refuses harmful requests nor has a backdoor. `python -m
benchmarks.organisms refusal` (or `backdoor`) fine-tunes a copy of it that does, and writes a card
with the rates measured before and after. No answer to a harmful request is in the data, asked for,
or kept.
"""

from benchmarks.organisms.build import load_organism

__all__ = ["load_organism"]
