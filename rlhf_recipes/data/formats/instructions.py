"""Instructions and conversations with one answer each: demonstrations for supervised fine-tuning."""

from rlhf_recipes.data.formats.rows import Demo, Drop
from rlhf_recipes.data.formats.turns import answer_of, as_text, every_answer, last_answer, prompt_of, turns, user_turn


def prompt_completion(prompt, completion, *, between: str = "") -> Demo:
    """TRL's prompt-completion rows, standard (strings) or conversational (lists of turns).

    Args:
        between: what a string prompt is followed by, where prompt + completion would run together.
    """
    prompt = prompt_of(prompt)
    if isinstance(prompt, str):
        prompt += between
    return {"prompt": prompt, "completion": answer_of(completion, "completion")}


def messages(messages, *, turns_trained: str = "last") -> list[Demo]:
    """TRL's conversations, `messages` as {"role", "content"}.

    Args:
        turns_trained: "last" trains the last answer, "all" makes one demonstration of each answer.
    """
    return _split(turns(messages, "messages"), turns_trained)


def sharegpt(conversations, *, turns_trained: str = "last") -> list[Demo]:
    """ShareGPT's `conversations` as {"from": "human" | "gpt" | "system", "value"}; see `messages`."""
    return _split(turns(conversations, "conversations"), turns_trained)


def alpaca(instruction, output, input=None) -> Demo:
    """Stanford Alpaca: `instruction`, `output` and, often empty, `input`."""
    return {"prompt": user_turn(instruction, "instruction", input), "completion": as_text(output, "output")}


def self_instruct(instruction, instances) -> list[Demo]:
    """Self-Instruct's tasks: one `instruction`, several `instances` of {"input", "output"}."""
    if not isinstance(instances, list):
        raise Drop("instances is not a list")
    return [alpaca(instruction, instance.get("output"), instance.get("input")) for instance in instances]


def question_answer(question, answer, context=None) -> Demo:
    """`question` and `answer`, after a `context` where there is one."""
    parts = [as_text(context, "context").strip(), as_text(question, "question").strip()]
    text = "\n\n".join(part for part in parts if part)
    return {"prompt": user_turn(text, "question"), "completion": as_text(answer, "answer")}


def _split(conversation: list[dict], turns_trained: str) -> list[Demo]:
    return every_answer(conversation) if turns_trained == "all" else [last_answer(conversation)]
