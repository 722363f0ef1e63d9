"""`concept-das steer`."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.errors import InputError
from concept_das.words import Direction, Rule

if TYPE_CHECKING:
    import concept_das.data.chat_format
    import concept_das.models.loading
    import concept_das.steering.conditions
    import concept_das.steering.entries
    import concept_das.steering.generation

log = logging.getLogger(__name__)


def steer_prompts(
    vector: str,
    loading: ModelOptions,
    prompt: str | None = None,
    file: Path | None = None,
    direction: Direction = "elicit",
    multiplier: float = 1.0,
    rule: Rule = "paper",
    also: list[str] = [],  # noqa: B006 (shown in the help)
    when: Path | None = None,
    positions: str = "all",
    compare: bool = False,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    batch_tokens: int = 8192,
    generator: str = "hf",
    out: Path | None = None,
    allow_other_weights: bool = False,
) -> None:
    """Answer one prompt, a file of prompts, or interactively, steered.

    Args:
        vector: folder of a saved vector, pirate (it comes with the package), or name/pirate on the
            hub.
        prompt: one instruction, or a conversation as JSON (messages). Without prompt and file,
            instructions are read from the terminal.
        file: instructions, one a line (.txt) or rows with a column instruction (.jsonl, .csv, ...).
        direction: elicit (towards the concept) or suppress (away from it).
        multiplier: strength, without unit; 1 is the measured factor.
        rule: paper or interpolate; see evaluate.
        also: further vectors that steer every prompt at once, each as vector takes them, with a
            direction and a multiplier behind the name if they are not elicit and 1:
            "runs/polite/vector suppress 1.5".
        when: folder of a condition (Condition.save); prompts that do not meet it are not steered.
        positions: all, prompt (only the prompt's tokens), generated (only new tokens), or the first
            and last tokens of the prompt, e.g. p2+s2.
        compare: also show the unsteered answer.
        max_new_tokens: length of an answer, in tokens.
        temperature: of the sampling; 0 decodes greedily.
        top_k: sample from this many of the likeliest tokens only.
        top_p: sample from the likeliest tokens only that together have this share.
        seed: of the sampling.
        batch_tokens: tokens per batch, rows times (longest prompt + max_new_tokens); more is faster
            and takes more memory.
        generator: who answers a prompt or a file: hf (Hugging Face's generate), vllm (in this
            process), or the address of a server with the vector, as http://localhost:8000/v1
            (`concept-das serve`).
        out: .jsonl file for the answers to a file.
        allow_other_weights: steer another fine-tune of the vector's model too, with a warning.
    """
    import pandas as pd

    from concept_das import Steering, Together, generate_responses, load_condition, load_vector
    from concept_das.data.conversations import prompt_in
    from concept_das.data.files import read_instructions
    from concept_das.runs.files import check_writable, write_atomically
    from concept_das.steering.generation import Decoding
    from concept_das.steering.positions import parse_positions
    from concept_das.steering.sampling import check_sampling

    parse_positions(positions)
    check_sampling(temperature, top_k, top_p)
    if prompt is not None and file is not None:
        raise InputError("give either a prompt or a file, not both")
    texts = [] if prompt is None else [prompt_in(prompt)]
    if file is not None:
        texts = read_instructions(file, once=False)
    if not texts and sys.stdin is None:
        raise InputError("there is no terminal to read from; give a prompt or a file")
    if not texts and (compare or out is not None):
        raise InputError("compare and out are of a prompt or a file; give one, or leave them out")
    if not texts and generator != "hf":
        raise InputError("generator is of a prompt or a file; give one, or leave it out")
    if out is not None:
        check_writable(out)
    saved = load_vector(vector)
    source = loading.generator(generator, default=saved.model.name)
    if source is None:
        loaded = loading.load(default=saved.model.name)
        saved = load_vector(vector, loaded, allow_other_weights=allow_other_weights)
        chat = ChatOptions.of_vector(saved).of(loaded)
    else:  # which has its own model, and makes sure that the vector fits it
        chat = ChatOptions.of_vector(saved).of_tokenizer(
            loading.load_tokenizer(default=saved.model.name)
        )
    saved.check_chat(chat)
    own = loaded if source is None else None
    condition = None if when is None else load_condition(when, own)
    entry = Together(
        Steering(saved, direction, multiplier, rule, when=condition),
        *(_further(words, own, allow_other_weights, condition) for words in also),
    )

    if not texts:
        how = Decoding(positions, max_new_tokens, temperature, top_k, top_p)
        _converse(loaded, chat, entry, how, seed)
        return
    ways = {"steered": entry, "unsteered": None} if compare else {"steered": entry}
    answers = generate_responses(
        loaded.model if source is None else None,
        chat,
        [chat.prompt(text) for text in texts] * len(ways),
        steering=[way for way in ways.values() for _ in texts],
        positions=positions,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        keys=[*range(len(texts))] * len(ways),  # both answers sampled with the same noise
        batch_tokens=batch_tokens,
        progress="steer" if file is not None else None,
        generator=source,
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


def _further(
    words: str,
    loaded: "concept_das.models.loading.LoadedModel | None",
    allow_other_weights: bool,
    condition: "concept_das.steering.conditions.Condition | None",
) -> "concept_das.steering.entries.Steering":
    """A vector with its strength: `NAME`, `NAME suppress`, `NAME 1.5` or `NAME suppress 1.5`."""
    from concept_das import load_vector

    parts = re.fullmatch(r"(.+?)(?:\s+(elicit|suppress))?(?:\s+(-?[\d.]+))?\s*", words)
    if parts is None or Path(words).exists():
        name, direction, multiplier = words, "elicit", 1.0
    else:
        name, direction, multiplier = parts[1], parts[2] or "elicit", float(parts[3] or 1)
    vector = load_vector(name, loaded, allow_other_weights=allow_other_weights)
    return vector.at(multiplier, cast(Direction, direction), when=condition)


def _converse(
    loaded: "concept_das.models.loading.LoadedModel",
    chat: "concept_das.data.chat_format.ChatFormat",
    entry: "concept_das.steering.entries.Together",
    how: "concept_das.steering.generation.Decoding",
    seed: int,
) -> None:
    """Read instructions from the terminal and stream steered answers."""
    from transformers import TextStreamer

    from concept_das import Together, steer
    from concept_das.data.batches import pad_id_of
    from concept_das.steering.generation import decoding
    from concept_das.steering.sampling import row_seed

    print("An empty line ends.", file=sys.stderr)
    pad = pad_id_of(loaded.tokenizer)
    streamer = TextStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)
    parts = [part for part in entry.parts if not part.vector.is_text]
    inside = Together(*parts) if parts else None
    for number, line in enumerate(_typed_lines()):
        prompt = entry.prompt(chat.prompt(line)).tensors(loaded.device)
        options = decoding(loaded.model, pad, how, [row_seed(seed, number)])
        with steer(loaded.model, inside, positions=how.positions) if inside else nullcontext():
            loaded.model.generate(**prompt, **options, streamer=streamer)


def _typed_lines() -> Iterator[str]:
    """Typed lines, up to an empty one or the end of the input."""
    with suppress(EOFError):
        yield from iter(lambda: input("> ").strip(), "")
