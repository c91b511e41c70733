"""The warm-up of reasoning_qwen3_4b: rows, template and rewards mean the same form."""

import pytest
from omegaconf import OmegaConf
from recipe_house import composed
from stand_ins import tokenizer_of

from rlhf_recipes import data, models
from rlhf_recipes.config.schema import Model
from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards import RewardFunctions


@pytest.fixture(scope="module")
def warm_up(written):
    """(composed config, tokenizer, the warm-up's rows)."""
    file = written("dapo_math_17k", "demos")
    cfg = composed("reasoning_qwen3_4b", "sft", f"data.demos.path={file}", "data.eval_fraction=0")
    tokenizer = tokenizer_of("qwen3-base", ["What is twice 2?"] * 2)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.chat_template = cfg.model.chat_template
    return cfg, tokenizer, data.load(cfg.data, "demos", tokenizer=tokenizer)


def test_rows_without_a_number_or_too_long_are_dropped_and_counted(warm_up):
    _, _, rows = warm_up
    assert rows.counts["dropped"] == {"the answer is not a number": 1, "longer than 1024 tokens": 1}
    assert len(rows.train) == 38


def test_a_warm_up_answer_earns_full_marks(warm_up):
    cfg, _, rows = warm_up
    node = OmegaConf.to_container(OmegaConf.create({"reward": cfg.reward}), resolve=True)["reward"]
    row = rows.train[0]
    gold = row["prompt"][-1]["content"].removeprefix("What is twice ").removesuffix("?")
    scores, _ = RewardFunctions(node["functions"])(
        [row["prompt"]], [row["completion"]], {"final_answer": [str(2 * int(gold))]}
    )
    assert scores == [13.0]


def test_the_template_opens_every_answer_with_the_first_tag(warm_up):
    _, tokenizer, rows = warm_up
    prompt, completion = rows.train[0]["prompt"], rows.train[0]["completion"]
    asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
    assert asked.endswith("?<start_working_out>")
    assert whole == asked + completion[0]["content"] + tokenizer.eos_token
    assert asked.count("<SOLUTION>") == 1  # the system prompt names the tags, once
    own = [{"role": "system", "content": "Be brief."}, *prompt]
    assert tokenizer.apply_chat_template(own, tokenize=False).startswith("Be brief." + tokenizer.eos_token + "What")


def test_a_template_is_a_text_or_a_file(warm_up, tmp_path):
    _, tokenizer, _ = warm_up
    tokenizer.save_pretrained(tmp_path / "model")
    file = tmp_path / "own.jinja"
    file.write_text("{{ messages[0].content }}")

    def template(given: str) -> str:
        node = OmegaConf.merge(OmegaConf.structured(Model), {"chat_template": given})
        return models.load_tokenizer(node, str(tmp_path / "model")).chat_template

    long = "{# " + "x" * 300 + " #}{{ messages[0].content }}"  # as a file's name it would be an OSError
    assert template(long) == long
    assert template(str(file)) == "{{ messages[0].content }}"
    with pytest.raises(UserError, match=r"model\.chat_template=missing\.jinja: no such file"):
        template("missing.jinja")
