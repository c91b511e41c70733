"""EOS, pad, chat template and stop tokens: of one tokenizer with itself, and of policy and reward model."""

from dataclasses import dataclass

from rlhf_recipes.engine.stops import turn_end


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. wrong: it will hurt."""

    text: str
    wrong: bool = False


def of_one(name: str, tokenizer, stops: list[int], *, vocab: int, chat: bool) -> list[Finding]:
    """A tokenizer by itself.

    Args:
        name: policy or reward model, for the screen.
        tokenizer: as rlhf_recipes.models loads it.
        stops: every token that ends an answer.
        vocab: rows of the model's embedding.
        chat: the data is given as turns, through the chat template.
    """
    words = ", ".join(repr(tokenizer.convert_ids_to_tokens(i)) for i in stops) or "nothing"
    found = [Finding(f"{_described(name, tokenizer)}, stops on {words}")]
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        found.append(
            Finding(f"{name}: pad is EOS, so that nothing learns to stop; give model.pad_token='<|pad|>'", True)
        )
    if len(tokenizer) > vocab:
        found.append(Finding(f"{name}: {len(tokenizer)} tokens in an embedding of {vocab}; it will be enlarged"))
    if not stops:
        found.append(Finding(f"{name}: nothing ends an answer; give trainer.stop_token=eos", True))
    if chat and (end := turn_end(tokenizer)) is not None and end not in {*stops, tokenizer.eos_token_id}:
        word = tokenizer.convert_ids_to_tokens(end)
        found.append(
            Finding(
                f"{name}: its chat template ends turns with {word!r}, which is not EOS; give model.eos_token={word!r}",
                True,
            )
        )
    return found


def of_scorer(name: str, tokenizer) -> list[Finding]:
    """A reward model's tokenizer by itself, where no policy stands beside it."""
    return [Finding(_described(name, tokenizer))]


def _described(name: str, tokenizer) -> str:
    template = "a chat template" if tokenizer.chat_template else "no chat template"
    return (
        f"{name}: EOS {tokenizer.eos_token!r} ({tokenizer.eos_token_id}), pad {tokenizer.pad_token!r} "
        f"({tokenizer.pad_token_id}), {template}"
    )


def too_long(name: str, context: int | None, whole: int) -> list[Finding]:
    """A reward model that reads less than a prompt with its answer has, in the policy's tokens."""
    if context is None or whole <= context:
        return []
    text = f"{name}: reads {context} tokens, and a prompt with its answer has up to {whole}: its start is cut"
    return [Finding(text, True)]


def of_classifier(name: str, policy, reward) -> list[Finding]:
    """A function's classifier: it reads text of its own tokens, so that nothing has to go together but the text."""
    alike = "the policy's vocabulary" if policy.get_vocab() == reward.get_vocab() else "a vocabulary of its own"
    return [Finding(f"{name}: {alike} ({len(reward)} tokens); it reads prompt and answer as text")]


def of_two(policy, reward, name: str = "reward model", critic: bool = True, chat: bool = True) -> list[Finding]:
    """The policy's tokenizer against a reward model's.

    Args:
        critic: PPO would start its critic from this one.
        chat: the data is given as turns; else neither chat template is read.
    """
    if policy.get_vocab() != reward.get_vocab():
        common = policy.get_vocab().keys() & reward.get_vocab().keys()
        found = [
            Finding(
                f"{name}: another vocabulary ({len(reward)} tokens, {len(common)} of the policy's "
                f"{len(policy)}): answers are tokenised again for it{', and it cannot be the critic' if critic else ''}"
            )
        ]
    else:
        found = [Finding(f"{name}: the policy's vocabulary")]
        if policy.eos_token_id != reward.eos_token_id:
            found.append(
                Finding(
                    f"{name}: EOS differs: {policy.eos_token!r} ends the policy's answers, {reward.eos_token!r} those "
                    "that it was trained on; give model.eos_token alike in stage=reward and here",
                    True,
                )
            )
        if policy.pad_token_id != reward.pad_token_id:
            found.append(
                Finding(f"{name}: pad differs: {policy.pad_token!r}, here {reward.pad_token!r}; both are masked")
            )
    if not chat:
        return found
    if bool(policy.chat_template) != bool(reward.chat_template):
        has, lacks = ("policy", name) if policy.chat_template else (name, "policy")
        why = "its scores would be of another text than it learned from"
        found.append(Finding(f"the {has} has a chat template and the {lacks} has none: {why}", True))
    elif policy.chat_template != reward.chat_template:
        found.append(Finding(f"{name}: another chat template than the policy's: it reads turns in its own"))
    return found
