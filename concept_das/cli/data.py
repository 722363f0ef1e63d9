"""`concept-das data make`, `data axbench` and `data check`."""

from collections import Counter
from pathlib import Path

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.data.concept_prompts import CONCEPT_PROMPT, TOPIC_PROMPT
from concept_das.errors import InputError
from concept_das.runs.alone import alone_in

_COUNT = 96


def data_make(
    concept: str,
    out: Path,
    loading: ModelOptions,
    chat: ChatOptions,
    instructions: Path | None = None,
    count: int | None = None,
    genre: str = "text",
    template: str = CONCEPT_PROMPT,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_tokens: int = 8192,
    seed: int = 42,
    concept_id: int = 0,
) -> None:
    """Make quadruples: the model answers each instruction with and without the concept.

    Args:
        concept: the concept as an imperative in plain words, e.g. "Talk like a pirate".
        out: file to write, .parquet, .csv or .jsonl.
        instructions: your own instructions, one a line (.txt) or rows with a column instruction
            (.jsonl, .csv, ...); the package's own if not given.
        count: number of instructions: of the package's own (96 if not given), or the first so many
            of yours (all if not given).
        genre: genre of the package's own instructions: text, code or math.
        template: how concept and instruction are put together.
        max_new_tokens: length of a response, in tokens.
        temperature: of the sampling; 0 decodes greedily.
        top_k: sample from this many of the likeliest tokens only.
        top_p: sample from the likeliest tokens only that together have this share.
        batch_tokens: tokens per batch, rows times (longest prompt + max_new_tokens); more is faster
            and takes more memory.
        seed: of the choice of instructions and the sampling.
        concept_id: written into the column of that name.
    """
    from concept_das import make_quadruples, shipped_instructions
    from concept_das.data.files import check_rows_writable, finish_rows, read_instructions

    check_rows_writable(out)
    if count is not None and count < 1:
        raise InputError(f"count is {count}; it must be at least 1")
    chosen = (
        shipped_instructions(_COUNT if count is None else count, seed, genre)
        if instructions is None
        else read_instructions(instructions)[:count]
    )
    loaded = loading.load()
    with alone_in(out.parent, out.name):
        rows = make_quadruples(
            loaded,
            chat.of(loaded),
            concept,
            chosen,
            template=template,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            batch_tokens=batch_tokens,
            seed=seed,
            concept_id=concept_id,
            genre=genre,
            partial=out.with_suffix(".partial.json"),
        )
        finish_rows(out, rows, len(chosen))


def data_axbench(
    axbench: Path,
    concept_id: int,
    out: Path,
    loading: ModelOptions,
    chat: ChatOptions,
    template: str = TOPIC_PROMPT,
    max_new_tokens: int = 128,
    batch_tokens: int = 8192,
) -> None:
    """Complete a concept of an AxBench training file: the model writes the neutral responses.

    Args:
        axbench: AxBench's training file, with the columns input, output, output_concept.
        concept_id: which concept.
        out: file to write, .parquet, .csv or .jsonl.
        template: how concept and instruction are put together for the concept prompt.
        max_new_tokens: length of a neutral response, in tokens; greedy decoding.
        batch_tokens: tokens per batch, rows times (longest prompt + max_new_tokens); more is faster
            and takes more memory.
    """
    from concept_das import make_quadruples
    from concept_das.data.axbench_file import read_axbench
    from concept_das.data.files import check_rows_writable, finish_rows

    check_rows_writable(out)
    source = read_axbench(axbench, concept_id)
    loaded = loading.load()
    with alone_in(out.parent, out.name):
        rows = make_quadruples(
            loaded,
            chat.of(loaded),
            source.concept,
            source.instructions,
            template=template,
            max_new_tokens=max_new_tokens,
            batch_tokens=batch_tokens,
            concept_id=concept_id,
            genre=source.genre,
            concept_outputs=source.outputs,
            partial=out.with_suffix(".partial.json"),
        )
        finish_rows(out, rows, len(source.instructions))


def data_check(
    data: str,
    loading: ModelOptions,
    chat: ChatOptions,
    concept_id: int | None = None,
    max_response_tokens: int = 128,
) -> None:
    """Check quadruples and show their lengths in tokens.

    Args:
        data: file (.parquet, .csv, .tsv, .jsonl, .json, .feather, also .gz), folder or pattern of
            files, or hub id of a data set.
        concept_id: check only this concept's rows.
        max_response_tokens: where training would cut responses, in tokens.
    """
    import pandas as pd

    from concept_das import read_quadruples

    rows = read_quadruples(data, concept_id=concept_id)
    loaded = loading.load()
    encoded = loaded.encode(chat.of(loaded), rows, max_response_tokens)
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
