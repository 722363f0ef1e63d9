"""The loopback hub answers the clients as the real one does."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.hub import STRANGER, TOKEN, Hub
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

PROMPT = torch.arange(3, 9)[None]


@pytest.fixture
def served(hub: Hub, tmp_path: Path) -> Hub:
    hub.add("name/model", save_tiny(tmp_path / "model"))
    return hub


def rows(folder: Path, *, text: str = "a") -> Path:
    """A data set of two splits and a configuration of its own in the card."""
    for split in ("train", "test"):
        path = folder / "data" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": text + str(i)}) + "\n" for i in range(3)))
    (folder / "more").mkdir()
    (folder / "more/all.jsonl").write_text('{"text": "b"}\n')
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: data/train.jsonl\n  - split: test\n    path: data/test.jsonl\n"
        "- config_name: more\n  data_files: more/*.jsonl\n---\n# Rows\n"
    )
    return folder


def test_a_model_is_loaded_by_its_id(served: Hub) -> None:
    loaded = AutoModelForCausalLM.from_pretrained("name/model")
    torch.testing.assert_close(loaded(PROMPT).logits, tiny_model()(PROMPT).logits)
    assert AutoTokenizer.from_pretrained("name/model")("Ab").input_ids == (
        tiny_tokenizer()("Ab").input_ids
    )


def test_a_data_set_is_loaded_by_its_id(hub: Hub, tmp_path: Path) -> None:
    from datasets import load_dataset

    hub.add("name/rows", rows(tmp_path / "rows"), "dataset")
    assert load_dataset("name/rows", split="test")["text"][:] == ["a0", "a1", "a2"]
    assert load_dataset("name/rows", "more", split="train")["text"][:] == ["b"]
    hub.add("name/rows", rows(tmp_path / "other", text="c"), "dataset", revision="next")
    assert load_dataset("name/rows", split="test", revision="next")["text"][0] == "c0"


def test_another_process_uses_the_hub_by_its_environment(served: Hub) -> None:
    code = (
        "from huggingface_hub import hf_hub_download\n"
        "print(hf_hub_download('name/model', 'config.json'))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=served.env, capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip())
    assert path.is_relative_to(served.folder / "home/hub")
    assert json.loads(path.read_text())["num_hidden_layers"] == 4


def test_downloads_are_cached_and_may_be_of_a_part(served: Hub) -> None:
    path = hf_hub_download("name/model", "model.safetensors")
    assert Path(path).read_bytes() == (served.files("name/model")["model.safetensors"].read_bytes())
    asked = len(served.asked)
    assert path == hf_hub_download("name/model", "model.safetensors", local_files_only=True)
    assert len(served.asked) == asked
    asking = Request(
        f"{served.url}/name/model/resolve/main/model.safetensors",
        headers={"Range": "bytes=10-19"},
    )
    with urlopen(asking) as answer:
        assert (answer.status, answer.read()) == (206, Path(path).read_bytes()[10:20])


def test_what_is_missing_or_closed_has_the_hubs_errors(served: Hub, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file.txt").write_text("text")
    served.add("name/closed", tmp_path / "a", private=True)
    served.add("name/gated", tmp_path / "a", gated=True)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("name/none", "file.txt")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("name/model", "config.json", revision="none")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("name/model", "none.json")
    for token in (False, STRANGER):
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("name/closed", "file.txt", token=token)
        with pytest.raises(GatedRepoError):
            hf_hub_download("name/gated", "file.txt", token=token)
    assert Path(hf_hub_download("name/closed", "file.txt", token=TOKEN)).read_text() == "text"
    assert Path(hf_hub_download("name/gated", "file.txt", token=TOKEN)).read_text() == "text"


def test_uploads_make_commits(hub: Hub, tmp_path: Path) -> None:
    api = HfApi(token=TOKEN)
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub/text.txt").write_text("text")
    (source / "large.bin").write_bytes(bytes(1000))
    (source / "README.md").write_text("---\nlicense: mit\ntags: [a]\n---\n# Card\n")
    assert api.create_repo("name/pirate").repo_id == "name/pirate"
    api.upload_folder(repo_id="name/pirate", folder_path=source)
    assert Path(snapshot_download("name/pirate"), "large.bin").read_bytes() == bytes(1000)
    assert api.model_info("name/pirate").tags == ["a"]
    assert "PUT" in " ".join(hub.asked)  # the large file
    api.create_branch("name/pirate", branch="next")
    (source / "sub/text.txt").write_text("other")
    api.upload_folder(repo_id="name/pirate", folder_path=source, revision="next")
    assert Path(hf_hub_download("name/pirate", "sub/text.txt")).read_text() == "text"
    later = hf_hub_download("name/pirate", "sub/text.txt", revision="next")
    assert Path(later).read_text() == "other"


def test_uploads_are_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(token=False).create_repo("name/pirate")
    with pytest.raises(HfHubHTTPError, match="rights"):
        HfApi(token=STRANGER).create_repo("name/pirate")
    HfApi(token=TOKEN).create_repo("name/pirate")
    with pytest.raises(ValueError, match="base_model"):
        HfApi(token=TOKEN).upload_file(
            repo_id="name/pirate",
            path_in_repo="README.md",
            path_or_fileobj=b"---\nbase_model: 'no id'\n---\n",
        )
