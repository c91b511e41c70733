"""Problems with one right answer: the final answer goes along as the column `final_answer`, for rewards."""

import re

from rlhf_recipes.data.formats.rows import Demo, Drop, Prompt
from rlhf_recipes.data.formats.turns import as_text, prompt_of

_FINAL = re.compile(r"####\s*(\S[^\n]*?)\s*$")


def gsm8k(question, answer) -> Demo:
    """GSM8K: the worked `answer` is kept whole; the number after its last `####` becomes `final_answer`.

    >>> gsm8k("How many?", "He has 1,000 + 80.\\n#### 1,080")["final_answer"]
    '1080'
    """
    answer = as_text(answer, "answer")
    final = _FINAL.search(answer)
    if not final:
        raise Drop("no «#### n» at the end of the answer")
    return {
        "prompt": [{"role": "user", "content": as_text(question, "question").strip()}],
        "completion": answer,
        "final_answer": final[1].replace(",", "").lstrip("$"),
    }


def dapo(prompt, reward_model, solution=None) -> Prompt:
    """DAPO-Math-17k, as published or as open-r1 processed it: a problem and its integer, no worked answer."""
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    final = as_text(truth if truth is not None else solution, "reward_model").strip()
    if not final:
        raise Drop("no ground truth")
    asked = prompt_of(prompt)
    return {
        "prompt": asked if isinstance(asked, list) else [{"role": "user", "content": asked.strip()}],
        "final_answer": final,
    }
