"""Who answers prompts: Hugging Face's generate, vLLM in this process, or a server of vLLM's.

All three get the same tokens, since the chat template is applied here. Greedy answers are the same
but where two tokens are equally likely; sampled ones follow from the same seeds by other noise.
"""

from functools import cache
from pathlib import Path

from concept_das.errors import InputError
from concept_das.steering.generation import Generator


def check_generator(name: str) -> None:
    """Make sure that there is such a generator.

    Raises:
        InputError: if there is not.
    """
    if name not in ("hf", "vllm") and not name.startswith(("http://", "https://")):
        raise InputError(
            f"unknown generator {name!r}; choose hf, vllm, or the address of a server as "
            "http://localhost:8000/v1"
        )


@cache
def generator_of(
    name: str,
    model: str,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    beside: Path | None = None,
) -> Generator | None:
    """The generator of that name; None for hf, where the loaded model answers itself.

    One process makes each once, because vLLM takes its time to start and most of a GPU's memory.

    Args:
        name: hf, vllm, or the address of a server (`concept-das serve`), which has loaded its model
            already.
        model, dtype, revision, trust_remote_code: see `load_model`.
        beside: of vllm, a folder below which the vectors lie that may come to be used.

    Raises:
        InputError: if there is no such generator, or a package is missing.
    """
    check_generator(name)
    if name == "hf":
        return None
    if name == "vllm":
        from concept_das.serving.offline import Offline

        return Offline(model, dtype, revision, trust_remote_code, beside)
    from concept_das.serving.remote import Remote

    return Remote(name)
