"""Recipes are the one source of hyper-parameters: complete, and read by train and benchmarks."""

from dataclasses import asdict

import pytest
import yaml

from concept_das import InputError, TrainingConfig
from concept_das.cli.configs import method_of, with_recipes
from concept_das.cli.parser import build_parser
from concept_das.methods import METHODS
from concept_das.methods.recipes import FOLDER, method_defaults, read_recipe, recipe_names
from tests.tiny import tiny_tokenizer

NAMES = recipe_names()


@pytest.fixture(scope="module")
def parser():
    return build_parser()


def train_options(parser, *arguments):
    given = ["train", "--layer=0", *arguments, "--data=rows.parquet", "--out=runs/x"]
    return parser.parse_args(with_recipes(given, method_of(given))).train


@pytest.mark.parametrize("name", NAMES)
def test_train_takes_a_recipe_by_its_name(name, parser):
    recipe = read_recipe(name)
    assert name.endswith(f"-l{recipe.layer}")
    assert recipe.layer_source
    for method, config in recipe.configs.items():
        options = train_options(parser, "--config", name, "--method", method)
        assert options.layer == recipe.layer
        assert options.model == recipe.loading.get("model")
        found = {key: options[key] for key in asdict(config)}
        assert {**found, "layers": tuple(found["layers"])} == asdict(config)
        assert recipe.sources[method].startswith(
            (
                "release",
                "AxBench",
                "this project",
                "CDAS paper",
                "as CDAS",
                "not released",
                "OLMo-2",
            )
        )
    if "model" in recipe.loading:
        family = recipe.loading["model"].split("/")[-1].lower().replace(".", "").replace("-", "")
        assert family.startswith(name.split("-")[0])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_entries_hold_a_source_and_hyper_parameters_alone(path):
    content = yaml.safe_load(path.read_text())
    entries = content if path.stem == "defaults" else content.get("methods", {})
    known = {*TrainingConfig.__dataclass_fields__, "source"} - {"method"}
    assert entries.keys() <= METHODS.keys()
    for entry in entries.values():
        assert entry.keys() <= known


def test_the_defaults_are_those_of_the_settings_and_the_methods():
    cdas = yaml.safe_load((FOLDER / "defaults.yaml").read_text())["cdas"]
    own = {**asdict(TrainingConfig()), "source": cdas["source"]}
    assert cdas == {name: own[name] for name in cdas}
    for name, method in METHODS.items():
        assert method.defaults == {}
        assert method.config() == TrainingConfig(method=name, **method_defaults(name))


def test_unknown_recipes_and_methods_are_named():
    with pytest.raises(InputError, match="unknown recipe 'gpt'; choose one of checkpoint"):
        read_recipe("gpt")
    with pytest.raises(InputError, match="olmo-2-1b-axbench-l8 has no method 'lora'"):
        read_recipe("olmo-2-1b-axbench-l8").options("lora")


TURNS = [{"role": "user", "content": " Hi "}]
OPENED = {
    "llama-3.1": "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen-2.5": "<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n",
    "phi-3.5": "<s><|user|>\n Hi <|end|>\n<|assistant|>\n",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_templates_have_no_default_system_prompt(name):
    recipe = read_recipe(name)
    family = next((family for family in OPENED if name.startswith(family)), None)
    assert (recipe.chat_template is not None) == (family is not None)
    options = recipe.options("cdas")
    assert options.get("chat_template") == recipe.chat_template
    if family is not None:
        assert recipe.chat_source.startswith("release")
        tokenizer = tiny_tokenizer()
        tokenizer.bos_token = "<s>"
        tokenizer.chat_template = recipe.chat_template
        opened = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
        assert opened == OPENED[family]
        system = [{"role": "system", "content": "Be brief."}, *TURNS]
        assert "Be brief." in tokenizer.apply_chat_template(system, tokenize=False)


def test_a_recipe_without_one_takes_over_its_bases_template():
    own, other = (
        read_recipe(name) for name in ("llama-3.1-8b-refusal-l12", "llama-3.1-70b-refusal-l32")
    )
    assert own.chat_template == other.chat_template
