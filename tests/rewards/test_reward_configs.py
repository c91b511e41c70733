"""Every YAML under conf/reward against the functions it names."""

from itertools import takewhile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rlhf_recipes.__main__ import register_recipes, rewrite
from rlhf_recipes.rewards import RewardFunctions

FOLDER = Path(__file__).parents[2] / "conf/reward"
CONFIGS = sorted(file.stem for file in FOLDER.glob("*.yaml"))


def merged(name):
    """The YAML with its defaults below it, as Hydra lays them."""
    own = OmegaConf.load(FOLDER / f"{name}.yaml")
    below = [merged(base) for base in own.pop("defaults", []) if base != "_self_"]
    return OmegaConf.merge(*below, own)


def functions_of(name):
    root = OmegaConf.create({"reward": merged(name)})
    return OmegaConf.to_container(root, resolve=True)["reward"]["functions"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_reward_config_opens_with_its_command_and_loads(name):
    head = "".join(takewhile(lambda line: line[0] == "#", (FOLDER / f"{name}.yaml").open(encoding="utf-8")))
    assert f"reward={name}" in head
    assert "Expect" in head
    node = merged(name)
    functions = functions_of(name)
    assert set(RewardFunctions(functions).parts) == set(functions)
    assert functions or node.models or name == "none"


def test_gsm8k_config_gives_a_gold_answer_four_points():
    text = "<reasoning>\n6 x 12\n</reasoning>\n<answer>\n72\n</answer>\n"
    assert RewardFunctions(functions_of("gsm8k"))(["?"], [text], {"answer": ["#### 72"]})[0] == [4.0]


def test_reasoning_config_gives_a_gold_answer_thirteen_points_and_its_tags_are_one_place():
    text = "6 x 12<end_working_out><SOLUTION>72</SOLUTION>"
    assert RewardFunctions(functions_of("reasoning"))(["?"], [text], {"final_answer": ["72"]})[0] == [13.0]
    root = OmegaConf.create({"reward": merged("reasoning")})
    root.reward.tags.solution_start, root.reward.tags.solution_end = "<answer>", "</answer>"
    functions = OmegaConf.to_container(root, resolve=True)["reward"]["functions"]
    text = "6 x 12<end_working_out><answer>72</answer>"
    assert RewardFunctions(functions)(["?"], [text], {"final_answer": ["72"]})[0] == [13.0]


def test_sql_config_gives_a_gold_query_full_marks():
    gold, context = "SELECT a FROM t WHERE b > 2", "CREATE TABLE t (a TEXT, b INT)"
    columns = {"sql": [gold] * 2, "context": [context] * 2}
    scores, by_name = RewardFunctions(functions_of("sql_execution"))(["?"] * 2, [gold, "SELECT b FROM t"], columns)
    assert scores == pytest.approx([1.1, 0.1])
    assert by_name["exact_match"] == [1.0, 0.0]


def test_the_tidy_mix_waits_for_the_form():
    rewards = RewardFunctions(functions_of("gsm8k_tidy"))
    assert [name for name, part in rewards.parts.items() if part.gate] == ["soft_format"]
    good = "<reasoning>\n6 x 12\n</reasoning>\n<answer>\n72\n</answer>\n"
    scores, by_name = rewards(["?"] * 2, [good, "#### 72"], {"answer": ["72"] * 2})
    assert scores == pytest.approx([3.5, 0.0])
    assert by_name["correctness"] == [2.0, 2.0]


def test_the_embedded_domain_is_scored():
    prompts, completions = ["What is 3 plus 4?"] * 2, [" It is 7.", " 8."]
    assert RewardFunctions(functions_of("exact"))(prompts, completions)[0] == [1.0, 0.0]
    good, bad = RewardFunctions(functions_of("gold"))(prompts, completions)[0]
    assert good > bad


def test_a_mix_changes_what_it_says():
    functions = functions_of("model_and_length")
    assert (functions["length_target"]["weight"], functions["length_target"]["kwargs"]["target"]) == (0.5, 60)
    assert merged("model_and_length").models.learned.path == "auto"


def test_a_script_is_chosen_by_its_setting():
    node = functions_of("script")
    texts = ["Straße 5", "да da", "42"]
    assert RewardFunctions(node)(["?"] * 3, texts)[1]["script"] == [1.0, 0.5, None]
    node["script"]["kwargs"]["script"] = "cyrillic"
    assert RewardFunctions(node)(["?"] * 3, texts)[1]["script"] == [0.0, 0.5, None]


@pytest.mark.parametrize(
    ("given", "completion", "score"),
    [
        ([], "{}", 1.0),
        ([], "[]", 0.5),
        (['schema={enum: [yes_, "yes"]}'], '"yes"', 1.0),
        (["schema={anyOf: [{type: string}, {type: array}]}"], "[]", 1.0),
        (["schema={anyOf: [{type: string}, {type: array}]}"], "{}", 0.5),
        (["schema=true"], "7", 1.0),
        (['schema=\'{"type": "array"}\''], "[]", 1.0),
    ],
)
def test_a_schema_from_the_shell_replaces_the_configs(given, completion, score):
    pytest.importorskip("jsonschema")
    given = [f"reward.functions.json_schema.kwargs.{setting}" for setting in given]
    register_recipes()
    with initialize_config_dir(str(FOLDER.parent), version_base="1.3"):
        cfg = compose("config", rewrite(["stage=score", "reward=json_schema", *given]))
    functions = OmegaConf.to_container(cfg.reward.functions, resolve=True)
    assert RewardFunctions(functions)(["?"], [completion])[0] == [score]
