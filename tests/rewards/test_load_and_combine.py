"""Loading by path, combining by weight, clip and gate, and errors that name the function and the sample."""

import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards import Part, RewardFunctions, load_function

MINE = """
def score(prompts, completions, answer, scale=1.0, **columns):
    return [scale * (a in c) for a, c in zip(answer, completions)]

def length(completions): return [float(len(c)) for c in completions]
def optional(completions, answer=None): return [0.0 if answer is None else 1.0] * len(completions)
def spy(prompts, completions, **columns): return [float(len(columns))] * len(completions)
def breaks(prompts, completions, **columns):
    if "bad" in completions: raise KeyError("no such thing")
    return [1.0] * len(completions)
def short(prompts, completions, **columns): return [1.0]
def nothing(prompts, completions, **columns): return None
def nan(prompts, completions, **columns): return [1.0 if c != "bad" else float("nan") for c in completions]
def inf(prompts, completions, **columns): return [float("inf")] * len(completions)
def words(prompts, completions, **columns): return ["1.0"] * len(completions)
def odd(prompts, completions, **columns): return [None if c == "?" else float(c) for c in completions]
def never(prompts, completions, **columns): return [None] * len(completions)
async def later(completions, bonus=1.0):
    import asyncio
    await asyncio.gather(*(asyncio.sleep(0) for _ in completions))
    return [bonus * len(c) for c in completions]
def trls(prompts, completions, completion_ids, trainer_state, log_metric, log_extra):
    log_metric("mine/tokens", sum(map(len, completion_ids)))
    log_extra("mine_first", [ids[0] for ids in completion_ids])
    return [float(len(ids)) + trainer_state.global_step for ids in completion_ids]
def text_only(completions): return [float(len(c.split())) for c in completions]
class Thing: pass
number = 3
"""


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "my_reward.py"
    file.write_text(MINE, encoding="utf-8")
    return lambda name, **spec: {"path": f"{file}:{name}", **spec}


def test_a_relative_file_is_taken_from_the_working_directory(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_function("./my_reward.py:length")([""], ["four"]) == [4.0]


def test_the_example_of_the_how_to_scores_texts_messages_and_gsm8ks_column(tmp_path):
    page = (Path(__file__).parents[2] / "docs/how-to/custom-reward.md").read_text(encoding="utf-8")
    (tmp_path / "my_reward.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], encoding="utf-8")
    score = load_function({"path": f"{tmp_path}/my_reward.py:score", "kwargs": {"bonus": 2.0}})
    completions = ["It is 72.", [{"role": "assistant", "content": "It is 72."}], "It is 71.", "It is 72."]
    gold = ["72", "48 / 2 = 24\n48 + 24 = 72\n#### 72", "72", None]
    assert score(["6 x 12?"] * 4, completions, answer=gold) == [2.0, 2.0, 0.0, None]


def test_async_functions_are_waited_for(mine):
    """On one event loop for the whole run, and also where the caller has a loop of its own (a notebook)."""
    import asyncio

    loops = set()

    async def own(prompts, completions, **columns):
        loops.add(asyncio.get_running_loop())
        return [1.0] * len(completions)

    rewards = RewardFunctions({"own": own, "later": mine("later", weight=0.5, kwargs={"bonus": 2.0})})
    expected = ([4.0, 2.0], {"own": [1.0, 1.0], "later": [6.0, 2.0]})
    assert rewards(["?"] * 2, ["abc", "d"]) == expected

    async def notebook():
        return rewards(["?"] * 2, ["abc", "d"])

    assert asyncio.run(notebook()) == expected and len(loops) == 1
    assert load_function(mine("later"))(["?"], ["abc"]) == [3.0]


def test_trls_whole_interface_is_at_hand_outside_training_too(mine):
    rewards = RewardFunctions({"trls": mine("trls")})
    assert rewards(["?"] * 2, ["a", "b"], {"completion_ids": [[5, 6], [7]]})[0] == [2.0, 1.0]
    logged = {}
    columns = {"completion_ids": [[5, 6], [7]], "log_metric": logged.__setitem__, "log_extra": logged.__setitem__}
    rewards(["?"] * 2, ["a", "b"], columns | {"trainer_state": SimpleNamespace(global_step=3)})
    assert logged == {"mine/tokens": 3, "mine_first": [5, 7]}


def test_a_function_for_texts_learns_that_completions_are_messages(mine):
    rewards, turn = RewardFunctions({"f": mine("text_only")}), [{"role": "assistant", "content": "72"}]
    with pytest.raises(UserError, match=r"AttributeError.*completions are messages here.*messages\.text_of.*sample 0"):
        rewards([turn], [turn])
    with pytest.raises(UserError) as caught:
        RewardFunctions({"f": mine("breaks")})(["?"], ["bad"])
    assert "text_of" not in str(caught.value)


def test_kwargs_are_bound_and_columns_passed(mine):
    score = load_function(mine("score", kwargs={"scale": 3.0}))
    assert score(["?"] * 2, ["72", "71"], answer=["72", "72"], scale=[9, 9], other=[0, 0]) == [3.0, 0.0]


def test_only_what_a_function_takes_is_passed(mine):
    assert load_function(mine("length"))(["?"], ["abc"], answer=["x"], trainer_state=object()) == [3.0]


def test_a_parameter_whose_default_is_none_takes_its_column(mine):
    optional = load_function(mine("optional"))
    assert optional(["?"], ["x"]) == [0.0]
    assert optional(["?"], ["x"], answer=["72"]) == [1.0]


def test_a_setting_is_never_taken_from_the_dataset(mine):
    assert load_function(mine("score"))(["?"], ["72"], answer=["72"], scale=[100.0]) == [1.0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{dir}/my_rewards.py:score", "did you mean my_reward.py"),
        ("{dir}/my_reward.py:scor", "did you mean score"),
        ("{dir}/my_reward.py:Thing", "is a class"),
        ("{dir}/my_reward.py:number", "of type int"),
        ("{dir}/my_reward.py", "does not name a function"),
        ("{dir}/broken.py:score", "SyntaxError"),
        ("rlhf_recipes.rewards.gsm9k:integer", "did you mean gsm8k"),
        ("rlhf_recipes.rewards.gsm8k:correctnes", "did you mean correctness"),
        ("no_such_package_at_all:score", "no reward module"),
        ("", "does not name a function"),
    ],
)
def test_what_cannot_be_loaded(mine, tmp_path, path, message):
    mine("score")
    (tmp_path / "broken.py").write_text("def score(:", encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load_function({"path": path.format(dir=tmp_path)})
    assert "\n" not in str(caught.value)


def test_a_missing_package_of_the_users_file_is_named(tmp_path):
    (tmp_path / "mine.py").write_text("import no_such_package_at_all", encoding="utf-8")
    with pytest.raises(UserError, match="no_such_package_at_all"):
        load_function(f"{tmp_path}/mine.py:score")


def test_a_missing_package_of_ours_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    for module in ("sql", "sql_text"):
        monkeypatch.delitem(sys.modules, f"rlhf_recipes.rewards.{module}", raising=False)
    with pytest.raises(UserError, match=r"needs the package sqlglot.*pip install 'rlhf-recipes\[rewards\]'"):
        load_function("rlhf_recipes.rewards.sql:execution")


def test_kwargs_that_the_function_does_not_take(mine):
    with pytest.raises(UserError, match=r"no keyword scal; did you mean scale"):
        load_function(mine("score", kwargs={"scal": 2}))
    with pytest.raises(UserError, match="no keyword prompts"):
        load_function(mine("score", kwargs={"prompts": []}))


def test_a_missing_column_is_named(mine):
    rewards = RewardFunctions({"mine": mine("score")})
    with pytest.raises(UserError, match=r"reward 'mine'.*needs the column 'answer'.*question"):
        rewards(["?"], ["72"], {"question": ["How many?"]})


def test_importing_and_loading_rewards_imports_no_torch():
    code = (
        "import sys; from rlhf_recipes.rewards import RewardFunctions, score;"
        "RewardFunctions({n: {'path': f'rlhf_recipes.rewards.{n}'} for n in ('gsm8k:integer', 'reasoning:exact_format',"
        "'symbolic:equivalent', 'sql:execution', 'text:pattern', 'lexicon:sentiment', 'judge:rating',"
        "'classifier:label_score')});"
        "print([m for m in ('torch', 'transformers', 'trl', 'hydra', 'sqlite3') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_weights_none_and_clip(mine):
    functions = {
        "odd": mine("odd", weight=2.0, clip=[-1, 3]),
        "length": mine("length", weight=-0.5),
        "watched": mine("length", weight=0.0),
    }
    scores, by_name = RewardFunctions(functions)(["?"] * 3, ["10", "-7", "?"])
    assert by_name == {"odd": [3.0, -1.0, None], "length": [2.0, 2.0, 1.0], "watched": [2.0, 2.0, 1.0]}
    assert scores == [2 * 3 - 1.0, 2 * -1 - 1.0, -0.5]


def test_a_row_that_no_function_applies_to_is_not_scored(mine):
    rewards = RewardFunctions({"never": mine("never"), "watched": mine("length", weight=0.0)})
    assert rewards(["?"], ["x"]) == ([None], {"never": [None], "watched": [1.0]})


@pytest.mark.parametrize(("gate", "total"), [("2", 2.0 + 10.0), ("0", 0.0), ("-1", -1.0), ("?", 10.0)])
def test_a_gate_silences_the_rest_and_counts_itself(gate, total, tmp_path):
    (tmp_path / "g.py").write_text(
        "def gate(completions): return [None if c == '?' else float(c) for c in completions]\n"
        "def ten(completions): return [10.0] * len(completions)\n"
    )
    functions = {"gate": {"path": f"{tmp_path}/g.py:gate", "gate": True}, "ten": {"path": f"{tmp_path}/g.py:ten"}}
    scores, by_name = RewardFunctions(functions)(["?"], [gate])
    assert scores == [total]
    assert by_name["ten"] == [10.0]  # as given: the gate works on the sum, not on the record


def test_scorers_join_by_name_and_weight(mine):
    scorer = lambda prompts, completions, **columns: [4.0] * len(completions)  # noqa: E731
    scores, by_name = RewardFunctions({"n": mine("length"), "learned": Part(scorer, 0.5)})(["?"], ["abc"])
    assert scores == [5.0]
    assert list(by_name) == ["n", "learned"]
    with pytest.raises(UserError, match="weight of reward 'learned' is nan"):
        RewardFunctions({"learned": Part(scorer, math.nan)})


def test_tensors_and_numpy_numbers_are_numbers():
    torch = pytest.importorskip("torch")
    scorer = lambda prompts, completions, **columns: torch.tensor([1.5, 2.5])  # noqa: E731
    assert RewardFunctions({"m": Part(scorer, 2.0)})(["?"] * 2, ["a", "b"])[0] == [3.0, 5.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("breaks", r"reward 'f': raised KeyError: 'no such thing' \[sample 2: prompt 'p2', completion 'bad'\]"),
        ("nan", r"reward 'f' returned nan.*\[sample 2: prompt 'p2', completion 'bad'\]"),
        ("inf", r"reward 'f' returned inf.*sample 0"),
        ("words", r"reward 'f' returned '1.0'.*sample 0"),
        ("short", r"reward 'f' returned 1 scores for 4 completions"),
        ("nothing", r"reward 'f' returned NoneType for 4 completions"),
    ],
)
def test_errors_name_the_function_and_the_sample(mine, name, message):
    rewards = RewardFunctions({"good": mine("length"), "f": mine(name)})
    with pytest.raises(UserError, match=message) as caught:
        rewards(["p0", "p1", "p2", "p3"], ["a", "b", "bad", "c"], {"answer": ["x"] * 4})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fails", "message", "most"),
    [
        (lambda batch: "bad" in batch, r"sample 41: .*'bad'", 2 + 2 * 6),
        (lambda batch: len(batch) == 64, "on 64 samples together, not on one alone", 3),
    ],
)
def test_the_sample_to_blame_is_found_in_few_calls(fails, message, most):
    calls = []

    def scorer(prompts, completions, number):
        calls.append(completions)
        assert len(prompts) == len(number) == len(completions)
        if fails(completions):
            raise ValueError("no")
        return [1.0] * len(completions)

    completions = ["x"] * 64
    completions[41] = "bad"
    with pytest.raises(UserError, match=message):
        RewardFunctions({"f": scorer})(["?"] * 64, completions, {"number": list(range(64))})
    assert len(calls) <= most


def test_what_no_sample_is_to_blame_for_is_asked_once():
    calls = []

    def scorer(prompts, completions):
        calls.append(completions)
        raise UserError("no endpoint")

    with pytest.raises(UserError, match=r"reward 'f': no endpoint$"):
        RewardFunctions({"f": scorer})(["?"] * 64, ["x"] * 64)
    assert len(calls) == 1


def test_a_long_sample_is_shortened(mine):
    with pytest.raises(UserError) as caught:
        RewardFunctions({"f": mine("inf")})(["p" * 5000], ["c" * 5000])
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"weight": "high"}, "weight of reward 'f' is 'high'"),
        ({"weight": math.nan}, "weight of reward 'f' is nan"),
        ({"clip": [1, -1]}, "lowest must be below"),
        ({"clip": 3}, "give \\[lowest, highest\\]"),
        ({"clip": ["a", 1]}, "clip of reward 'f' is 'a'"),
        ({"gate": "yes"}, "give true or false"),
        ({"wieght": 1}, "no key wieght"),
        ({"kwargs": {"x": 1}}, "reward.functions.f: .*no keyword x"),
    ],
)
def test_a_spec_that_makes_no_sense(mine, spec, message):
    with pytest.raises(UserError, match=message):
        RewardFunctions({"f": mine("length", **spec)})


def test_null_takes_a_function_out(mine):
    assert list(RewardFunctions({"f": mine("length"), "g": None}).parts) == ["f"]


def trl_sum(functions, weights, prompts, completions, **columns):
    """What GRPOTrainer makes of reward functions: nansum of weight * reward, unscorable if all are NaN (None)."""
    rows = zip(*(f(prompts=prompts, completions=completions, **columns) for f in functions), strict=True)

    def total(row):
        return sum(w * s for w, s in zip(weights, row, strict=True) if s is not None)

    return [None if set(row) == {None} else total(row) for row in rows]


def test_grpo_gets_each_function_with_its_weight(mine):
    rewards = RewardFunctions({"odd": mine("odd", weight=2.0), "n": mine("length", weight=0.0)})
    functions, weights = rewards.trl_functions()
    assert [f.__name__ for f in functions] == ["odd", "n"]
    assert weights == [2.0, 0.0]
    prompts, completions = ["?"] * 3, ["1", "22", "?"]
    extra = {"trainer_state": object(), "log_metric": print, "completion_ids": [[1]] * 3}
    assert functions[0](prompts=prompts, completions=completions, **extra) == [1.0, 22.0, None]
    assert trl_sum(functions, weights, prompts, completions, **extra) == [2.0, 44.0, 0.0]
    # TRL sums a row that only a metric scores to 0; our GRPOTrainer leaves it out
    assert rewards(prompts, completions)[0] == [2.0, 44.0, None]


def test_grpo_gets_one_sum_where_there_is_a_gate(mine):
    rewards = RewardFunctions({"odd": mine("odd", gate=True), "n": mine("length", weight=0.5)})
    functions, weights = rewards.trl_functions()
    assert [f.__name__ for f in functions] == ["combined", "odd", "n"]
    assert weights == [1.0, 0.0, 0.0]
    for completions in (["1", "-1", "?"], ["0", "22", "7"]):  # a second batch must not see the first one's scores
        assert trl_sum(functions, weights, ["?"] * 3, completions) == rewards(["?"] * 3, completions)[0]


def test_grpo_leaves_out_a_row_that_nothing_applies_to(mine):
    functions, weights = RewardFunctions({"a": mine("never", gate=True), "b": mine("never")}).trl_functions()
    assert trl_sum(functions, weights, ["?"], ["x"]) == [None]


def test_neither_a_metric_nor_an_open_gate_makes_a_row_count(mine):
    functions = {"form": mine("odd", gate=True, weight=0.0), "never": mine("never"), "n": mine("length", weight=0.0)}
    (combined, *_), _ = RewardFunctions(functions).trl_functions()
    assert combined(["?"] * 3, ["1", "-1", "?"]) == [None, 0.0, None]


@pytest.mark.parametrize("gate", [False, True])
def test_trl_itself_gets_the_same_sum(mine, gate):
    """TRL's own reward step, on a stand-in for the trainer, and its own weighting of what comes out."""
    torch = pytest.importorskip("torch")
    from trl import GRPOTrainer
    from trl.trainer.utils import get_callable_name

    rewards = RewardFunctions({"odd": mine("odd", weight=2.0, gate=gate), "n": mine("length", weight=0.5)})
    functions, weights = rewards.trl_functions()
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu", is_main_process=False),
        args=SimpleNamespace(report_to=[]),
        state=SimpleNamespace(global_step=0),
        environments=None,
        reward_funcs=functions,
        reward_func_names=[get_callable_name(f) for f in functions],
        reward_processing_classes=[None] * len(functions),
        _log_completion_extra=None,
        _log_metric=None,
    )
    prompts, completions = ["?"] * 4, ["1", "-22", "?", "0"]
    inputs = [{"prompt": p, "answer": "x"} for p in prompts]
    per_function = GRPOTrainer._calculate_rewards(trainer, inputs, prompts, completions, [[1]] * 4)
    assert per_function.shape == (4, 2 + gate)
    totals = (per_function * torch.tensor(weights)).nansum(dim=1).tolist()
    assert totals == rewards(prompts, completions, {"answer": ["x"] * 4})[0]


def test_grpo_needs_a_reward():
    with pytest.raises(UserError, match="no reward"):
        RewardFunctions({}).trl_functions()
