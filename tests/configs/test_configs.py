"""Every YAML in conf/ and recipes/ composes, recursively, and holds only keys that something reads."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from rlhf_recipes import stages
from rlhf_recipes.__main__ import register_recipes
from rlhf_recipes.config import settings
from rlhf_recipes.config.paths import CONF, RECIPES, headline, options

GROUPS = sorted(d.name for d in CONF.iterdir() if d.is_dir() and d.name != "accelerate")
CHOICES = [(group, option) for group in GROUPS for option in options(CONF / group)]
# What a user must give is given here, so that the rest can be checked.
GIVEN = {
    "score": ["score.file=answers.jsonl"],
    "local": ["model.path=somewhere"],
    "tinystories_sentiment": ["model.path=somewhere", "++data.gold.kwargs.lexicon=words.txt"],
    "ensemble": ["reward.models.learned.path=[a,b]"],
}


@pytest.fixture(scope="module", autouse=True)
def hydra_house():
    register_recipes()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides):
    return compose("config", overrides=list(overrides))


def test_nothing_in_conf_is_left_out():
    assert len(CHOICES) == len([f for g in GROUPS for f in (CONF / g).rglob("*.yaml")])
    assert len(CHOICES) > 40


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_every_option_composes_and_is_known(group, option):
    stage = option if group == "stage" else "sft"
    overrides = dict.fromkeys([f"stage={stage}", f"{group}={option}"])
    cfg = composed(*overrides, *GIVEN.get(option, []))
    fill_missing(cfg)
    checked = stages.checked(cfg)
    assert checked.stage == stage


@pytest.mark.parametrize("recipe", options(RECIPES))
def test_every_recipe_composes_for_its_stage(recipe):
    cfg = composed(f"recipes={recipe}", *GIVEN.get(Path(recipe).parts[0], []))
    assert settings.unset(cfg) == [], "a recipe sets all that its README does not ask for"
    checked = stages.checked(cfg)
    assert checked.stage == Path(recipe).name


def test_every_file_opens_with_what_help_lists_and_recipes_with_their_command():
    files = [*CONF.rglob("*.yaml"), *RECIPES.rglob("*.yaml")]
    assert [file for file in files if len(headline(file)) <= 15] == []
    for recipe in options(RECIPES):
        comments = [line for line in (RECIPES / f"{recipe}.yaml").read_text().splitlines() if line.startswith("#")]
        assert any(f"recipes={recipe}" in line for line in comments), recipe


@pytest.mark.parametrize("stage", options(CONF / "stage"))
def test_trainer_defaults_build_the_class(stage, tmp_path):
    cfg = composed(f"stage={stage}", *GIVEN.get(stage, []))
    if not cfg.get("trainer"):
        pytest.skip(f"stage={stage} has no trainer")
    fields = OmegaConf.to_container(cfg.trainer, resolve=True)
    args = get_class(fields.pop("_target_"))(output_dir=str(tmp_path), bf16=False, **fields)
    assert args.learning_rate == fields["learning_rate"]


@pytest.mark.parametrize("option", options(CONF / "kl"))
def test_every_controller_builds_and_steers(option):
    from rlhf_recipes.training.kl import kl_controller

    controller = kl_controller(composed("stage=ppo", f"kl={option}"))
    before = controller.kl_coef
    controller.update(kl=1e6, episodes=512)
    assert (controller.kl_coef > before) == (option != "fixed")


def fill_missing(cfg):
    for key in settings.unset(cfg):
        OmegaConf.update(cfg, key, "given", force_add=True)


def test_a_recipe_of_another_controller_can_be_run_with_a_fixed_beta(capsys):
    cfg = stages.checked(composed("stage=ppo", "recipes=embedded/ppo", "kl=fixed"))
    assert set(cfg.kl) == {"_target_", "kl_coef"}
    assert "FixedKL reads no target or horizon" in capsys.readouterr().err
