"""Presets of refusal (`presets.yaml`): a recipe for each model, and each method's strengths."""

from pathlib import Path

from benchmarks.safety.settings import Preset, read_presets

PRESETS: dict[str, Preset] = read_presets(Path(__file__).with_name("presets.yaml"))
