"""The vectors that come with the package belong to the packaged model, and steer it."""

import pytest

from concept_das.cli import main
from concept_das.models.packaged import PACKAGED_MODEL
from concept_das.steering.artifact import load_vector
from concept_das.steering.hub import SHIPPED, vector_folder
from concept_das.steering.vector import SteeringVector


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_vector_is_whole(name: str) -> None:
    vector = SteeringVector.load(name)
    assert vector.model.name == PACKAGED_MODEL
    assert vector.model.fingerprint.startswith("2:")
    assert vector.concept
    assert vector.chat is not None
    assert vector.metrics["elicitation_recovery_at_1"] > 0.5
    assert vector.metrics["suppression_recovery_at_1"] > 0.5
    card = (vector_folder(name) / "README.md").read_text(encoding="utf-8")
    assert "concept-das demo" in card
    assert f"--vector {name} " in card
    size = sum(path.stat().st_size for path in vector_folder(name).iterdir())
    assert size < 60_000


@pytest.mark.slow
def test_the_shipped_pirate_steers_the_packaged_model(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "Tell me how to start a conversation with someone I do not know at a party."
    command = ["steer", "--vector", "pirate", "--max-new-tokens", "40", "--prompt"]
    assert main([*command, prompt, "--compare"]) == 0
    printed = capsys.readouterr().out
    steered, unsteered = (
        line for line in printed.splitlines() if line.split(":")[0].strip() in WAYS
    )
    assert "matey" in steered.lower()
    assert "matey" not in unsteered.lower()
    assert main([*command, f"{prompt} Talk like a pirate.", "--direction", "suppress"]) == 0
    assert "matey" not in capsys.readouterr().out.lower()


WAYS = ("steered", "unsteered")


@pytest.mark.slow
def test_another_model_is_refused() -> None:
    from concept_das.errors import VectorMismatchError
    from tests.tiny import tiny_model

    with pytest.raises(VectorMismatchError, match="smollm2-135m"):
        load_vector("pirate", tiny_model())
