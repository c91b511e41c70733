"""Extraction against what models really write, and against GSM8K's own answers."""

import json
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest

from rlhf_recipes.rewards import gsm8k
from rlhf_recipes.rewards.answers import final_number, gold_answer, marked_answer, same_answer, whole_number
from rlhf_recipes.rewards.numerals import number_in

WRITTEN = [
    # boxed
    (r"Therefore the total is \boxed{72}.", 72),
    (r"The final answer is $\boxed{72}$.", 72),
    (r"\[ \boxed{1,234} \]", 1234),
    (r"\boxed{1{,}234}", 1234),
    (r"\boxed{1\,234}", 1234),
    (r"\boxed{12\,345\,678}", 12345678),
    (r"\boxed{\$18}", 18),
    (r"\boxed{\$1,234.50}", Fraction(2469, 2)),
    (r"\boxed{-5}", -5),
    ("\\boxed{\u22125}", -5),
    (r"\boxed{\frac{3}{4}}", Fraction(3, 4)),
    (r"\boxed{-\frac{3}{4}}", Fraction(-3, 4)),
    (r"\boxed{\dfrac{3}{4}}", Fraction(3, 4)),
    (r"\boxed{\tfrac12}", Fraction(1, 2)),
    (r"\boxed{2\frac{1}{2}}", Fraction(5, 2)),
    (r"\boxed{3/4}", Fraction(3, 4)),
    (r"\boxed{50\%}", 50),
    (r"\boxed{72\text{ clips}}", 72),
    (r"\boxed{72 \text{ cm}^2}", 72),
    (r"\boxed{\text{72 clips}}", 72),
    (r"\boxed{\textbf{72}}", 72),
    (r"\boxed{x = 5}", 5),
    (r"\boxed{ 72 }", 72),
    (r"\boxed 72", 72),
    (r"\boxed{5 \times 10^{3}}", 5000),
    (r"\boxed{2.5 \cdot 10^{-1}}", Fraction(1, 4)),
    (r"\boxed{5}. Wait, that is wrong. \boxed{6}", 6),
    (r"The answer is 5. Put in a box: \boxed{6}", 6),
    (r"\boxed{6} is the number of apples left after 2 days.", 6),
    (r"\boxed{72", 72),
    (r"\boxed{}, that is 72", 72),
    (r"\boxed{5, 6}", None),
    (r"\boxed{5 \text{ or } 6}", None),
    (r"\boxed{2\sqrt{3}}", None),
    (r"\boxed{2\pi}", None),
    (r"\boxed{2^{10}}", None),
    (r"\boxed{2x}", None),
    (r"\boxed{x}", None),
    # GSM8K's own mark
    ("48 + 24 = 72\n#### 72", 72),
    ("#### 72.", 72),
    ("####72", 72),
    ("#### $1,234", 1234),
    ("#### -5", -5),
    ("#### **72**", 72),
    ("#### 72 clips in 2 months", 72),
    ("#### 10,000,000", 10_000_000),
    ("#### 5\nLet me check.\n#### 6", 6),
    ("#### Step 1: add\n48 + 24 = 72\n#### Step 2: done", 72),
    ("#### 1. Add them\n48 + 24 = 72\n#### 2. Conclude\nSo 72 clips.", 72),
    ("#### Answer: 72", 72),
    # a statement
    ("The answer is 72.", 72),
    ("The answer is 72", 72),
    ("The answer is: 72", 72),
    ("The answer is $72.", 72),
    ("The answer is $72$.", 72),
    ("the answer is -$5.25.", Fraction(-21, 4)),
    ("The answer is $-5.", -5),
    ("The answer is 1,234,567 people.", 1234567),
    ("The answer is 72 clips, which is 3 times 24.", 72),
    ("The answer is 72. I checked it 2 times.", 72),
    ("The final answer is **72**.", 72),
    ("**Answer:** 72", 72),
    ("**Answer**: 72 clips", 72),
    ("**Final Answer: 72**", 72),
    ("### Final Answer\n72", 72),
    ("Final Answer:\n\n\\[\n72\n\\]", 72),
    ("Answer: 48 + 24 = 72", 72),
    ("Answer = 72", 72),
    ("A: so the answer would be 72 dollars", 72),
    ("The answer to the question is 72.", 72),
    ("The answer is about ≈ 33.3 %", Fraction(333, 10)),
    ("The answer is 3/4 of a cup.", Fraction(3, 4)),
    ("The answer is 1 1/2 cups.", Fraction(3, 2)),
    ("The answer is 2.5 million dollars.", 2_500_000),
    ("The answer is 5%.", 5),
    ("The answer is .5", Fraction(1, 2)),
    ("The answer is 1e3.", 1000),
    ("The answer is €1 or so", 1),
    ("The answer is not 5. The answer is 6.", 6),
    ("The answer is not 5, it is 6", 6),
    ("The answer is 5 or 6.", None),
    ("The answer is 5, 6 or 7.", None),
    ("The answer is 72 or 72.0.", 72),
    ("The answer is 5. No, the answer is 6.", 6),
    ("This answers the question. In total 72 clips.", 72),
    ("The answer is seventy-two.", None),
    # tags
    ("<reasoning>\n48 + 24\n</reasoning>\n<answer>\n72\n</answer>\n", 72),
    ("<answer>$1,234</answer>", 1234),
    ("<answer>72", 72),
    ("<answer>The answer is \\boxed{72}</answer>", 72),
    ("<answer>48 + 24 = 72</answer>", 72),
    ("<answer>5</answer> Hm. <answer>6</answer>", 6),
    ("<answer>many</answer> 72", None),
    ("The answer is 5 <answer>6</answer>", 6),
    # thinking
    ("<think>The answer is 5</think>The answer is 6.", 6),
    ("<think>maybe \\boxed{5}</think> 6", 6),
    ("<think>The answer is 72", None),
    ("it is 5</think>so 72", 72),
    # bold
    ("She sold **72** clips in 2 months.", 72),
    ("So **$1,234.50** in the 12 months.", Fraction(2469, 2)),
    ("**1. Add**: 48 + 24\n**2. Result**: 72", 72),
    # a sum left undone, or several candidates, are no answer
    ("<answer>7*2</answer>", None),
    ("#### 7*2", None),
    ("#### 7_2", None),
    ("<answer>7_2</answer>", None),
    ("7_2", None),
    ("<answer>7**2</answer>", None),
    ("<answer>36*2</answer>", None),
    ("<answer>36 * 2</answer>", None),
    (r"\boxed{48 + 24}", None),
    (r"\boxed{48 + x}", None),
    (r"\boxed{x - 5}", None),
    (r"\boxed{2 \times 3}", None),
    (r"\boxed{5 \text{ cm} \times 3 \text{ cm}}", None),
    (r"\boxed{5!}", None),
    (r"\boxed{\log 5}", None),
    (r"\boxed{\log_2 8}", None),
    (r"\boxed{sqrt(5)}", None),
    (r"<answer>sqrt(5)</answer>", None),
    (r"\boxed{\binom{5}{2}}", None),
    (r"\boxed{\frac{5}{x}}", None),
    (r"\boxed{5/x}", None),
    (r"\boxed{5(x+1)}", None),
    (r"\boxed{48 * (24 + 2)}", None),
    (r"\boxed{(5)^2}", None),
    (r"\boxed{5 \pm 2}", None),
    (r"\boxed{\pm 5}", None),
    (r"\boxed{x > 5}", None),
    (r"\boxed{x \geq 5}", None),
    (r"\boxed{(5, \infty)}", None),
    (r"\boxed{0.\overline{3}}", None),
    (r"\boxed{0.(3)}", None),
    ("<answer>1 2 3 4 5</answer>", None),
    ("<answer>5 to 10</answer>", None),
    ("<answer>5-10</answer>", None),
    ("<answer>5 \u2013 10</answer>", None),
    ("<answer>between 5 and 10</answer>", None),
    ("<answer>5 apples or 6 apples</answer>", None),
    ("<answer>5 (or 6)</answer>", None),
    ("<answer>5 feet 6 inches</answer>", None),
    ("<answer>$5 and 50 cents</answer>", None),
    ("<answer>The 3 friends pay 72</answer>", None),
    ("<answer>50% of 144</answer>", None),
    ("<answer>not 5</answer>", None),
    ("The answer is 5 to 10.", None),
    ("The answer is 7*2.", None),
    ("The answer is not 5.", None),
    ("The answer isn't 5.", None),
    ("<answer>It is not 5 but 6</answer>", 6),
    # equals signs
    ("<answer>72 = 8*9</answer>", 72),
    ("<answer>8*9 = 72</answer>", 72),
    ("The answer is 72 = 8 * 9", 72),
    (r"\boxed{8 \times 9 = 72 \text{ clips}}", 72),
    ("<answer>48 clips in April + 24 clips in May = 72 clips</answer>", 72),
    ("<answer>6 boxes of 12 clips = 72 clips</answer>", 72),
    ("<answer>48 / 2 = 24\n48 + 24 = 72</answer>", 72),
    ("<answer>48 * (24 / 16) = 72</answer>", 72),
    ("Answer: 48 / 2 = 24, so 48 + 24 = 72.", 72),
    ("The answer is half of 144 = 72.", 72),
    (r"\boxed{f(3) = 9}", 9),
    (r"\boxed{x_1 = 5}", 5),
    (r"\boxed{2 \text{ hours} = 120 \text{ minutes}}", 120),
    (r"\boxed{x = 5, y = 6}", None),
    (r"\boxed{2x = 10}", None),
    (r"\boxed{y = 2x + 5}", None),
    ("<answer>7.2*10^1</answer>", 72),
    ("7.2*10^1", 72),
    ("The answer is that 48 clips plus 24 clips equals 72 clips.", 72),
    ("The answer is 72, which equals 3 times 24.", 72),
    # whole sentences, as GSM8K's own last lines
    ("<answer>So there are 30 + 30 = 60 people.</answer>", 60),
    ("<answer>She pays $20 + $20</answer>", None),
    ("<answer>Dividing both sides by 5, we get p = 16</answer>", 16),
    ("<answer>Max has 7 stamps, so each costs 14 / 7 = $2.</answer>", 2),
    ("<answer>He drove half of 12 days, which is 12/2 = 6 days.</answer>", 6),
    ("<answer>She buys 28/0.5=56 6-inch pencils.</answer>", 56),
    ("<answer>He will pay $40*50=$2000 to buy 50 packs</answer>", 2000),
    ("<answer>The cost is $2000/month - $500/month = $1500/month</answer>", 1500),
    ("<answer>The winner rotated 404 objects because 404 > 400.</answer>", 404),
    ("<answer>That makes 17 000/5 = 3 400 a year.</answer>", 3400),
    # emphasis
    ("<answer>**72**</answer>", 72),
    ("<answer>*72*</answer>", 72),
    ("<answer>__72__ clips</answer>", 72),
    ("<answer>$**72**</answer>", 72),
    ("The answer is `72`", 72),
    ("<answer><b>72</b></answer>", 72),
    # signs
    (r"\boxed{- 5}", -5),
    ("The answer is - 5", -5),
    ("#### - 5", -5),
    ("<answer>-(5)</answer>", -5),
    (r"\boxed{-\left(5\right)}", -5),
    ("<answer>minus 5</answer>", -5),
    ("#### negative 5", -5),
    ("The answer is negative 5 degrees.", -5),
    ("The answer is minus $5.", -5),
    ("Answer:\n- 72 clips", 72),
    (r"\boxed{\frac{3}{-4}}", Fraction(-3, 4)),
    (r"\boxed{\frac{-3}{-4}}", Fraction(3, 4)),
    ("<answer>3/-4</answer>", Fraction(-3, 4)),
    # degrees, currencies, separators
    (r"\boxed{90^\circ}", 90),
    (r"\boxed{60^{\circ}\text{C}}", 60),
    ("<answer>90°</answer>", 90),
    (r"\boxed{USD\ 72}", 72),
    ("<answer>Rs. 72</answer>", 72),
    ("<answer>US$72</answer>", 72),
    ("<answer>50c</answer>", 50),
    ("<answer>50¢</answer>", 50),
    ("The answer is ₹1,00,000.", 100_000),
    (r"\boxed{12,34,567}", 1_234_567),
    ("<answer>1 234</answer>", 1234),
    ("<answer>1 234 567.50 clips</answer>", Fraction(2469135, 2)),
    (r"\boxed{1 \, 234}", 1234),
    (r"\boxed{1~234}", 1234),
    (r"\boxed{1,\!234}", 1234),
    (r"\boxed{72~\text{km/h}}", 72),
    ("<answer>10_000</answer>", 10_000),
    # remarks behind the answer
    ("The answer is 72 because x = 3", 72),
    ("The answer is 72 (since x = 24, y = 48).", 72),
    ("The answer is 72 (since f(x) = 24) clips.", 72),
    ("The answer is 72 (as 48 + 24 = 72", 72),
    ("The answer is $72 (24 dollars each).", 72),
    ("The answer is 72. To check the answer: 72 / 2 = 36.", 72),
    ("The answer is 72. Let me verify my final answer: 72 / 2 = 36.", 72),
    ("The answer is 72. This answer is 3 times 24.", 72),
    ("The answer is 72, which is 3 * 24 = 24 + 48.", 72),
    ("<answer>72\n\nExplanation: 36 * 2 = 72, and 8 + 1 = 9</answer>", 72),
    ("<answer>In 2 months she sold 72</answer>", 72),
    ("<answer>She sold 72 clips in 2 months</answer>", 72),
    ("<answer>The area is 72 cm^2</answer>", 72),
    ("The answer is that in 5 days he earns $72.", 72),
    ("The answer is that at $5 each he pays $60 for the 12.", 60),
    # nothing but numbers
    ("She sold 48 + 24 = 72 clips altogether in April and May.", 72),
    ("So she pays $18.", 18),
    ("48-24=24", 24),
    ("She loses 5, that is -5", -5),
    ("She ends with 1,234.", 1234),
    ("She ends with 1\u202f234.", 1234),
    ("1. Add 48\n2. Add 24: 72\n3. Done.", 72),
    ("It costs 12,50 €, not 8.", Fraction(25, 2)),
    ("It costs 12,50 €.", Fraction(25, 2)),
    ("The answer is €12,50.", Fraction(25, 2)),
    ("The answer is -€12,50.", Fraction(-25, 2)),
    ("The answer is 1.234,56 kr.", Fraction(30864, 25)),
    ("1.234.567,8", Fraction(12345678, 10)),
    ("1\u202f234,50 €", Fraction(2469, 2)),
    ("She ends with 1.234.567.", 1234567),
    ("1.234", Fraction(617, 500)),
    (r"\boxed{(12,50)}", None),
    (r"\boxed{1,2}", None),
    (r"\boxed{12,50,80}", None),
    ("12,345", 12345),
    ("½", Fraction(1, 2)),
    ("The answer is 2½ cups.", Fraction(5, 2)),
    ("The answer is 2 ¾.", Fraction(11, 4)),
    ("The answer is -⅓.", Fraction(-1, 3)),
    ("So it is **⅝**, from the 4 above.", Fraction(5, 8)),
    ("The answer is 1\u20442.", Fraction(1, 2)),
    ("The answer is 7 degrees below zero, i.e. -7.", -7),
    ("The answer is 5 dollars below, that is, -$5.00", -5),
    (r"\boxed{7 \text{ below zero, i.e. } -7}", -7),
    ("The answer is 7 hours, i.e. 420 minutes.", 7),
    ("The answer is 7, i.e. more than 2, and -7 is wrong", 7),
    ("The answer is 10:30.", None),
    ("They meet at 10:30", None),
    ("Answer:72", 72),
    ("They have 72 left on the 5th day", 72),
    ("72 is what we find after Step 2", 72),
    ("It is 72cm", 72),
    ("H2O and x2 are no numbers", None),
    ("I do not know.", None),
    ("", None),
    ("....", None),
    ("#" * 500, None),
    ("1/0", None),
    ("9" * 5000, None),
    ("1e99", 10**99),
    ("\\boxed" * 2000, None),
    ("\\boxed{" * 2000, None),
    ("answer is " * 2000, None),
]


@pytest.mark.parametrize(("text", "number"), WRITTEN, ids=[repr(text[:40]) for text, _ in WRITTEN])
def test_the_number_a_model_means(text, number):
    assert final_number(text) == number


def test_long_reasoning_before_the_last_number():
    assert final_number("12 apples and " * 300 + "so there are 1,072 clips") == 1072
    assert final_number("72 clips, " + "and no more words with digits " * 40) == 72


# fmt: off
HOSTILE = [
    "*", "_", "=", "-", "(", "{", " ", "#", "9", "9,", ",00", ".234", "'234", "9/", "1 ", "1 234 ", "9:", "½", "**5**",
    "5 or ", "5 in ", "not ", "a = 5, ", "5 (a ", "=5 because ", "- ", "i.e. ", "that is ", "answer", "answer ", "<b>",
    "answer to ", "check the answer: ", r"\boxed{", r"\boxed ", r"\frac", r"\frac{5}", r"\text{", "\\", r"\, ", "5 so ",
]
# fmt: on


def test_hostile_text_takes_linear_time():
    for unit in HOSTILE:
        for opening in ("", "The answer", "<answer>5"):
            start = time.process_time()
            final_number(opening + unit * (10_000 // len(unit)) + "x")
            assert time.process_time() - start < 1.0, unit  # 0.1 at most in practice; quadratic patterns take seconds


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("<answer> Paris </answer>", "Paris"),
        ("The answer is Paris.", "Paris"),
        ("#### 72", "72"),
        ("Paris", None),
    ],
)
def test_marked_answer(text, marked):
    assert marked_answer(text) == marked


def test_the_tag_is_the_callers():
    assert final_number("<result>5</result> or 6", tag="result") == 5


def test_number_in_takes_the_side_behind_the_equals_sign():
    assert number_in("6 x 12 = 72") == 72
    assert number_in("72 = total") == 72


@pytest.mark.parametrize(
    ("span", "number"),
    [
        ("72", 72),
        ("+72", 72),
        ("- 72", -72),
        ("1 234", 1234),
        (r"90^\circ", 90),
        ("7*2", None),
        ("-5", -5),
        ("$1,234", 1234),
        ("72.0", 72),
        ("7.5", None),
        ("72 clips", None),
        ("", None),
    ],
)
def test_whole_number(span, number):
    assert whole_number(span) == number


@pytest.mark.parametrize(
    ("text", "gold", "same"),
    [
        ("72.00", "72", True),
        ("0.75", "3/4", True),
        ("The answer is $1,234.", "... #### 1,234", True),
        (r"\boxed{72}", r"so we find \boxed{72}", True),
        ("71", "72", False),
        ("<answer> paris. </answer>", "Paris", True),
        ("<answer>London</answer>", "Paris", False),
        ("Paris", "Paris", True),
        ("7", "7 apples or 8", False),
        ("", "72", False),
        ("The answer is 10:30.", "10:30", True),
        ("The answer is 10:45.", "10:30", False),
        ("The answer is 12.5", "12,50", True),
        ("7*2", "72", False),
        ("<answer>1 2 3 4 5</answer>", "1", False),
        (r"\boxed{90}", r"90^\circ", True),
        ("1,234", "1 234", True),
    ],
)
def test_same_answer(text, gold, same):
    assert same_answer(text, gold) is same


def test_gold_answer_reads_numbers_too():
    assert [gold_answer(gold) for gold in (72, 7.5, "x\n#### 1,072", r"\boxed{\frac{1}{2}}")] == [
        "72",
        "7.5",
        "1,072",
        r"\frac{1}{2}",
    ]


@pytest.mark.real
@pytest.mark.parametrize(("split", "rows"), [("train", 7473), ("test", 1319)])
def test_every_gsm8k_gold_answer_scores_in_full(split, rows):
    root = os.environ.get("RLHF_RECIPES_REAL_DATA")
    if not root:
        pytest.skip("RLHF_RECIPES_REAL_DATA is not set")
    lines = (Path(root) / "data/gsm8k" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    golds = [json.loads(line)["answer"] for line in lines]
    assert len(golds) == rows
    bodies, numbers = zip(*(gold.split("\n#### ") for gold in golds), strict=True)
    assert [final_number(gold) for gold in golds] == [int(number.replace(",", "")) for number in numbers]

    formed = [
        f"<reasoning>\n{body}\n</reasoning>\n<answer>\n{number}\n</answer>\n"
        for body, number in zip(bodies, numbers, strict=True)
    ]
    rewards = (gsm8k.correctness, gsm8k.integer, gsm8k.strict_format, gsm8k.soft_format, gsm8k.xml_count)
    totals = [sum(marks) for marks in zip(*(f(formed, formed, answer=golds) for f in rewards), strict=True)]
    assert totals == [4.0] * rows
    for written in (
        "{body}\n#### {n}",
        "{body} The answer is ${n}.",
        "{body} \\boxed{{{n}}}",
        "{body}\n**Answer:** {n}",
    ):
        texts = [written.format(body=body, n=n) for body, n in zip(bodies, numbers, strict=True)]
        assert gsm8k.correctness(texts, texts, answer=golds) == [2.0] * rows


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("The answer is 9.", "9 (apples)", True),
        ("So she has 9 apples.\n#### 9", "9 apples", True),
        (r"\boxed{10}", r"10 \text{ cm}", True),
        (r"\boxed{36}", "36 square inches", True),
        ("The answer is 9 apples.", "9 apples", True),
        ("The answer is 8.", "9 apples", False),
        ("The answer is 9.", "9 or 10", False),
        ("The answer is 20.", "June 20", False),
        ("The answer is 60.", "60 km/h", True),
        (r"\boxed{12}", r"12 \text{ cm}^2", True),
        ("The answer is $18.", "$18 per day", True),
        ("The answer is 2.", "2 pi", False),
        ("The answer is 7.", "7 Eleven", False),
        ("The answer is 7 Eleven.", "7 Eleven", True),
    ],
)
def test_a_gold_answer_may_have_a_unit(text, gold, right):
    assert same_answer(text, gold) is right


def test_a_tag_that_the_prompt_ends_with_belongs_to_the_answer():
    """The form counts it, and a thought that does not end holds no answer."""
    prompts, whole = ["48 + 24? <think>\n"] * 2, "Okay.\n</think>\n<answer>\n72\n</answer>"
    completions = [whole, "Okay: 48 + 24 = 72. Let me check, because 48"]
    for form in (gsm8k.strict_format, gsm8k.soft_format, gsm8k.xml_count):
        assert form(prompts[:1], [whole], reasoning_tag="think") == [0.5]
        assert form(["48 + 24?"], [whole], reasoning_tag="think")[0] < 0.5
    assert gsm8k.correctness(prompts, completions, answer=["72", "48"]) == [2.0, 0.0]
    assert gsm8k.integer(prompts, completions) == [0.5, 0.0]
