"""What the commands of the command line do."""

import json
import logging
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import TextStreamer

import concept_das.demo
from concept_das.chats import Turn, collate, pad_id_of
from concept_das.data import (
    Quadruple,
    read_quadruples,
    split_quadruples,
    to_frame,
)
from concept_das.errors import InputError
from concept_das.evaluation import Evaluation
from concept_das.evaluation import evaluate as evaluate_vector
from concept_das.generation import generate_responses
from concept_das.inspection import format_marks
from concept_das.making import (
    CONCEPT_PROMPT,
    TOPIC_PROMPT,
    make_quadruples,
    read_axbench,
    shipped_instructions,
)
from concept_das.methods import METHODS
from concept_das.options import ChatOptions, ModelOptions
from concept_das.pipeline import encode_for, train_vector, with_metrics
from concept_das.steering import Positions, Steering
from concept_das.steering import steer as steering
from concept_das.tracking import TrackingMode, open_tracker
from concept_das.training import Engine, TrainingConfig, TrainingDirection
from concept_das.vectors import Direction, Rule, SteeringVector, write_atomically

# Commands whose `out` is a folder that gets the resolved options as config.yaml.
RUNS = ("train", "demo")

log = logging.getLogger(__name__)


def data_make(
    concept: str,
    out: Path,
    loading: ModelOptions,
    chat: ChatOptions,
    instructions: Path | None = None,
    count: int = 96,
    genre: str = "text",
    template: str = CONCEPT_PROMPT,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    batch_size: int = 16,
    seed: int = 42,
    concept_id: int = 0,
) -> None:
    """Make quadruples: the model answers each instruction with and without the concept.

    Args:
        concept: the concept as an imperative in plain words, e.g. "Talk like a pirate".
        out: file to write, .parquet, .csv or .jsonl.
        instructions: your own instructions, one a line (.txt) or {"instruction": ...} (.jsonl); the
            package's own if not given.
        count: number of the package's own instructions to use.
        genre: genre of the package's own instructions: text, code or math.
        template: how concept and instruction are put together.
        max_new_tokens: length of a response, in tokens.
        temperature: of the sampling; 0 decodes greedily.
        batch_size: prompts per generation batch.
        seed: of the choice of instructions and the sampling.
        concept_id: written into the column of that name.
    """
    _check_writable(out)
    chosen = (
        shipped_instructions(count, seed, genre)
        if instructions is None
        else _read_instructions(instructions)
    )
    loaded = loading.load()
    rows = make_quadruples(
        loaded,
        chat.of(loaded),
        concept,
        chosen,
        template=template,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        batch_size=batch_size,
        seed=seed,
        concept_id=concept_id,
        genre=genre,
        partial=out.with_suffix(".partial.json"),
    )
    _finish_rows(out, rows, len(chosen))


def data_axbench(
    axbench: Path,
    concept_id: int,
    out: Path,
    loading: ModelOptions,
    chat: ChatOptions,
    template: str = TOPIC_PROMPT,
    max_new_tokens: int = 128,
    batch_size: int = 16,
) -> None:
    """Complete a concept of an AxBench training file: the model writes the neutral responses.

    Args:
        axbench: AxBench's training file, with the columns input, output, output_concept.
        concept_id: which concept.
        out: file to write, .parquet, .csv or .jsonl.
        template: how concept and instruction are put together for the concept prompt.
        max_new_tokens: length of a neutral response, in tokens; greedy decoding.
        batch_size: prompts per generation batch.
    """
    _check_writable(out)
    source = read_axbench(axbench, concept_id)
    loaded = loading.load()
    rows = make_quadruples(
        loaded,
        chat.of(loaded),
        source.concept,
        source.instructions,
        template=template,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        concept_id=concept_id,
        genre=source.genre,
        concept_outputs=source.outputs,
        partial=out.with_suffix(".partial.json"),
    )
    _finish_rows(out, rows, len(source.instructions))


def _check_writable(out: Path) -> None:
    if out.suffix not in _WRITERS:
        raise InputError(f"cannot write {out}; choose {', '.join(_WRITERS)}")


def _finish_rows(out: Path, rows: list[Quadruple], asked: int) -> None:
    if not rows:
        raise InputError("no row is usable: every answer was empty or ran in a loop")
    write_rows(out, rows)
    out.with_suffix(".partial.json").unlink(missing_ok=True)
    log.info("%d of %d rows kept in %s", len(rows), asked, out)


_WRITERS = {
    ".parquet": lambda frame: frame.to_parquet(index=False),
    ".csv": lambda frame: frame.to_csv(index=False).encode(),
    ".jsonl": lambda frame: frame.to_json(orient="records", lines=True, force_ascii=False).encode(),
}


def write_rows(path: Path, rows: list[Quadruple]) -> None:
    """Write quadruples atomically in the format the suffix names."""
    write_atomically(path, _WRITERS[path.suffix](to_frame(rows)))


def _read_instructions(path: Path) -> list[str]:
    if not path.exists():
        raise InputError(f"there is no file {path}")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if path.suffix == ".jsonl":
        try:
            lines = [json.loads(line)["instruction"] for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} has a line without an 'instruction' field") from error
    if not lines:
        raise InputError(f"{path} holds no instructions")
    return list(dict.fromkeys(lines))


def data_check(
    data: str,
    loading: ModelOptions,
    chat: ChatOptions,
    concept_id: int | None = None,
    max_response_tokens: int = 128,
) -> None:
    """Check quadruples and show their lengths in tokens.

    Args:
        data: .parquet, .csv, .jsonl or .json file, or hub id of a data set.
        concept_id: check only this concept's rows.
        max_response_tokens: where training would cut responses, in tokens.
    """
    rows = read_quadruples(data, concept_id=concept_id)
    loaded = loading.load()
    config = TrainingConfig(max_response_tokens=max_response_tokens)
    encoded = encode_for(loaded, chat.of(loaded), rows, config)
    lengths = pd.DataFrame(
        {
            "neutral prompt": [len(row.elicit.base.prompt.ids) for row in encoded],
            "concept prompt": [len(row.suppress.base.prompt.ids) for row in encoded],
            "neutral response": [len(row.suppress.base.response) for row in encoded],
            "concept response": [len(row.elicit.base.response) for row in encoded],
        }
    )
    print(f"{len(rows)} rows are usable; tokens:")
    print(lengths.describe().loc[["min", "mean", "max"]].round(1).to_string())
    for concept, number in Counter(row.concept for row in rows).items():
        print(f"{number:>6} rows of concept {concept!r}")


def train(
    data: str,
    out: Path,
    layer: int,
    loading: ModelOptions,
    chat: ChatOptions,
    training: TrainingConfig,
    heldout: int = 16,
    concept_id: int | None = None,
    engine: Engine = "auto",
    wandb: TrackingMode = "auto",
) -> None:
    """Train a steering vector and measure its factors.

    Args:
        data: .parquet, .csv, .jsonl or .json file, or hub id of a data set.
        out: folder of the run. An interrupted run goes on when the command is given again.
        layer: decoder block whose output is intervened on, 0-based; negative counts from the end.
        heldout: number of rows held out, chosen by the seed; they are kept in the run's folder.
        concept_id: use only this concept's rows.
        engine: auto (replay cached hidden states where the model allows it) or pyvene (run the whole
            model every step); same result.
        wandb: auto (online with an API key, else offline), online, offline or off.
    """
    rows = read_quadruples(data, concept_id=concept_id)
    concepts = sorted({row.concept_id for row in rows})
    if len(concepts) > 1:
        raise InputError(f"{data} holds concepts {concepts}; choose one with --concept_id")
    kept, held = split_quadruples(rows, heldout, training.seed)
    loaded = loading.load()
    chat_format = chat.of(loaded)
    write_rows(out / "train.parquet", kept)
    if held:
        write_rows(out / "heldout.parquet", held)
    tracker = open_tracker(
        wandb,
        name=out.name,
        config={"data": data, "layer": layer, **asdict(loading), **asdict(chat), **asdict(training)},
        folder=out,
    )
    try:
        trained = train_vector(
            loaded,
            chat_format,
            kept,
            held,
            layer,
            training,
            tracker=tracker,
            checkpoint=out / "progress",
            engine=engine,
        )
    finally:
        tracker.finish()
    trained.vector.save(out / "vector")
    history = "\n".join(json.dumps(record) for record in trained.training.history)
    write_atomically(out / "history.jsonl", f"{history}\n".encode())
    log.info("vector saved in %s; now: concept-das evaluate --vector %s", *[out / "vector"] * 2)


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

    Args:
        vector: folder of a saved vector.
        data: rows the vector was not trained on; the run's own held-out rows if not given.
        multipliers: strengths to try, without unit.
        rule: paper (multiplier times the measured factor) or interpolate (along the line between
            the two measured means).
        batch_size: rows per forward pass.
        out: folder for evaluation.csv and rows.parquet; beside the vector if not given.
    """
    saved = SteeringVector.load(vector)
    source = data or str(vector.parent / "heldout.parquet")
    rows = read_quadruples(source)
    loaded = _load_for(saved, loading)
    chat = _chat_of(saved).of(loaded)
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
    with_metrics(saved, result.best("elicit")).save(vector)
    print(result.table.round(3).to_string(index=False))


def save_evaluation(folder: Path, result: Evaluation) -> None:
    """Write the table and the rows behind it, and drop the partial file."""
    write_atomically(folder / "evaluation.csv", result.table.to_csv(index=False).encode())
    write_atomically(folder / "rows.parquet", result.rows.to_parquet(index=False))
    (folder / "evaluation.partial.json").unlink(missing_ok=True)


def _load_for(vector: SteeringVector, loading: ModelOptions) -> Any:
    """Load the model, and refuse it if the vector belongs to another one."""
    loaded = loading.load(default=vector.model.name)
    vector.check_model(loaded.model)
    return loaded


def _chat_of(vector: SteeringVector) -> ChatOptions:
    return ChatOptions(system=vector.system, source_token=vector.source_token)


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
    batch_size: int = 16,
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
        batch_size: prompts per batch, for a file.
        out: .jsonl file for the answers to a file.
    """
    if prompt is not None and file is not None:
        raise InputError("give either a prompt or a file, not both")
    saved = SteeringVector.load(vector)
    loaded = _load_for(saved, loading)
    chat = _chat_of(saved).of(loaded)
    entry = Steering(saved, direction, multiplier, rule)

    def answers(texts: list[str], steered: bool) -> list[str]:
        block = steering(loaded.model, entry, positions=positions) if steered else nullcontext()
        with block:
            return generate_responses(
                loaded.model,
                chat,
                [chat.prompt(text) for text in texts],
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                batch_size=batch_size,
                progress="steer" if file is not None else None,
            )

    if prompt is None and file is None:
        _converse(loaded, chat, entry, positions, max_new_tokens)
        return
    texts = [prompt] if prompt is not None else _read_instructions(file)  # type: ignore[arg-type]
    columns = {"instruction": texts, "steered": answers(texts, True)}
    if compare:
        columns["unsteered"] = answers(texts, False)
    frame = pd.DataFrame(columns)
    if out is not None:
        content = frame.to_json(orient="records", lines=True, force_ascii=False)
        write_atomically(out, content.encode())
        log.info("%d answers in %s", len(frame), out)
        return
    for record in frame.to_dict("records"):
        for name, text in record.items():
            print(f"{name:>11}: {text}")


def _converse(
    loaded: Any, chat: Any, entry: Steering, positions: Positions, max_new_tokens: int
) -> None:
    """Read instructions from the terminal and stream steered answers."""
    print("An empty line ends.", file=sys.stderr)
    pad = pad_id_of(loaded.tokenizer)
    streamer = TextStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)
    for line in iter(lambda: input("> ").strip(), ""):
        batch = collate([Turn(chat.prompt(line))], pad, loaded.device)
        with steering(loaded.model, entry, positions=positions):
            loaded.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
                streamer=streamer,
            )


def inspect_row(
    data: str,
    loading: ModelOptions,
    chat: ChatOptions,
    row: int = 0,
    direction: TrainingDirection = "elicit",
    max_response_tokens: int = 128,
) -> None:
    """Print a row's tokens: prefix, source token, intervened and scored positions.

    Args:
        data: .parquet, .csv, .jsonl or .json file, or hub id of a data set.
        row: which row, 0-based.
        direction: elicit or suppress.
        max_response_tokens: where training would cut responses, in tokens.
    """
    rows = read_quadruples(data)
    if not 0 <= row < len(rows):
        raise InputError(f"row {row} is out of range: {data} has rows 0 to {len(rows) - 1}")
    loaded = loading.load()
    chat_format = chat.of(loaded)
    config = TrainingConfig(max_response_tokens=max_response_tokens)
    encoded = encode_for(loaded, chat_format, [rows[row]], config)[0]
    pair = getattr(encoded, direction)
    print(f"base ({direction}): the intervened run\n{format_marks(chat_format, pair.base)}\n")
    print("source: the untouched run; its latent is read at the token marked source")
    print(format_marks(chat_format, pair.source))


def methods() -> None:
    """List the methods that can be trained."""
    for method in METHODS.values():
        print(f"{method.name:<20} {method.summary}")


def demo(
    out: Path,
    loading: ModelOptions,
    concept: str = "Talk like a pirate",
    layer: int = 15,
    wandb: TrackingMode = "off",
) -> None:
    """Make data, train, evaluate and write a report, end to end.

    Args:
        out: folder of the run; report.html and metrics.json are written there.
        concept: the concept as an imperative in plain words.
        layer: decoder block to steer at, 0-based.
        wandb: auto, online, offline or off.
    """
    start = time.monotonic()
    loaded = loading.load()
    report = concept_das.demo.run(loaded, out, concept=concept, layer=layer, wandb=wandb)
    log.info("%.0f seconds; open %s", time.monotonic() - start, report.resolve())
