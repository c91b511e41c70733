"""Two or more answers to one prompt and a judgement between them."""

from rlhf_recipes.data.formats.rows import Drop, Messages, Pair, Ranking, Unpaired
from rlhf_recipes.data.formats.turns import (
    answer_of,
    answered,
    as_text,
    continued,
    from_json,
    hh_turns,
    is_dialogue,
    last_answer,
    prompt_of,
    turns,
    user_turn,
)


def hh(chosen, rejected) -> Pair:
    """Anthropic HH-RLHF: two whole dialogues that differ in their last answer. The earlier turns are the prompt."""
    return _split(hh_turns(as_text(chosen, "chosen")), hh_turns(as_text(rejected, "rejected")))


def preference(
    chosen,
    rejected,
    prompt=None,
    score_chosen=None,
    score_rejected=None,
    margin=None,
    conversations=None,
    messages=None,
    *,
    use_margin: bool = False,
) -> Pair:
    """TRL's preferences: standard or conversational, with `prompt` or with the prompt inside both answers; and
    LLaMA-Factory's, whose prompt is `conversations` or `messages` and each answer one turn.

    Args:
        use_margin: keep `margin`, or score_chosen - score_rejected; RewardTrainer then subtracts it from the difference
            of the rewards, as Touvron et al. 2023 (arXiv:2307.09288 eq. 2). Without it a margin is left out.
    """
    if prompt is None and not is_dialogue(chosen):
        prompt = conversations if conversations is not None else messages
    if is_dialogue(chosen):
        pair = _split(turns(chosen, "chosen"), turns(rejected, "rejected"))
        pair["prompt"] = continued(prompt, pair["prompt"])
    elif _is_hh(chosen) and _is_hh(rejected):
        pair = hh(chosen, rejected)
    elif prompt is None:
        pair = _implicit(as_text(chosen, "chosen"), as_text(rejected, "rejected"))
    else:
        pair = {
            "prompt": prompt_of(prompt, chosen, rejected),
            "chosen": answer_of(chosen, "chosen"),
            "rejected": answer_of(rejected, "rejected"),
        }
    if use_margin and margin is not None:
        pair["margin"] = float(margin)
    elif use_margin:
        if score_chosen is None or score_rejected is None:
            raise Drop("no margin")
        pair["margin"] = float(score_chosen) - float(score_rejected)
    return pair


def question_pair(question, chosen, rejected) -> Pair:
    """`question`, `chosen` and `rejected`, three texts."""
    return {
        "prompt": user_turn(question, "question"),
        "chosen": as_text(chosen, "chosen"),
        "rejected": as_text(rejected, "rejected"),
    }


def alpaca_pair(instruction, chosen, rejected, input=None) -> Pair:
    """Alpaca's `instruction` and `input` with two answers, `chosen` and `rejected`."""
    return {
        "prompt": user_turn(instruction, "instruction", input),
        "chosen": as_text(chosen, "chosen"),
        "rejected": as_text(rejected, "rejected"),
    }


def shp(history, human_ref_A, human_ref_B, labels, score_ratio=None, *, min_ratio: float = 1.0) -> Pair:
    """Stanford SHP: a Reddit post, two comments, `labels` 1 where A has more votes.

    Args:
        min_ratio: least ratio of the two scores; SHP's authors train on 2 and above, where votes say more than noise.
    """
    if score_ratio is not None and float(score_ratio) < min_ratio:
        raise Drop(f"score_ratio below {min_ratio:g}")
    answers = (as_text(human_ref_A, "human_ref_A"), as_text(human_ref_B, "human_ref_B"))
    chosen, rejected = answers if int(labels) == 1 else answers[::-1]
    return {"prompt": user_turn(history, "history"), "chosen": chosen, "rejected": rejected}


def ranked(prompt, completions, ranks=None, scores=None) -> Ranking:
    """K answers to one prompt, by `ranks` (lower is better) or `scores` (higher is better), else given best first."""
    completions, ranks, scores = map(from_json, (completions, ranks, scores))
    if not isinstance(completions, list):
        raise Drop("completions is not a list")
    if ranks is None:
        ranks = list(range(len(completions))) if scores is None else [-float(score) for score in scores]
    if len(ranks) != len(completions):
        raise Drop("as many ranks as completions are needed")
    return {
        "prompt": prompt_of(prompt, *completions),
        "completions": [answer_of(completion, "completions") for completion in completions],
        "ranks": [float(rank) for rank in ranks],
    }


def unpaired(label, prompt=None, completion=None, messages=None, conversations=None) -> Unpaired:
    """TRL's unpaired preferences: `prompt`, `completion` and a `label`, true or false (1 or 0); or a whole dialogue,
    `messages` or `conversations`.
    """
    judged = _desirable(label)
    dialogue = messages if messages is not None else conversations
    if dialogue is not None:
        demo = last_answer(turns(dialogue, "messages"))
    elif prompt is None or completion is None:
        raise Drop("no prompt" if prompt is None else "no completion")
    else:
        demo = answered(prompt, completion)
    return demo | {"label": judged}


def kto(kto_tag, conversations=None, messages=None, instruction=None, output=None, input=None) -> Unpaired:
    """LLaMA-Factory's `kto_tag`, true or false, beside a dialogue or Alpaca's columns."""
    if conversations is not None or messages is not None:
        return unpaired(kto_tag, messages=messages, conversations=conversations)
    if instruction is None or output is None:
        raise Drop("no instruction" if instruction is None else "no output")
    prompt = user_turn(instruction, "instruction", input)
    return {"prompt": prompt, "completion": as_text(output, "output"), "label": _desirable(kto_tag)}


def _desirable(label: object) -> bool:
    labels = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    if str(label).strip().lower() not in labels:
        raise Drop("label is neither true nor false")
    return labels[str(label).strip().lower()]


def _is_hh(answer: object) -> bool:
    return isinstance(answer, str) and answer.startswith("\n\nHuman:")


def _split(chosen: Messages, rejected: Messages) -> Pair:
    """Prompt: the turns both share, up to a question. The answer to it is what each says next, its last turn.

    The turns after a dialogue's last answer are left out; dialogues that part earlier have no prompt in common.
    """
    for side in (chosen, rejected):
        while side and side[-1]["role"] != "assistant":
            side.pop()
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    shared = min(shared, len(chosen) - 1, len(rejected) - 1)  # two equal dialogues: the last answer is still the answer
    while shared > 0 and chosen[shared - 1]["role"] != "user":
        shared -= 1
    rest = [side[shared:] for side in (chosen, rejected)]
    if shared == 0 or not all(side and side[0]["role"] == "assistant" for side in rest):
        raise Drop("chosen and rejected do not answer the same question")
    if any(len(side) > 1 for side in rest):
        raise Drop("chosen and rejected part before the last answer")
    return {"prompt": chosen[:shared], "chosen": rest[0][0]["content"], "rejected": rest[1][0]["content"]}


def _implicit(chosen: str, rejected: str) -> Pair:
    """TRL's rule: the prompt is what both begin with, the space before the first difference left to the answers."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = chosen[: next((i for i, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))]
    if shared in (chosen, rejected):  # one text begins the other: its last word is left to the answers
        shared = shared.rpartition(" ")[0]
    shared = shared[:-1] if shared.endswith(" ") else shared
    return {"prompt": shared, "chosen": chosen[len(shared) :], "rejected": rejected[len(shared) :]}
