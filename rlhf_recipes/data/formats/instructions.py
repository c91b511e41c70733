"""Instructions and conversations with one answer each: demonstrations for supervised fine-tuning."""

from rlhf_recipes.data.formats.rows import Demo, Drop
from rlhf_recipes.data.formats.turns import (
    answer_of,
    answered,
    as_text,
    every_answer,
    last_answer,
    prompt_of,
    turns,
    user_turn,
)


def prompt_completion(prompt, completion, *, between: str = "") -> Demo:
    """TRL's prompt-completion rows, standard (strings) or conversational (lists of turns).

    Args:
        between: what a string prompt is followed by, where prompt + completion would run together.
    """
    demo = answered(prompt, completion)
    return demo | {"prompt": demo["prompt"] + between} if isinstance(demo["prompt"], str) else demo


def messages(messages, *, turns_trained: str = "last") -> list[Demo]:
    """TRL's conversations, `messages` as {"role", "content"}.

    Args:
        turns_trained: "last" trains the last answer, "all" makes one demonstration of each answer. Where turns carry
            OpenAI's `weight`, 0 or 1, the weights say which are trained.
    """
    return _split(turns(messages, "messages", weights=True), turns_trained)


def sharegpt(conversations, *, turns_trained: str = "last") -> list[Demo]:
    """ShareGPT's `conversations` as {"from": "human" | "gpt" | "system", "value"}; see `messages`."""
    return _split(turns(conversations, "conversations", weights=True), turns_trained)


def alpaca(instruction, output, input=None) -> Demo:
    """Stanford Alpaca: `instruction`, `output` and, often empty, `input`."""
    return {"prompt": user_turn(instruction, "instruction", input), "completion": as_text(output, "output")}


def instruction_response(instruction, response, input=None, context=None) -> Demo:
    """Alpaca's rows under other names: Dolly's `instruction`, `context` and `response`."""
    return alpaca(instruction, response, context if input is None else input)


def prompt_response(prompt, response) -> Demo:
    """`prompt` and `response`: a question and its answer, not a text and its continuation."""
    prompt = prompt_of(prompt) if isinstance(prompt, list) else user_turn(prompt, "prompt")
    return {"prompt": prompt, "completion": answer_of(response, "response")}


def orca(question, response) -> Demo:
    """OpenOrca's `question` and `response`, under its `system_prompt`."""
    return question_answer(question, response)


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
    if conversation and all(turn["role"] != "assistant" for turn in conversation):
        return [{"prompt": conversation}]  # questions alone: prompts, and no demonstration
    weighted = any("weight" in turn for turn in conversation)
    return every_answer(conversation) if turns_trained == "all" or weighted else [last_answer(conversation)]
