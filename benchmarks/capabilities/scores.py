"""Scores of a model on lm-eval's tasks, and how steering changes them.

    before = capability_scores(loaded.model, loaded.tokenizer, ["mmlu"], apply_chat_template=True)
    after = capability_scores(..., steering=Steering(vector, "suppress"))
    capability_change(before, after)

The paper reports such changes for vectors that suppress: MMLU (5 examples) and TruthfulQA (3) under
refusal, tinyMMLU and tinyARC under the backdoor. The same questions are asked with and without
steering, so the difference is taken question by question: its standard error is that of the mean
difference, and most often far below what the two scores' own errors suggest.
"""

import copy
import importlib.util
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from concept_das.data.chat_format import ChatFormat
from concept_das.errors import InputError
from concept_das.steering.context import Steering, steer

TASKS_FOLDER = Path(__file__).parent / "tasks"
EVERYDAY = "concept_das_everyday"
"""The project's own task, which needs no network."""

# Solved examples before each question: of every task, or by its name; a task's own where None.
Shots = int | Mapping[str, int | None] | None


@dataclass(frozen=True)
class Framing:
    """Text of the user's around every question and answer of a chat.

    Args:
        before_question: stands at the start of each user turn, such as a backdoor's trigger.
        before_answer: stands at the start of each answer, the one to be scored included, such as
            reasoning that the model is not left to choose. Ends in white space if the answers are
            words of their own.
    """

    before_question: str = ""
    before_answer: str = ""

    def of(self, chat: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
        """The same turns with the text around them."""
        start = {"user": self.before_question, "assistant": self.before_answer}
        return [{**turn, "content": start.get(turn["role"], "") + turn["content"]} for turn in chat]


def capability_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str] = (EVERYDAY,),
    *,
    steering: Steering | None = None,
    num_fewshot: Shots = None,
    limit: int | None = None,
    apply_chat_template: bool = False,
    fewshot_as_multiturn: bool = True,
    framing: Framing = Framing(),
    chat: ChatFormat | None = None,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Score a model, steered or not, on tasks of lm-eval.

    Every token after the template prefix is steered, the answers to be scored included. The prefix
    is that of the chat template as lm-eval renders it for a task without a description. A
    description becomes the system turn, and the same number of tokens is protected then. Without
    the template only a begin-of-text token is protected, if the tokenizer puts one.

    Args:
        tasks: names that lm-eval knows (tasks, groups, tags), tasks of this folder, or yaml files.
        steering: None for the model as it is. A prompt that steers, and LoReFT, which edits the end
            of a prompt, are refused: lm-eval does not say where its prompts end.
        num_fewshot: solved examples before each question, of every task or by its name; the task's
            own number by default.
        limit: only the first so many questions of each task.
        fewshot_as_multiturn: with the template, whether each example is a turn of its own.
        framing: text around questions and answers; needs the template.
        chat: the chat format whose template is used, with its system prompt, date and options; the
            tokenizer's own if None.
        batch_size: answers per forward pass.

    Returns:
        One row per task and metric: `task`; `metric`, with the name of lm-eval's filter after a
        comma where it has one; `value`; `stderr`, lm-eval's, NaN if it has none; `samples`, the
        number of questions; `scores`, a dictionary of each question's own score, by which
        `capability_change` pairs them. It is empty if the value is not the mean of such scores
        (a perplexity, for instance).

    Raises:
        InputError: if lm-eval is missing, does not know a task, or the vector cannot steer here; if
            a framing is given without the template.
        VectorMismatchError: if the vector belongs to another model.
    """
    if framing != Framing() and not apply_chat_template:
        raise InputError("a framing stands around the turns of a chat; set apply_chat_template")
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise InputError(
            "capability scores need lm-eval; pip install 'concept-das[lmeval]'"
        ) from error

    class FramedLM(HFLM):
        """lm-eval's own model but for the framing, which an empty one leaves out."""

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            text = super().apply_chat_template(framing.of(chat_history), add_generation_prompt)
            return str(text) + (framing.before_answer if add_generation_prompt else "")

    manager = _task_manager(tasks)
    chat = chat or (ChatFormat.of(tokenizer) if apply_chat_template else None)
    prefix_length = _prefix_length(tokenizer, chat if apply_chat_template else None)
    template = chat.template.arguments("") if chat is not None else {}
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = template.get("chat_template", tokenizer.chat_template)
    known = {"conversation", "chat_template"}
    found = []
    with steer(model, steering, prefix_length=prefix_length) if steering else nullcontext():
        lm = FramedLM(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            chat_template_args={k: v for k, v in template.items() if k not in known},
        )
        for shots, some in _by_shots(tasks, num_fewshot):
            results = lm_eval.simple_evaluate(
                lm,
                tasks=some,
                task_manager=manager,
                num_fewshot=shots,
                limit=limit,
                system_instruction=chat.system if chat is not None else None,
                apply_chat_template=apply_chat_template,
                fewshot_as_multiturn=apply_chat_template and fewshot_as_multiturn,
            )
            found.append(scores_of(results))
    return pd.concat(found, ignore_index=True)


def _by_shots(tasks: Sequence[str], shots: Shots) -> Iterable[tuple[int | None, list[str]]]:
    """Tasks that have as many examples, which lm-eval is asked for together."""
    groups: dict[int | None, list[str]] = {}
    for task in tasks:
        count = shots.get(task) if isinstance(shots, Mapping) else shots
        groups.setdefault(count, []).append(task)
    return groups.items()


def scores_of(results: Mapping[str, Any]) -> pd.DataFrame:
    """The table of `capability_scores` from what `lm_eval.simple_evaluate` returns.

    The questions of a group are those of all tasks in it.
    """
    rows = []
    for task, values in results["results"].items():
        leaves = list(_leaves(task, results.get("group_subtasks", {})))
        for key, value in values.items():
            metric, _, filter_name = key.partition(",")
            if not filter_name or metric.endswith("_stderr"):
                continue
            scores = {
                _question(leaf, sample): sample[metric]
                for leaf in leaves
                for sample in results["samples"][leaf]
                if sample["filter"] == filter_name and metric in sample
            }
            stderr = values.get(f"{metric}_stderr,{filter_name}")
            rows.append(
                {
                    "task": task,
                    "metric": metric if filter_name == "none" else key,
                    "value": value,
                    "stderr": stderr if isinstance(stderr, float) else math.nan,
                    "samples": len(scores),
                    "scores": scores if _is_mean(value, scores.values()) else {},
                }
            )
    return pd.DataFrame(rows)


def capability_change(unsteered: pd.DataFrame, steered: pd.DataFrame) -> pd.DataFrame:
    """Changes of the scores of `capability_scores`.

    Returns:
        One row per task and metric: `task`, `metric`, `unsteered`, `steered`, `change` (steered
        minus unsteered), `stderr` of the change, `samples`. The error is the standard deviation of
        the questions' differences (n - 1 in the denominator) over the root of their number n; NaN
        for a metric that is not a mean over questions, and for a single question.

    Raises:
        InputError: if the two do not hold the same tasks, questions and prompts.
    """
    index = ["task", "metric"]
    before, after = unsteered.set_index(index), steered.set_index(index)
    if set(before.index) != set(after.index):
        differing = sorted({task for task, _ in set(before.index) ^ set(after.index)})
        raise InputError(
            f"{', '.join(differing)} is not scored by the same metrics with and without steering; "
            "score both with the same tasks"
        )
    rows = []
    for task, metric in before.index:
        old, new = before.loc[(task, metric)], after.loc[(task, metric)]
        if old["samples"] != new["samples"] or old["scores"].keys() != new["scores"].keys():
            raise InputError(
                f"{task} was not asked the same questions in the same words with and without "
                "steering; score both with the same limit, num_fewshot and apply_chat_template"
            )
        differences = np.array([new["scores"][key] - old["scores"][key] for key in old["scores"]])
        n = len(differences)
        rows.append(
            {
                "task": task,
                "metric": metric,
                "unsteered": old["value"],
                "steered": new["value"],
                "change": new["value"] - old["value"],
                "stderr": differences.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan,
                "samples": old["samples"],
            }
        )
    return pd.DataFrame(rows)


def _task_manager(tasks: Sequence[str]) -> Any:
    """lm-eval's index of tasks with the project's own; reading all of lm-eval's takes seconds."""
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=str(TASKS_FOLDER), include_defaults=False)
    if all(task in own.all_tasks or Path(task).is_file() for task in tasks):
        return own
    # Their scores are estimates for the whole benchmark, by a package that lm-eval does not bring.
    tiny = [task for task in tasks if task.startswith("tiny")]
    if tiny and importlib.util.find_spec("tinyBenchmarks") is None:
        raise InputError(
            f"lm-eval's {tiny[0]} needs the package tinyBenchmarks, which is not on PyPI: pip "
            "install git+https://github.com/felipemaiapolo/tinyBenchmarks; or take "
            "concept_das_tinymmlu and concept_das_tinyarc, plain accuracy on the same questions"
        )
    manager = TaskManager(include_path=str(TASKS_FOLDER))
    unknown = [task for task in tasks if task not in manager.all_tasks and not Path(task).is_file()]
    if unknown:
        raise InputError(
            f"lm-eval has no task {', '.join(map(repr, unknown))}; `lm_eval ls tasks` lists its "
            f"own, and {EVERYDAY} comes with this project"
        )
    return manager


def _prefix_length(tokenizer: PreTrainedTokenizerBase, chat: ChatFormat | None) -> int:
    """Leading tokens of every prompt that are not to be steered."""
    if chat is not None:
        return len(chat.prefix)
    first = tokenizer("text")["input_ids"][0]
    return int(tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id)


def _leaves(task: str, subtasks: Mapping[str, Sequence[str]]) -> Iterable[str]:
    """The tasks in a group, at any depth; a task itself."""
    if task not in subtasks:
        return [task]
    return dict.fromkeys(leaf for child in subtasks[task] for leaf in _leaves(child, subtasks))


def _question(task: str, sample: Mapping[str, Any]) -> str:
    """A name of a question that changes with its answers and with the prompt it is asked in."""
    return "/".join(
        [task, str(sample["doc_id"]), sample["doc_hash"][:12], sample["prompt_hash"][:12]]
    )


def _is_mean(value: float, scores: Iterable[object]) -> bool:
    """True if a task's value is the mean of its questions' scores, all of them numbers."""
    each = list(scores)
    if not each or not all(isinstance(score, int | float | np.number) for score in each):
        return False
    return math.isclose(value, float(np.array(each).mean()), rel_tol=1e-9, abs_tol=1e-9)
