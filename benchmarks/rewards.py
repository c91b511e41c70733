"""How many rewards a second do the text-only maths functions give on one core?

    python benchmarks/rewards.py [--repeats 9] [--out rewards.json]

Each function scores the same 1,200 completions (about 310 characters; six ways of stating an answer, one in three of
them wrong), all functions in turn, `repeats` times over; the median counts. The target is 20,000 a second.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from pathlib import Path

from rlhf_recipes.rewards import gsm8k, reasoning

TARGET = 20_000
STYLES = (
    "<reasoning>\n{body}\n</reasoning>\n<answer>\n{n}\n</answer>\n",
    "{body} The final answer is $\\boxed{{{n}}}$.",
    "{body}\n#### {n}",
    "{body} So it is {n} in all.",
    "{body}\n**Answer:** ${n}",
    "{body}<end_working_out><SOLUTION>{n}</SOLUTION>",
)
FUNCTIONS = (
    gsm8k.correctness,
    gsm8k.integer,
    gsm8k.strict_format,
    gsm8k.soft_format,
    gsm8k.xml_count,
    reasoning.exact_format,
    reasoning.approximate_format,
    reasoning.check_answer,
    reasoning.check_number,
)


def made_up_answers(rows: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Completions of the length and look of GSM8K's, and their gold answers."""
    draw = random.Random(seed)
    texts, golds = [], []
    for i in range(rows):
        a, b = draw.randrange(2, 5000), draw.randrange(2, 50)
        body = f"There are {a:,} clips in each of the {b} boxes. " * 5 + f"Together that is {a} x {b} = {a * b}."
        said = a * b + (i % 3 == 0)
        texts.append(STYLES[i % len(STYLES)].format(body=body, n=f"{said:,}"))
        golds.append(f"{body}\n#### {a * b:,}")
    return texts, golds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="where the JSON goes; to the screen if not given")
    options = parser.parse_args()

    texts, golds = made_up_answers(options.rows)
    seconds: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for function in FUNCTIONS:
            start = time.process_time()  # of this process alone: other work on the machine does not count
            function(texts, texts, answer=golds)
            name = f"{function.__module__.rpartition('.')[2]}:{function.__name__}"
            seconds.setdefault(name, []).append(time.process_time() - start)
    rates = {name: round(options.rows / statistics.median(times)) for name, times in seconds.items()}
    report = {
        "claim": f"at least {TARGET} rewards a second on one core",
        "holds": min(rates.values()) >= TARGET,
        "rewards_per_second": rates,
        "rows": options.rows,
        "repeats": options.repeats,
        "mean_characters": round(statistics.mean(map(len, texts))),
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    text = json.dumps(report, indent=2)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
