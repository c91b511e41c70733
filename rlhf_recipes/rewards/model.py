"""Reward models as reward functions: one of them, or several as an ensemble."""

import logging
import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.combine import Part, RewardFunctions
from rlhf_recipes.rewards.load import RewardFunction

logger = logging.getLogger(__name__)

REDUCTIONS = ("mean", "min", "mean_minus_std")


class ModelReward:
    """A sequence classifier as a reward function.

    With the policy's own tokenizer it reads the policy's tokens. With another one, the text is rendered in that model's
    chat template (or plainly, prompt and completion joined) and tokenized again. A row that is longer than the model's
    context loses its start, since the answer stands at the end.

    Args:
        model: one label, or several and `label` says whose logit is the reward.
        tokenizer: the model's; None if it is the policy's.
        eos_id: the policy's EOS, for a model that shares its tokenizer.
        append_eos: append EOS to answers that were cut off too, as to RewardTrainer's training texts, and not only to
            those that ended by themselves. A chat template closes every turn anyway.
        label: index or name of the label, in whatever case.
        batch_size: answers a forward.
        probability: return the label's probability (0 to 1) instead of its logit.

    Raises:
        UserError: several labels and no `label`, or no such label.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        eos_id: int | None = None,
        append_eos: bool = True,
        label: int | str | None = None,
        batch_size: int = 64,
        probability: bool = False,
    ):
        self.model, self.tokenizer, self.eos_id = model.eval(), tokenizer, eos_id
        self.append_eos, self.batch_size, self.probability = append_eos, batch_size, probability
        self.label = self._label(label)
        self.limit = getattr(getattr(model, "config", None), "max_position_embeddings", None) or 10**6
        if tokenizer is not None:
            self.limit = min(self.limit, tokenizer.model_max_length)
            tokenizer.truncation_side = "left"
        self.__name__ = type(model).__name__

    def check(self, messages: bool, policy_tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Refuse, before any training, a model that cannot read the rows; warn of a doubtful reading.

        Args:
            messages: whether prompts are lists of messages, not text.
            policy_tokenizer: None where it is not known; the model has a tokenizer of its own then.

        Raises:
            UserError: the tokens do not fit the model's vocabulary, or it has no chat template for messages.
        """
        reads = self.tokenizer or policy_tokenizer
        size = getattr(getattr(self.model, "config", None), "vocab_size", None)
        if size is not None and size < len(reads):
            whose = "its tokenizer" if self.tokenizer else "the policy's tokenizer"
            raise UserError(
                f"the reward model has a vocabulary of {size}, {whose} one of {len(reads)}: it was made for another "
                "tokenizer. Give that one as the reward model's processing class."
            )
        if self.tokenizer is None:
            return
        # an encoder (a sentiment classifier, say) was not trained on turns: it reads the words
        if messages and not self.tokenizer.chat_template and hasattr(self.model, "score"):
            raise UserError(
                "the prompts are conversations and the reward model's tokenizer has no chat template, so that it would "
                "not read what it was trained on. Save the template with it, or give texts with data.template=plain"
            )
        template = policy_tokenizer.chat_template if policy_tokenizer is not None else self.tokenizer.chat_template
        if not messages and self.tokenizer.chat_template and self.tokenizer.chat_template != template:
            logger.warning(
                "the reward model has a chat template of its own and the prompts are plain text: it reads them "
                "without; data.template=chat gives it turns"
            )

    @torch.no_grad()
    def __call__(
        self, prompts, completions, prompt_ids=None, completion_ids=None, finished=None, **columns
    ) -> list[float]:
        """One score an answer, (N,). TRL's reward-function form; the ids are read where the tokenizer is shared."""
        closed = [self.append_eos or bool(ended) for ended in finished or [False] * len(completions)]
        if self.tokenizer is None:
            ids = [list(p) + list(c) for p, c in zip(prompt_ids, completion_ids, strict=True)]
            rows = [self._closed(row, self.eos_id if end else None) for row, end in zip(ids, closed, strict=True)]
        else:
            rows = [self._tokens(*row) for row in zip(prompts, completions, closed, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = [0.0] * len(rows)
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            for i, score in zip(part, self._read([rows[i] for i in part]).tolist(), strict=True):
                scores[i] = score
        return scores

    def _label(self, label: int | str | None) -> int:
        config = getattr(self.model, "config", None)
        labels = getattr(config, "id2label", None) or {0: ""}
        have = ", ".join(f"{name} ({i})" for i, name in labels.items())
        if label is None and getattr(config, "num_labels", 1) > 1:
            raise UserError(f"the reward model has {len(labels)} labels ({have}); say which one is the reward")
        if isinstance(label, str):
            label = {name.lower(): i for i, name in labels.items()}.get(label.lower(), label)
        if label is not None and label not in labels:
            raise UserError(f"the reward model has no label {label!r}; it has {have}")
        return label or 0

    def _tokens(self, prompt, completion, closed: bool) -> list[int]:
        if not isinstance(prompt, str) and self.tokenizer.chat_template:
            ids = self.tokenizer.apply_chat_template(prompt + completion, tokenize=True, return_dict=False)
            return ids[-self.limit :]
        eos_id = self.tokenizer.eos_token_id if closed else None  # None for encoders, which add [SEP] themselves
        room = self.limit - (eos_id is not None)
        ids = self.tokenizer(_plain(prompt) + _plain(completion), truncation=True, max_length=room)["input_ids"]
        return self._closed(ids, eos_id)

    def _closed(self, row: list[int], eos_id: int | None) -> list[int]:
        """The row's last `limit` tokens, with EOS appended where one is given and the row does not end with it."""
        return (row if eos_id is None or row[-1] == eos_id else [*row, eos_id])[-self.limit :]

    def _read(self, rows: list[list[int]]) -> Tensor:
        """Scores (B,) of rows of tokens."""
        device, width = next(self.model.parameters()).device, max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        if not hasattr(self.model, "score"):
            return self._of_label(self.model(input_ids=ids, attention_mask=mask).logits)
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        hidden = base.base_model(input_ids=ids, attention_mask=mask)[0]
        # where transformers' own forward reads: the last token that is not pad, before the EOS where pad is EOS
        pad_id = base.config.get_text_config().pad_token_id
        reads = mask if pad_id is None else mask * (ids != pad_id)
        last = (torch.arange(width, device=device) * reads).argmax(1)
        return self._of_label(base.score(hidden[torch.arange(len(rows), device=device), last]))

    def _of_label(self, logits: Tensor) -> Tensor:
        """(B,) of (B, labels)."""
        logits = logits.float()
        if self.probability:
            logits = logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)
        return logits[:, self.label]


class Ensemble:
    """Several reward models as one reward function, cautious where they disagree (arXiv:2310.02743).

        mean             1/M sum_m r_m
        min              min_m r_m                         worst-case optimization
        mean_minus_std   mean_m r_m - k std_m r_m          uncertainty-weighted, in score units

    A policy that is optimized against one reward model finds answers that this model overrates. Models of other seeds
    or data overrate other answers, so the low end of several is harder to game than any one of them. A reward model may
    add any constant to all its scores: train the members with `trainer.center_rewards_coefficient` (or from the same
    start and data), so that `min` compares like with like.

    Args:
        members: reward functions, each giving one number an answer; two at least.
        reduce: one of `REDUCTIONS`.
        std_coef: k, 0 or more; read by mean_minus_std only.

    Raises:
        UserError: fewer than two members, an unknown reduction, or k below 0.

    >>> strict, mild = lambda prompts, completions: [0.0, 1.0], lambda prompts, completions: [2.0, 1.0]
    >>> Ensemble([strict, mild], "min")(["?", "?"], ["a", "b"])
    [0.0, 1.0]
    >>> Ensemble([strict, mild], "mean_minus_std", std_coef=0.5)(["?", "?"], ["a", "b"])
    [0.5, 1.0]
    """

    def __init__(self, members: Sequence[RewardFunction], reduce: str = "mean", std_coef: float = 1.0):
        if len(members) < 2:
            raise UserError(f"an ensemble of {len(members)} reward models; expected two or more, path=[a,b,…]")
        if reduce not in REDUCTIONS:
            raise UserError(f"ensemble={reduce}: expected one of {', '.join(REDUCTIONS)}")
        if std_coef < 0:
            raise UserError(f"std_coef={std_coef}: below 0 it would reward disagreement; expected 0 or more")
        self.members, self.reduce, self.std_coef = list(members), reduce, std_coef
        self.last: tuple[object, list[float]] | None = None  # the completions scored last, and the members' spread

    def __call__(self, prompts: list, completions: list, **columns) -> list[float]:
        """One score an answer, (N,); NaN where a member's is not finite."""
        scores = [member(prompts=prompts, completions=completions, **columns) for member in self.members]
        rows = [row if all(map(math.isfinite, row)) else [math.nan] for row in zip(*scores, strict=True)]
        # the population's deviation: these M models are all there are
        spread = [statistics.pstdev(row) if len(row) > 1 else math.nan for row in rows]
        self.last = (completions, spread)
        if self.reduce == "min":
            return [min(row) for row in rows]
        k = self.std_coef if self.reduce == "mean_minus_std" else 0.0
        return [statistics.fmean(row) - k * deviation for row, deviation in zip(rows, spread, strict=True)]

    def spread(self, prompts: list, completions: list, **columns) -> list[float]:
        """Standard deviation between members (N,), score units: it grows as the policy leaves their training data."""
        if self.last is None or self.last[0] is not completions:
            self(prompts, completions, **columns)
        return self.last[1]


def as_reward_functions(
    reward_funcs,
    weights: Sequence[float] | None,
    reward_processing_classes,
    tokenizer: PreTrainedTokenizerBase,
    append_eos: bool,
    device: torch.device | str,
    on_nonfinite: str = "stop",
    messages: bool = False,
) -> RewardFunctions:
    """What PPOTrainer was given as `reward_funcs`, as one RewardFunctions.

    Args:
        reward_funcs: a reward function, a sequence classifier, a list or dict of these, or a RewardFunctions.
        weights: one for each of several; a RewardFunctions has its own.
        reward_processing_classes: tokenizers of the classifiers that do not share the policy's; one, or a list or dict
            like reward_funcs.
        tokenizer: the policy's.
        append_eos, device: of the classifiers.
        on_nonfinite: of PPO's settings, "stop" or "skip".
        messages: whether the prompts are lists of messages.

    Returns:
        A RewardFunctions; of one made here, NaN scores are treated as `on_nonfinite` says.

    Raises:
        UserError: no reward; another number of weights than rewards; a classifier that cannot read the rows.
    """
    if isinstance(reward_funcs, RewardFunctions):
        if weights is not None:
            raise UserError(
                "trainer.reward_weights is for reward functions passed one by one; combined ones have their weights: "
                "set reward.functions.<name>.weight or reward.models.<name>.weight"
            )
        return reward_funcs
    functions = reward_funcs if isinstance(reward_funcs, dict | list | tuple) else [reward_funcs]
    if not isinstance(functions, dict):
        names = [getattr(f, "__name__", type(f).__name__) for f in functions]
        names = [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]
        functions = dict(zip(names, functions, strict=True))
    if not functions:
        raise UserError("PPO has no reward; give a reward model or a reward function")
    weights = [1.0] * len(functions) if weights is None else list(weights)
    if len(weights) != len(functions):
        raise UserError(
            f"trainer.reward_weights has {len(weights)} numbers for {len(functions)} rewards: {', '.join(functions)}"
        )
    tokenizers = reward_processing_classes
    if not isinstance(tokenizers, dict):
        tokenizers = tokenizers if isinstance(tokenizers, list | tuple) else [tokenizers] * len(functions)
        tokenizers = dict(zip(functions, tokenizers, strict=True))
    parts = {}
    for (name, function), weight in zip(functions.items(), weights, strict=True):
        if isinstance(function, nn.Module):
            own = tokenizers.get(name)
            shared = own is None or (
                own.get_vocab() == tokenizer.get_vocab() and own.chat_template == tokenizer.chat_template
            )
            function.to(device).requires_grad_(False)
            function = ModelReward(function, None if shared else own, tokenizer.eos_token_id, append_eos)
        if isinstance(function, ModelReward):
            function.check(messages, tokenizer)
        parts[name] = Part(function, weight)
    return RewardFunctions(parts, on_nonfinite=on_nonfinite)


def _plain(text) -> str:
    return text if isinstance(text, str) else "\n\n".join(message["content"] for message in text)
