"""The reference page defines every name that the report or the evaluation knows."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlhf_recipes.report.curves import CURVES
from rlhf_recipes.report.run import NAMES

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")


def defined(name: str) -> bool:
    general = re.sub(r"(rewards?/)gold\w*", r"\1<name>", name)
    return f"`{name}`" in PAGE or f"`{general}`" in PAGE


def test_every_quantity_of_the_report_is_defined():
    quantities = {quantity for curve in CURVES for quantity in curve.lines.values()}
    missing = [
        name for quantity in quantities | set(NAMES) for name in NAMES.get(quantity, (quantity,)) if not defined(name)
    ]
    assert missing == []


def test_every_figure_of_an_evaluated_model_is_defined():
    from rlhf_recipes.evaluation.answers import Answer
    from rlhf_recipes.evaluation.compare import summarise
    from rlhf_recipes.evaluation.likelihood import Perplexity
    from rlhf_recipes.evaluation.measure import Measured

    ppl = Perplexity(2.0, 5, 0)
    of = Measured(["a b"], [Answer("a b", (4, 2), (3,), True)], None, None, ppl, ppl, [1.0], [1.0], {}, {})
    summary = summarise(of, {"score": [1.0], "gold": [1.0], "accuracy": [1.0], "majority_at_<k>": [1.0]})
    stems = {re.sub(r"_(std|se|ci95|tokens|dropped)$", "", key) for key in summary}
    assert [stem for stem in stems if f"`{stem}`" not in PAGE] == []


def test_outside_ppo_every_quantity_has_a_healthy_range_and_a_remedy():
    page = PAGE.partition("\n## ppo")[0] + "\n## grpo" + PAGE.partition("\n## grpo")[2]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip("|"))] for row in rows]
    assert len(cells) > 50 and [row for row in cells if len(row) != 4 or not all(row)] == []


def test_what_grpo_logs_about_its_groups_is_defined():
    source = (Path(__file__).parents[2] / "rlhf_recipes" / "grpo" / "trainer.py").read_text(encoding="utf-8")
    names = re.findall(r'"(groups/\w+)"', source)
    assert names and [name for name in names if f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize("trainer", ["sft", "reward", "dpo", "kto", "grpo", "rloo"])
def test_what_trls_trainers_log_is_defined(trainer):
    source = Path(find_spec("trl").origin).with_name("trainer") / f"{trainer}_trainer.py"
    names = set(re.findall(r'_metrics\[(?:mode|"train")\]\["([\w/]+)"\]', source.read_text(encoding="utf-8")))
    assert len(names) > 3
    assert [name for name in sorted(names) if not defined(name)] == []
