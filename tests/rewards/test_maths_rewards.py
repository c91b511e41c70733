"""The nine maths rewards by hand, and symbolic equivalence."""

import sys

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards import gsm8k, reasoning, symbolic

GOOD = "<reasoning>\n48 + 24\n= 72\n</reasoning>\n<answer>\n72\n</answer>\n"
WORKED = "48 + 24 = 72 <end_working_out>\n<SOLUTION>72</SOLUTION>"


def one(function, text, **columns):
    conversation = [{"role": "assistant", "content": text}]
    scores = function(prompts=["?", [{"role": "user", "content": "?"}]], completions=[text, conversation], **columns)
    assert scores[0] == scores[1]  # text and conversation alike
    return scores[0]


@pytest.mark.parametrize(
    ("text", "correct", "integer", "strict", "soft", "xml"),
    [
        (GOOD, 2.0, 0.5, 0.5, 0.5, 0.5),
        (GOOD.rstrip("\n"), 2.0, 0.5, 0.5, 0.5, 0.5),
        ("Sure! " + GOOD, 2.0, 0.5, 0.0, 0.5, 0.5),
        (GOOD + "1234567890", 2.0, 0.5, 0.0, 0.5, 0.5 - 0.010),
        (GOOD + "x" * 1000, 2.0, 0.5, 0.0, 0.5, 0.0),
        (GOOD + GOOD, 2.0, 0.5, 0.0, 0.5, 0.0),
        (GOOD.replace("72\n</answer>", "71\n</answer>"), 0.0, 0.5, 0.5, 0.5, 0.5),
        ("<reasoning>6 x 12</reasoning> <answer>72</answer>", 2.0, 0.5, 0.0, 0.5, 0.0),
        ("<reasoning>\n6 x 12\n</reasoning>\nso\n<answer>\n72\n</answer>", 2.0, 0.5, 0.0, 0.0, 0.5),
        ("<answer>\n72\n</answer>\n<reasoning>\n6 x 12\n</reasoning>\n", 2.0, 0.5, 0.0, 0.0, 0.375 - 0.031),
        ("<answer>72 clips</answer>", 2.0, 0.0, 0.0, 0.0, 0.0),
        ("72", 2.0, 0.5, 0.0, 0.0, 0.0),
        ("The answer is 72.", 2.0, 0.5, 0.0, 0.0, 0.0),
        ("", 0.0, 0.0, 0.0, 0.0, 0.0),
        ("<reasoning>\n" * 3000, 0.0, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_the_five_of_gsm8k(text, correct, integer, strict, soft, xml):
    marks = [one(gsm8k.correctness, text, answer=["#### 72"] * 2)]
    marks += [one(f, text) for f in (gsm8k.integer, gsm8k.strict_format, gsm8k.soft_format, gsm8k.xml_count)]
    assert marks == pytest.approx([correct, integer, strict, soft, max(xml, 0.0)])


def test_own_tags_and_marks():
    text = "<think>\n6 x 12\n</think>\n<result>\n72\n</result>"
    tags = {"reasoning_tag": "think", "tag": "result"}
    assert one(gsm8k.strict_format, text, **tags, reward=3.0) == 3.0
    assert one(gsm8k.soft_format, text, **tags, reward=3.0) == 3.0
    assert one(gsm8k.xml_count, text, **tags, reward=2.0) == 2.0
    assert one(gsm8k.integer, text, tag="result", reward=4.0) == 4.0
    assert one(gsm8k.correctness, text, tag="result", reward=5.0, column="gold", gold=[72, 72]) == 5.0


def test_final_answer_is_read_before_answer():
    columns = {"answer": ["no number here"] * 2, "final_answer": ["72"] * 2}
    assert one(gsm8k.correctness, "#### 72", **columns) == 2.0


@pytest.mark.parametrize("function", [gsm8k.correctness, reasoning.check_answer, reasoning.check_number])
def test_no_gold_answer_no_mark(function):
    assert one(function, WORKED, answer=[None, None]) is None
    with pytest.raises(UserError, match=r"no column 'final_answer\|answer'.*question"):
        function(["?"], ["72"], question=["How many?"])


@pytest.mark.parametrize(
    ("text", "exact", "approximate", "answer", "number"),
    [
        (WORKED, 3.0, 1.5, 5.0, 3.5),
        ("<start_working_out>" + WORKED + " \n", 3.0, 1.5, 5.0, 3.5),
        (WORKED.replace(">72<", "> 72\n<"), 3.0, 1.5, 3.5, 3.5),
        (WORKED.replace(">72<", ">72.0<"), 3.0, 1.5, 2.0, 3.5),
        (WORKED.replace(">72<", ">$72 in all<"), 3.0, 1.5, 2.0, 3.5),
        (WORKED.replace(">72<", ">79.2<"), 3.0, 1.5, 2.0, -1.5),
        (WORKED.replace(">72<", ">79.3<"), 3.0, 1.5, 1.5, -1.5),
        (WORKED.replace(">72<", ">57.6<"), 3.0, 1.5, 1.5, -1.5),
        (WORKED.replace(">72<", ">57.5<"), 3.0, 1.5, -2.5, -1.5),
        (WORKED.replace(">72<", ">many<"), 3.0, 1.5, -4.5, -2.5),
        (WORKED.replace(">72<", "> <"), 0.0, 1.5, -2.0, -2.5),
        (WORKED + " Done.", 0.0, 1.5, -2.0, 3.5),
        (WORKED.replace("</SOLUTION>", ""), 0.0, 0.0, -2.0, 3.5),
        (WORKED + WORKED, 0.0, -3.0, -2.0, 3.5),
        ("72", 0.0, -3.0, -2.0, -2.5),
        ("<SOLUTION>72</SOLUTION> <end_working_out>", 0.0, 1.5, -2.0, 3.5),
        ("", 0.0, -3.0, -2.0, -2.5),
    ],
)
def test_the_four_of_the_reasoning_format(text, exact, approximate, answer, number):
    gold = {"answer": ["72"] * 2}
    assert one(reasoning.exact_format, text) == exact
    assert one(reasoning.approximate_format, text) == approximate
    assert one(reasoning.check_answer, text, **gold) == answer
    assert one(reasoning.check_number, text, **gold) == number


def test_a_gold_that_begins_with_a_number_is_a_name_where_its_words_have_capitals():
    text = WORKED.replace(">72<", ">7<")
    assert one(reasoning.check_number, text, answer=["7 Eleven"] * 2) is None
    assert one(reasoning.check_number, text, answer=["7 apples"] * 2) == 3.5
    assert one(gsm8k.correctness, "The answer is 7.", answer=["7 Eleven"] * 2) == 0.0
    assert one(gsm8k.correctness, "The answer is 7-Eleven.", answer=["7 Eleven"] * 2) == 0.0
    assert one(gsm8k.correctness, "The answer is 7 eleven.", answer=["7 Eleven"] * 2) == 2.0
    assert one(gsm8k.correctness, "It is $5.", answer=["$5 per day"] * 2) == 2.0


def test_a_gold_of_zero_has_no_ten_percent():
    answers = [WORKED.replace(">72<", f">{solution}<") for solution in ("0.0", "0.01")]
    assert reasoning.check_answer(["?"] * 2, answers, answer=["0"] * 2) == [2.0, -2.5]


def test_the_reasoning_tags_are_the_callers():
    tags = {"reasoning_end": "</think>", "solution_start": "<answer>", "solution_end": "</answer>"}
    text = "<think>6 x 12</think><answer>72</answer>"
    assert one(reasoning.exact_format, text, reasoning_start="<think>", **tags, reward=1.0) == 1.0
    assert one(reasoning.approximate_format, text, **tags, reward=1.0, penalty=-9.0) == 3.0
    assert one(reasoning.approximate_format, "", **tags, reward=1.0, penalty=-9.0) == -27.0
    gold = {"answer": ["72"] * 2}
    assert one(reasoning.check_answer, text, reasoning_start="<think>", **tags, exact=1.0, **gold) == 1.0
    del tags["reasoning_end"]
    assert one(reasoning.check_number, text, **tags, reward=1.0, **gold) == 1.0


def test_each_mark_is_the_callers():
    marks = {"stripped": " 72 ", "within_10": "73", "within_20": "80", "wrong": "9", "not_a_number": "many"}
    for name, solution in (marks | {"no_answer": ""}).items():
        text = WORKED.replace(">72<", f">{solution}<")
        assert one(reasoning.check_answer, text, answer=["72"] * 2, **{name: -7.0}) == -7.0, name
    for name, solution in {"wrong": "9", "no_number": "many"}.items():
        text = WORKED.replace(">72<", f">{solution}<")
        assert one(reasoning.check_number, text, answer=["72"] * 2, **{name: -7.0}) == -7.0, name


@pytest.mark.parametrize(
    ("text", "gold", "score"),
    [
        (r"So \boxed{1 + x}.", "x + 1", 1.0),
        (r"\boxed{x}", "x + 1", 0.0),
        (r"\boxed{0.5}", r"\frac{1}{2}", 1.0),
        (r"The answer is $\frac{2}{4}$.", r"\frac12", 1.0),
        (r"\boxed{(-\infty, 2)}", r"(-\infty,2)", 1.0),
        (r"\boxed{\{1,2\}}", r"\{2,1\}", 1.0),
        (r"<answer>\sqrt{8}</answer>", r"2\sqrt{2}", 1.0),
        ("so $x^2+2x+1$", "$(x+1)^2$", 1.0),
        (r"\boxed{72}", r"the sum is \boxed{72}", 1.0),
        ("#### 72", "... #### 72", 1.0),
        ("The answer is $1,234.", "1234", 1.0),
        (r"\boxed{48 + 24}", "48", 0.0),
        (r"\boxed{48 + 24}", "72", 1.0),
        (r"\boxed{5!}", "5", 0.0),
        (r"\boxed{\frac{5}{x}}", "5", 0.0),
        ("so it is $x + 72$", "72", 0.0),
        ("I do not know.", "72", 0.0),
        ("", "x", 0.0),
        ("72", "", None),
        ("72", None, None),
        # dollar signs within an answer: the words around them and every formula count
        (r"\boxed{falls for $x<4$, grows for $x>3$}", "falls for $x<3$, grows for $x>3$", 0.0),
        (r"\boxed{falls for $x<3$, grows for $x>3$}", "falls for $x<3$, grows for $x>3$", 1.0),
        (r"\boxed{maximum at $(0,1)$}", "maximum at $(0,0)$", 0.0),
        (r"\boxed{(0,0)}", "maximum at $(0,0)$", 1.0),
        (r"\boxed{minimum at $(0,0)$}", "maximum at $(0,0)$", 0.0),
        ("It falls for $x<4$ and grows for $x>3$.", "falls for $x<3$, grows for $x>3$", 0.0),
        ("It falls for $3>x$ and grows for $x>3$.", "falls for $x<3$, grows for $x>3$", 1.0),
        ("<answer>$x>2$ or $x<1$</answer>", "$x>2$ or $x<0$", 0.0),
        ("<answer>$x<0$ or $x>2$</answer>", "$x>2$ or $x<0$", 1.0),
        # what math-verify cannot read, or reads in part
        (r"\boxed{2 + \frac{1}{\mathrm{e}}}", r"2 - \frac{1}{\mathrm{e}}", 0.0),
        (r"\boxed{2 - e^{-1}}", r"2 - \frac{1}{\mathrm{e}}", 1.0),
        (r"\boxed{2 - \frac{1}{\mathrm{z}}}", r"2 - \frac{1}{\mathrm{y}}", 0.0),
        (r"\boxed{June 20}", r"\text{June 20}", 1.0),
        (r"\boxed{June 21}", r"\text{June 20}", 0.0),
        (
            r"\boxed{\left\{\begin{array}{ll}1 & x<0\end{array}\right.}",
            r"\left\{\begin{array}{ll}1 & x<0\end{array}\right.",
            1.0,
        ),
        (
            r"\boxed{\left\{\begin{array}{ll}2 & x<0\end{array}\right.}",
            r"\left\{\begin{array}{ll}1 & x<0\end{array}\right.",
            0.0,
        ),
        # a gold number with its unit, and a name that begins with a number
        ("The answer is 9.", "9 (apples)", 1.0),
        ("She has 9 left.", "9 apples", 1.0),
        (r"\boxed{10}", r"10 \text{ cm}", 1.0),
        (r"\boxed{35}", "36 square inches", 0.0),
        ("The answer is 7.", "7 Eleven", 0.0),
        ("The answer is 7 Eleven.", "7 Eleven", 1.0),
    ],
)
def test_symbolic_equivalence(text, gold, score):
    pytest.importorskip("math_verify")
    assert one(symbolic.equivalent, text, answer=[gold] * 2) == score


def test_an_endless_formula_is_given_up():
    pytest.importorskip("math_verify")
    scores = symbolic.equivalent(["?"] * 2, [r"\boxed{9^{9^{9^9}}}", r"\boxed{x}"], answer=["x"] * 2, timeout=1)
    assert scores == [0.0, 1.0]


def test_without_math_verify_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match=r"package math_verify.*pip install 'rlhf-recipes\[rewards\]'"):
        symbolic.equivalent(["?"], ["72"], answer=["72"])
