"""Problems with one right answer: the final answer goes along as the column `final_answer`, for rewards."""

import re

from rlhf_recipes.data.formats.rows import Demo, Drop, Prompt
from rlhf_recipes.data.formats.turns import as_text, prompt_of, user_turn

_FINAL = re.compile(r"####\s*(\S[^\n]*?)\s*$")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


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
        "prompt": user_turn(question, "question"),
        "completion": answer,
        "final_answer": final[1].replace(",", "").lstrip("$"),
    }


def dapo(prompt, reward_model, solution=None) -> Prompt:
    """DAPO-Math-17k, as published or as open-r1 processed it: a problem and its integer, no worked answer."""
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    final = as_text(truth if truth is not None else solution, "reward_model").strip()
    if not final:
        raise Drop("no ground truth")
    prompt = prompt_of(prompt) if isinstance(prompt, list) else user_turn(prompt, "prompt")
    return {"prompt": prompt, "final_answer": final}


def openmath(
    problem,
    generated_solution,
    expected_answer,
    *,
    reasoning_end: str = "<end_working_out>",
    solution_start: str = "<SOLUTION>",
    solution_end: str = "</SOLUTION>",
    max_tokens: int | None = None,
    tokenizer=None,
) -> Demo:
    """NVIDIA's OpenMathReasoning: a model's thoughts and the answer it was to reach, under tags of one's own.

    The first tag is left to the chat template, which opens every answer with it.

    Args:
        reasoning_end, solution_start, solution_end: the tags that take the place of `<think>`.
        max_tokens: longest problem and answer together; a longer row would lose its solution to the cut.
        tokenizer: the policy's; `load` passes it on. Without it nothing is measured.

    >>> openmath("6 x 12?", "<think>60 + 12</think> It is 72.", "72")["completion"]
    '60 + 12 It is 72.<end_working_out><SOLUTION>72</SOLUTION>'
    """
    answer = as_text(expected_answer, "expected_answer").strip()
    if not _NUMBER.fullmatch(answer):
        raise Drop("the answer is not a number")
    thoughts = as_text(generated_solution, "generated_solution").replace("<think>", "").replace("</think>", "").strip()
    prompt = user_turn(problem, "problem")
    completion = f"{thoughts}{reasoning_end}{solution_start}{answer}{solution_end}"
    if max_tokens is not None and tokenizer is not None:
        text = prompt[0]["content"] + completion
        # hardly any token of prose or TeX has more than 8 characters, and some of these texts have 100,000
        if len(text) > 8 * max_tokens or len(tokenizer(text)["input_ids"]) > max_tokens:
            raise Drop(f"longer than {max_tokens} tokens")
    return {"prompt": prompt, "completion": completion, "final_answer": answer}
