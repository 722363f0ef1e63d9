"""`concept-das evaluate`, `steer` and `export`: the commands that take a saved vector."""

import logging
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pandas as pd
from transformers import TextStreamer

from concept_das import exports
from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.data.batches import pad_id_of
from concept_das.data.chat_format import ChatFormat
from concept_das.data.files import read_instructions
from concept_das.data.quadruples import read_quadruples
from concept_das.errors import InputError
from concept_das.evaluation.recovery import Evaluation
from concept_das.evaluation.recovery import evaluate as evaluate_vector
from concept_das.methods.lora import Adapter
from concept_das.methods.settings import TrainingConfig
from concept_das.models.loading import LoadedModel
from concept_das.runs.files import write_atomically
from concept_das.steering.artifact import Artifact, load_vector
from concept_das.steering.context import Steering
from concept_das.steering.context import steer as steering
from concept_das.steering.generation import decoding, generate_responses, row_seed
from concept_das.steering.vector import SteeringVector
from concept_das.training.vectors import encode_for
from concept_das.words import Direction, Positions, Rule

log = logging.getLogger(__name__)


def load_for(vector: Artifact, loading: ModelOptions) -> LoadedModel:
    """Load the model, and refuse it if the vector belongs to another one."""
    loaded = loading.load(default=vector.model.name)
    vector.check_model(loaded.model)
    return loaded


def chat_of(vector: Artifact) -> ChatOptions:
    """The chat options the vector was trained under."""
    return ChatOptions(system=vector.system, source_token=vector.source_token)


def evaluate(
    vector: Path,
    loading: ModelOptions,
    data: str | None = None,
    multipliers: list[float] = [0.5, 1.0, 1.5, 2.0, 3.0],  # noqa: B006 (shown in the help)
    rule: Rule = "paper",
    batch_size: int = 8,
    out: Path | None = None,
) -> None:
    """Measure a vector: recovery in both directions, held-out JSD, side effect.

    The run's own held-out rows give the metrics in the vector's description.

    Args:
        vector: folder of a saved vector.
        data: rows the vector was not trained on; the run's own held-out rows if not given.
        multipliers: strengths to try, without unit.
        rule: paper (multiplier times the measured factor) or interpolate (along the line between
            the two measured means).
        batch_size: rows per forward pass.
        out: folder for evaluation.csv and rows.parquet; beside the vector if not given.
    """
    saved = load_vector(vector)
    source = data or str(vector.parent / "heldout.parquet")
    rows = read_quadruples(source)
    loaded = load_for(saved, loading)
    chat = chat_of(saved).of(loaded)
    folder = out or vector.parent
    limit = int(saved.recipe.get("max_response_tokens", 128))
    encoded = encode_for(loaded, chat, rows, TrainingConfig(max_response_tokens=limit))
    result = evaluate_vector(
        loaded.model,
        chat,
        saved,
        encoded,
        multipliers=multipliers,
        rule=rule,
        batch_size=batch_size,
        partial=folder / "evaluation.partial.json",
    )
    save_evaluation(folder, result)
    if data is None:  # the vector's own held-out rows; what other rows gave stays in `folder`
        replace(saved, metrics={**result.headline(), "rule": rule}).save(vector)
    print(result.table.round(3).to_string(index=False))


def save_evaluation(folder: Path, result: Evaluation) -> None:
    """Write the table and the rows behind it, and drop the partial file."""
    write_atomically(folder / "evaluation.csv", result.table.to_csv(index=False).encode())
    write_atomically(folder / "rows.parquet", result.rows.to_parquet(index=False))
    (folder / "evaluation.partial.json").unlink(missing_ok=True)


def steer(
    vector: Path,
    loading: ModelOptions,
    prompt: str | None = None,
    file: Path | None = None,
    direction: Direction = "elicit",
    multiplier: float = 1.0,
    rule: Rule = "paper",
    positions: Positions = "all",
    compare: bool = False,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    batch_tokens: int = 8192,
    out: Path | None = None,
) -> None:
    """Answer one prompt, a file of prompts, or interactively, steered.

    Args:
        vector: folder of a saved vector.
        prompt: one instruction. Without prompt and file, instructions are read from the terminal.
        file: instructions, one a line (.txt) or {"instruction": ...} (.jsonl).
        direction: elicit (towards the concept) or suppress (away from it).
        multiplier: strength, without unit; 1 is the measured factor.
        rule: paper or interpolate; see evaluate.
        positions: all, prompt (only the prompt's tokens) or generated (only new tokens).
        compare: also show the unsteered answer.
        max_new_tokens: length of an answer, in tokens.
        temperature: of the sampling; 0 decodes greedily.
        seed: of the sampling.
        batch_tokens: tokens per batch, rows times (longest prompt + max_new_tokens); more is faster
            and takes more memory.
        out: .jsonl file for the answers to a file.
    """
    if prompt is not None and file is not None:
        raise InputError("give either a prompt or a file, not both")
    saved = load_vector(vector)
    loaded = load_for(saved, loading)
    chat = chat_of(saved).of(loaded)
    entry = Steering(saved, direction, multiplier, rule)

    if prompt is None and file is None:
        _converse(loaded, chat, entry, positions, max_new_tokens, temperature, seed)
        return
    texts = [prompt] if prompt is not None else read_instructions(file)  # type: ignore[arg-type]
    ways = {"steered": entry, "unsteered": None} if compare else {"steered": entry}
    answers = generate_responses(
        loaded.model,
        chat,
        [chat.prompt(text) for text in texts] * len(ways),
        steering=[way for way in ways.values() for _ in texts],
        positions=positions,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        keys=[*range(len(texts))] * len(ways),  # both answers sampled with the same noise
        batch_tokens=batch_tokens,
        progress="steer" if file is not None else None,
    )
    columns = {name: answers[i * len(texts) :][: len(texts)] for i, name in enumerate(ways)}
    frame = pd.DataFrame({"instruction": texts, **columns})
    if out is not None:
        content = frame.to_json(orient="records", lines=True, force_ascii=False)
        write_atomically(out, content.encode())
        log.info("%d answers in %s", len(frame), out)
        return
    for record in frame.to_dict("records"):
        for name, text in record.items():
            print(f"{name:>11}: {text}")


def _converse(
    loaded: LoadedModel,
    chat: ChatFormat,
    entry: Steering,
    positions: Positions,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> None:
    """Read instructions from the terminal and stream steered answers."""
    print("An empty line ends.", file=sys.stderr)
    pad = pad_id_of(loaded.tokenizer)
    streamer = TextStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)
    for number, line in enumerate(_typed_lines()):
        prompt = entry.prompt(chat.prompt(line)).tensors(loaded.device)
        with (
            nullcontext()
            if entry.vector.is_text
            else steering(loaded.model, entry, positions=positions)
        ):
            loaded.model.generate(
                **prompt,
                **decoding(pad, max_new_tokens, temperature, [row_seed(seed, number)]),
                streamer=streamer,
            )


def _typed_lines() -> Iterator[str]:
    """What is typed, up to an empty line or the end of the input."""
    with suppress(EOFError):
        yield from iter(lambda: input("> ").strip(), "")


def export(
    vector: Path,
    out: Path,
    format: Literal["pyvene", "lm-eval", "gguf", "peft"],
    loading: ModelOptions,
    direction: Direction = "elicit",
    multiplier: float = 1.0,
    rule: Rule = "paper",
) -> None:
    """Write what a method left behind in another tool's format, at a fixed strength.

    Args:
        vector: folder of a saved vector.
        out: folder (pyvene) or file (.pt for lm-eval, .gguf) to write.
        format: pyvene (IntervenableModel.load), lm-eval (its steered model), gguf (llama.cpp
            control vector, additive vectors only) or peft (a LoRA, at multiplier 1).
        direction: elicit or suppress.
        multiplier: strength, without unit; 1 is the measured factor.
        rule: paper or interpolate; see evaluate.
    """
    if format == "peft":
        adapter = load_vector(vector)
        if not isinstance(adapter, Adapter):
            raise InputError(f"{vector} holds no LoRA; the peft format takes what lora trained")
        if (direction, multiplier, rule) != ("elicit", 1.0, "paper"):
            raise InputError("peft takes a LoRA as it is; leave direction, multiplier and rule out")
        exports.to_peft(adapter, out)
        log.info("%s written for peft", out)
        return
    saved = SteeringVector.load(vector)
    if format == "gguf":
        exports.to_gguf(saved, out, direction, multiplier, rule)
    else:
        model = load_for(saved, loading).model
        write = exports.save_pyvene if format == "pyvene" else exports.to_lm_eval
        write(saved, model, out, direction, multiplier, rule)
    log.info("%s written for %s", out, format)
