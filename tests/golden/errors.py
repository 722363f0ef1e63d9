"""Part of the record: what is said of input that cannot be used."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import concept_das as library
from concept_das import exports
from tests.golden.files import without_places, write_json
from tests.golden.running import Outcome, benchmark, concept_das, succeed
from tests.golden.tiny_world import golden_model, rows, write_model, write_rows
from tests.tiny import tiny_tokenizer

Case = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class _World:
    """Files to be wrong about: models, rows, a finished run of each kind, damaged copies."""

    work: Path
    model: str
    other: str
    data: str

    @property
    def on(self) -> tuple[str, ...]:
        return (f"--model={self.model}", "--device=cpu")

    @property
    def training(self) -> tuple[str, ...]:
        return (
            *("train", *self.on, f"--data={self.data}", f"--out={self.work / 'run'}"),
            *("--layer=1", "--heldout=3", "--epochs=2", "--batch_size=4"),
            *("--max_response_tokens=6", "--wandb=off"),
        )

    def vector(self, name: str) -> str:
        return str(self.work / name / "vector")

    def path(self, name: str) -> str:
        return str(self.work / name)


def record_errors(out: Path, work: Path) -> None:
    """A sentence for each case, by command and by function."""
    world = _World(
        work,
        str(write_model(work / "model")),
        str(write_model(work / "other", seed=1)),
        str(write_rows(work / "rows.jsonl", rows())),
    )
    _write_bad_files(world)
    places = {
        str(work): "WORK",
        str(Path(__file__).parents[2]): "CHECKOUT",
        type(tiny_tokenizer()).__name__: "TOKENIZER",
    }
    commands = {name: _sentence(concept_das(*words)) for name, words in _commands(world)}
    write_json(out / "commands.json", _without(commands, places))
    scripts = {
        f"{name}: {case}": _sentence(benchmark(name, *words))
        for name, case, words in _benchmarks(world)
    }
    write_json(out / "benchmarks.json", _without(scripts, places))
    functions = {name: _raised(call) for name, call in _functions(world)}
    write_json(out / "functions.json", _without(functions, places))


def _sentence(outcome: Outcome) -> list[Any]:
    return [outcome.code, _own_words(outcome.error)]


def _own_words(message: str) -> str:
    """The message without what it quotes of another library's error."""
    for introduction in (
        *(
            r"cannot load model '[^']*': ",
            r"cannot use device '[^']*': ",
            "cannot be read as .*?: ",
        ),
        *("is not valid JSON: ", "is not a GGUF file, or is truncated: ", "wrong kind: "),
    ):
        message = re.sub(f"({introduction}).*", r"\1...", message)
    return message


def _without(found: dict[str, Any], places: dict[str, str]) -> Any:
    return json.loads(without_places(json.dumps(found), places))


def _raised(call: Callable[[], Any]) -> str:
    try:
        call()
    except (library.InputError, library.TrainingError) as error:
        return f"{type(error).__name__}: {_own_words(str(error))}"
    return "nothing was raised"


def _write_bad_files(world: _World) -> None:
    work, records = world.work, rows()
    write_rows(
        work / "several.jsonl", [{**row, "concept_id": i % 2} for i, row in enumerate(records)]
    )
    write_rows(work / "empty-output.jsonl", [*records, {**records[0], "positive_output": " "}])
    write_rows(work / "number.jsonl", [{**records[0], "negative_input": 3}])
    write_rows(work / "fraction.jsonl", [{**records[0], "concept_id": 0.5}])
    write_rows(
        work / "long.jsonl",
        [{**row, "positive_input": f"{i:a>600}"} for i, row in enumerate(records)],
    )
    write_rows(work / "nameless.jsonl", [{**row, "concept": ""} for row in records])
    write_rows(work / "column.jsonl", [{"negative_input": "Hi", "positive_input": "Ho"}])
    (work / "broken.jsonl").write_text('{"prompt": "Hi"}\n', encoding="utf-8")
    (work / "damaged.parquet").write_bytes(b"PAR1 no more")
    (work / "table.xlsx").touch()
    (work / "empty.txt").touch()
    pd.DataFrame(rows()[:1]).iloc[:0].to_csv(work / "no-rows.csv", index=False)
    frame = pd.DataFrame({"input": ["Hi"], "output": ["Ahoy"], "output_concept": ["pirates"]})
    frame.assign(concept_genre="text", concept_id=3).to_parquet(work / "axbench.parquet")
    frame.to_parquet(work / "not-axbench.parquet")
    for method in ("cdas", "diffmean", "reps", "prompt"):
        words = (*world.training[:4], f"--out={work / method}", *world.training[5:])
        succeed(concept_das(*words, f"--method={method}"))
    low = (*world.training[:4], f"--out={work / 'low'}", *world.training[5:])
    succeed(concept_das(*low, "--rank=2", "--epochs=1"))
    lora = (*world.training[:4], f"--out={work / 'lora'}", *world.training[5:])
    succeed(concept_das(*lora, "--method=lora", "--layers=[1, 2]", "--epochs=1"))
    _damage(world, "cut", "vector.safetensors", lambda blob: blob[:-3])
    _damage(world, "no-json", "vector.json", lambda _: b"{")
    _damage(world, "edited", "vector.json", lambda blob: blob.replace(b'"Pirate"', b'"Sailor"'))
    _damage(world, "list", "vector.json", lambda _: b"[]")
    _damage(world, "newer", "vector.json", lambda b: b.replace(b'_version": 1,', b'_version": 99,'))


def _damage(world: _World, name: str, file: str, change: Callable[[bytes], bytes]) -> None:
    source, target = Path(world.vector("cdas")), Path(world.vector(name))
    target.mkdir(parents=True)
    for path in source.iterdir():
        blob = path.read_bytes()
        (target / path.name).write_bytes(change(blob) if path.name == file else blob)


def _commands(world: _World) -> Iterator[Case]:
    yield from _of_training(world)
    yield from _of_vectors(world)
    yield from _of_data(world)
    yield from _of_plans(world)
    yield "no command", ()
    yield "unknown command", ("fly",)
    yield "train without options", ("train",)
    yield "a word for a number", ("train", "--data=x", "--out=y", "--layer=one")
    yield "an unknown flag", ("train", "--data=x", "--out=y", "--layer=1", "--wings=2")
    yield "an unknown direction", ("steer", "--vector=v", "--direction=up")
    yield "an unknown recipe", ("train", "--config=no-such-recipe")
    yield "a flag that sweep replaces", ("sweep", "--data=x", "--out=y", "--rank=1")


def _of_training(world: _World) -> Iterator[Case]:
    for more in (
        *("--data=WORK/none.csv", "--data=WORK/column.jsonl", "--data=WORK/empty-output.jsonl"),
        *("--data=WORK/number.jsonl", "--data=WORK/fraction.jsonl", "--data=WORK/long.jsonl"),
        *("--data=WORK/damaged.parquet", "--data=WORK/table.xlsx", "--data=WORK/no-rows.csv"),
        *("--model=WORK/none", "--layer=4", "--layer=-5", "--heldout=10", "--heldout=11"),
        *("--heldout=0 --patience=1", "--patience=-1", "--method=magic", "--rank=99", "--rank=0"),
        *("--epochs=0", "--batch_size=0", "--learning_rate=0", "--weight-decay=-1"),
        *("--gradient_clip=0", "--max-response-tokens=0", "--reduction=sum", "--engine=fast"),
        *("--batch_tokens=0", "--together=0", "--source_token=99", "--device=toaster"),
        *("--device_map=auto", "--dtype=int8", "--data=WORK/several.jsonl --heldout=5"),
        *("--concept_id=8", "--layers=[1,2]", "--method=lora --layers=[]"),
        *("--method=lora --layers=[0,1]", "--method=loreft --layers=[1,9]"),
        *("--method=loreft --layers=[1,1]", "--method=loreft --layers=[1] --weight_decay=0.1"),
        "--method=prompt --data=WORK/nameless.jsonl",
    ):
        words = more.replace("WORK", str(world.work)).split()
        yield f"train {more}", (*world.training, *words)


def _of_vectors(world: _World) -> Iterator[Case]:
    def steer(name: str, *more: str) -> tuple[str, ...]:
        return ("steer", f"--vector={world.vector(name)}", "--device=cpu", "--prompt=Hi", *more)

    for name in ("none", "cut", "no-json", "edited", "list", "newer"):
        yield f"steer with a vector that is {name}", steer(name)
    yield "steer another model", steer("cdas", f"--model={world.other}")
    yield "steer a prompt and a file", steer("cdas", f"--file={world.path('empty.txt')}")
    yield "steer an empty prompt", (*steer("cdas")[:3], "--prompt=")
    yield "steer, negative temperature", steer("cdas", "--temperature=-1")
    yield "steer, no budget", steer("cdas", "--batch-tokens=0")
    yield "steer, no such file", (*steer("cdas")[:3], f"--file={world.path('none.txt')}")
    yield "steer, empty file", (*steer("cdas")[:3], f"--file={world.path('empty.txt')}")
    yield "steer, bad lines", (*steer("cdas")[:3], f"--file={world.path('broken.jsonl')}")
    yield "steer lora the other way", steer("lora", "--direction=suppress")
    yield "steer lora by factors", steer("lora", "--rule=interpolate")
    yield "steer by an unknown rule", steer("cdas", "--rule=law")
    yield "steer at unknown positions", steer("cdas", "--positions=some")
    measure = ("evaluate", f"--vector={world.vector('cdas')}", "--device=cpu")
    yield "evaluate on nothing", (*measure, f"--data={world.path('none.csv')}")
    yield "evaluate without multipliers", (*measure, "--multipliers=[]")
    yield "evaluate another model", (*measure, f"--model={world.other}")
    for name, form, target in (
        *(("low", "lm-eval", "x.pt"), ("cdas", "lm-eval", "x.bin"), ("cdas", "gguf", "x.gguf")),
        *(("cdas", "peft", "x"), ("lora", "lm-eval", "x.pt"), ("prompt", "pyvene", "x")),
    ):
        words = ("export", f"--vector={world.vector(name)}", f"--format={form}", "--device=cpu")
        yield f"export {name} {form} {target}", (*words, f"--out={world.path(target)}")
    peft = ("export", f"--vector={world.vector('lora')}", "--format=peft", "--multiplier=2")
    yield "export peft with a strength", (*peft, f"--out={world.path('x')}")


def _of_data(world: _World) -> Iterator[Case]:
    make = ("data", "make", *world.on, "--concept=Sing", f"--out={world.path('made.csv')}")
    yield "inspect a row too far", ("inspect", *world.on, f"--data={world.data}", "--row=10")
    yield "make an .xlsx", (*make, f"--out={world.path('made.xlsx')}")
    yield "make of no concept", (*make, "--concept= ")
    yield "make by a template without places", (*make, "--template=Sing")
    yield "make too many", (*make, "--count=9999")
    yield "make of a genre", (*make, "--count=9999", "--genre=math")
    yield "make of no instructions", (*make, f"--instructions={world.path('empty.txt')}")
    check = ("data", "check", *world.on)
    yield "check a missing column", (*check, f"--data={world.path('broken.jsonl')}")
    yield "check a missing concept", (*check, f"--data={world.data}", "--concept-id=4")
    complete = ("data", "axbench", *world.on, f"--out={world.path('made.csv')}")
    for name, number in (("axbench", 5), ("axbench", -1), ("not-axbench", 3)):
        source = f"--axbench={world.path(name)}.parquet"
        yield f"complete {name} {number}", (*complete, source, f"--concept_id={number}")


def _of_plans(world: _World) -> Iterator[Case]:
    common = (*world.on, f"--data={world.data}", "--wandb=off")
    compare = ("compare", *common, f"--out={world.path('compared')}", "--layer=1")
    for more in (
        *("--methods=magic", "--methods=cdas,cdas", "--layer=9", "--heldout=10", "--seeds=[]"),
        *("--seeds=[1,1]", "--multipliers=[]", "--rows=0", "--methods=lora", "--methods= "),
    ):
        yield f"compare {more}", (*compare, "--methods=cdas", "--heldout=3", more)
    for changes in (
        *({"cdas": {"epoch": 1}}, {"all": {"seed": 1}}, {"lang": {"epochs": 1}}),
        *({"cdas": {"epochs": 0}}, {"cdas": {"epochs": "many"}}),
    ):
        words = f"--changes={json.dumps(changes)}"
        yield f"compare {words}", (*compare, "--methods=cdas", words)
    twice = f"--data={world.data},{world.data}"
    yield "compare a concept of two files", (*compare, "--methods=cdas", twice)
    sweep = ("sweep", *common, f"--out={world.path('swept')}", "--layers=[1]", "--ranks=[1]")
    for more in (
        *("--layers=[9]", "--layers=[]", "--layers=[1,1]", "--layers=[3,-1]", "--ranks=[]"),
        *("--ranks=[0]", "--ranks=[17]", "--concept-id=5", "--heldout=0", "--method=diffmean"),
        *("--method=magic", "--patience=1"),
    ):
        yield f"sweep {more}", (*sweep, "--heldout=3", more)


def _benchmarks(world: _World) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    out = f"--out={world.path('benchmark')}"
    for name in ("refusal", "backdoor"):
        for case in (
            *("", "--model=x --methods=magic", "--model=x --methods=cdas,cdas", "--preset=magic"),
            *("--model=x --seeds=[]", "--model=x --multipliers=[0]", "--model=x --seeds=[1,1]"),
            *("--model=x --stages=rate", "--model=x --rows=0", "--model=x --new_tokens=0"),
            *("--model=x --layers=[1] --methods=prompt", "--layer=one", "--model=x --wings=1"),
        ):
            yield name, case, (out, "--wandb=off", "--device=cpu", *case.split())
        changes = '--changes={"reps":{"epochs":1}}'
        yield name, changes, (out, "--model=x", "--methods=cdas", "--wandb=off", changes)
    yield "refusal", "local judge", (out, "--model=x", "--judge=local", "--wandb=off")
    words = ("--rows=6", "--tests=3", "--layer=1", "--new-tokens=5", "--wandb=off", "--tasks=[]")
    yield "backdoor", "a model without one", (out, *world.on, *words)
    for case in (
        *("--preset=magic", "--preset=smollm2-135m --methods=lora --dry-run"),
        "--preset=smollm2-135m --judge=local",
        *('--preset=smollm2-135m --dry-run --changes={"all":{"wings":2}}', "--seed=one"),
        *("--preset=smollm2-135m --dry-run --concepts=5:5", "--preset=smollm2-135m --data=none"),
        "--preset=smollm2-135m --dry-run --concepts=a",
    ):
        yield "axbench", case, (out, "--wandb=off", *case.split())


def _functions(world: _World) -> Iterator[tuple[str, Callable[[], Any]]]:
    model, records = golden_model(), [library.Quadruple(**row) for row in rows()]
    chat = library.ChatFormat.of(tiny_tokenizer())
    loaded = library.LoadedModel(model, tiny_tokenizer(), "tiny")
    clamp, added, lora, prompt = (
        library.load_vector(world.vector(name)) for name in ("cdas", "reps", "lora", "prompt")
    )
    config = library.TrainingConfig(epochs=1)
    frame = pd.DataFrame(rows())

    def steered(vector: Any, **options: Any) -> None:
        with library.steer(model, vector, **options):
            model(torch.tensor([[5, 6, 7]]))

    def answers(**options: Any) -> Any:
        return library.generate_responses(
            model, chat, [chat.prompt("Hi")] * 2, max_new_tokens=2, **options
        )

    yield "find_method", lambda: library.find_method("magic")
    yield "TrainingConfig rank", lambda: library.TrainingConfig(rank=0)
    yield "TrainingConfig learning_rate", lambda: library.TrainingConfig(learning_rate=-1.0)
    yield "EngineOptions together", lambda: library.EngineOptions(together=0)
    yield "find_site", lambda: library.find_site(model, 4)
    yield "read_quadruples, no column", lambda: library.read_quadruples(frame[["concept"]])
    yield "read_quadruples, no rows", lambda: library.read_quadruples(frame.iloc[:0])
    yield "read_quadruples, concept", lambda: library.read_quadruples(frame, concept_id=9)
    yield "split_quadruples", lambda: library.split_quadruples(records, 10, 0)
    yield "shipped_instructions", lambda: library.shipped_instructions(10**6, 0, "text")
    yield "ChatFormat.of", lambda: library.ChatFormat.of(tiny_tokenizer(), source_token=99)
    yield "an empty instruction", lambda: chat.prompt("")
    yield "load_vector, no folder", lambda: library.load_vector(world.path("nothing"))
    yield (
        "load_vector, other model",
        lambda: library.load_vector(world.vector("cdas"), golden_model(seed=1)),
    )
    yield "load_model", lambda: library.load_model(world.path("nothing"))
    yield "generate_responses, temperature", lambda: answers(temperature=-0.5)
    yield "generate_responses, keys", lambda: answers(keys=[1])
    yield "generate_responses, steering", lambda: answers(steering=[None])
    yield (
        "generate_responses, direction",
        lambda: answers(steering=library.Steering(lora, "suppress")),
    )
    yield (
        "generate_responses, rule",
        lambda: answers(steering=library.Steering(lora, rule="interpolate")),
    )
    yield "steer by text", lambda: steered(prompt)
    yield "steer two rows", lambda: steered([library.Steering(clamp)] * 2)
    yield (
        "steer by a factor of other rank",
        lambda: steered(library.Steering(clamp, factor=torch.ones(2))),
    )
    yield "steer a prompt of unknown length", lambda: steered(clamp, positions="prompt")
    yield (
        "factors that are not finite",
        lambda: replace(clamp, positive_factor=torch.tensor([float("nan")])),
    )
    yield "factors of other rank", lambda: replace(clamp, positive_factor=torch.ones(2))
    yield "train_vector, layer", lambda: library.train_vector(loaded, chat, records, [], 4, config)
    yield "to_gguf of a clamp", lambda: exports.to_gguf(clamp, world.path("x.gguf"), "elicit")
    yield (
        "to_gguf at block 0",
        lambda: exports.to_gguf(replace(added, layer=0), world.path("x.gguf"), "elicit"),
    )
    yield "from_gguf", lambda: exports.from_gguf(world.data, model)
    yield "from_pyvene", lambda: exports.from_pyvene(world.path("nothing"), model)
