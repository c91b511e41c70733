"""EOS, pad, chat template and stop tokens: of one tokenizer with itself, and of policy and reward model."""

from dataclasses import dataclass


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
    template = "a chat template" if tokenizer.chat_template else "no chat template"
    found = [
        Finding(
            f"{name}: EOS {tokenizer.eos_token!r} ({tokenizer.eos_token_id}), pad {tokenizer.pad_token!r} "
            f"({tokenizer.pad_token_id}), {template}, stops on {words}"
        )
    ]
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


def turn_end(tokenizer) -> int | None:
    """The special token that closes an assistant's turn in the chat template; None where there is none."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
    special = [i for i in ids if i in tokenizer.all_special_ids or i in tokenizer.added_tokens_decoder]
    return special[-1] if special else None


def of_two(policy, reward) -> list[Finding]:
    """The policy's tokenizer against the reward model's."""
    if policy.get_vocab() != reward.get_vocab():
        common = policy.get_vocab().keys() & reward.get_vocab().keys()
        found = [
            Finding(
                f"reward model: another vocabulary ({len(reward)} tokens, {len(common)} of the policy's "
                f"{len(policy)}): answers are tokenised again for it, and it cannot be the critic"
            )
        ]
    else:
        found = [Finding("reward model: the policy's vocabulary")]
        if policy.eos_token_id != reward.eos_token_id:
            found.append(
                Finding(
                    f"EOS differs: {policy.eos_token!r} ends the policy's answers, {reward.eos_token!r} those that the "
                    "reward model was trained on; give model.eos_token alike in stage=reward and here",
                    True,
                )
            )
        if policy.pad_token_id != reward.pad_token_id:
            found.append(
                Finding(f"pad differs: policy {policy.pad_token!r}, reward model {reward.pad_token!r}; both are masked")
            )
    if bool(policy.chat_template) != bool(reward.chat_template):
        has, lacks = ("policy", "reward model") if policy.chat_template else ("reward model", "policy")
        why = "its scores would be of another text than it learned from"
        found.append(Finding(f"the {has} has a chat template and the {lacks} has none: {why}", True))
    elif policy.chat_template != reward.chat_template:
        found.append(Finding("chat templates differ: the reward model reads turns in its own", False))
    return found
