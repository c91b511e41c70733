"""Reward models as reward functions: one of them, or several as an ensemble."""

import logging
import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf_recipes.engine import prompts as encoding
from rlhf_recipes.engine.stops import turn_end
from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.combine import Part, RewardFunctions
from rlhf_recipes.rewards.load import RewardFunction

logger = logging.getLogger(__name__)

REDUCTIONS = ("mean", "min", "mean_minus_std")


class ModelReward:
    """A sequence classifier as a reward function.

    It reads what `stage=reward` trains on: the prompt's tokens, the answer's, and the one token that ends an answer.
    With the policy's own tokenizer these are the policy's tokens. With another one, prompt and answer are tokenised
    again, in that model's chat template where the prompts are messages. An encoder (a sentiment classifier, say) reads
    both as one text. A row that is longer than the model's context loses its start: the answer stands at the end.

    Args:
        model: one label, or several and `label` says whose logit is the reward.
        tokenizer: the model's; None for rows that come as `prompt_ids` and `completion_ids`, whole.
        shared: whether it is the policy's tokenizer too, so that the policy's ids are read.
        append_eos: end answers that were cut off too, as in RewardTrainer's rows.
        label: index or name of the label; capitals do not matter.
        batch_size: answers a forward.
        probability: return the label's probability (0 to 1) instead of its logit.

    Raises:
        UserError: several labels and no `label`, or no such label.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        shared: bool = False,
        append_eos: bool = True,
        label: int | str | None = None,
        batch_size: int = 64,
        probability: bool = False,
    ):
        self.model, self.tokenizer, self.shared = model.eval(), tokenizer, shared
        self.append_eos, self.batch_size, self.probability = append_eos, batch_size, probability
        self.label = self._label(label)
        self.limit = getattr(getattr(model, "config", None), "max_position_embeddings", None) or 10**6
        if tokenizer is not None and not shared:
            self.limit = min(self.limit, tokenizer.model_max_length)
            tokenizer.truncation_side = "left"
        self.__name__ = type(model).__name__

    def check(self, messages: bool, policy_tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Refuse, before any training, a model that cannot read the rows; warn of a doubtful reading.

        Args:
            messages: whether prompts are lists of messages, not text.
            policy_tokenizer: None where it is not known.

        Raises:
            UserError: the tokens do not fit the model's vocabulary, or it has no chat template for messages.
        """
        reads = self.tokenizer or policy_tokenizer
        size = getattr(getattr(self.model, "config", None), "vocab_size", None)
        if size is not None and size < len(reads):
            whose = "its tokenizer" if self.tokenizer and not self.shared else "the policy's tokenizer"
            raise UserError(
                f"the reward model has a vocabulary of {size}, {whose} one of {len(reads)}: it was made for another "
                "tokenizer. Give that one as the reward model's processing class."
            )
        if self.shared or self.tokenizer is None:
            return
        if messages and not self.tokenizer.chat_template and self._is_decoder:
            raise UserError(
                "the prompts are conversations and the reward model's tokenizer has no chat template, so that it would "
                "not read what it was trained on. Save the template with it, or give texts with data.template=plain"
            )
        own, template = self.tokenizer.chat_template, getattr(policy_tokenizer, "chat_template", None)
        if not messages and own and policy_tokenizer is not None and own != template:
            logger.warning(
                "the reward model has a chat template of its own and the prompts are plain text: it reads them "
                "without; data.template=chat gives it turns"
            )

    @torch.no_grad()
    def __call__(
        self, prompts, completions, prompt_ids=None, completion_ids=None, finished=None, **columns
    ) -> list[float]:
        """One score an answer, (N,). TRL's reward-function form."""
        finished = finished or [False] * len(completions)
        if self.tokenizer is None:
            rows = [list(p) + list(c) for p, c in zip(prompt_ids, completion_ids, strict=True)]
        elif self._is_decoder:
            ids = (prompt_ids, completion_ids) if self.shared else (None, None)
            rows = self._tokens(prompts, completions, *ids, finished)
        else:
            rows = self._texts(prompts, completions, finished)
        rows = [row[-self.limit :] for row in rows]
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

    @property
    def _is_decoder(self) -> bool:
        """Whether it reads the last token, as transformers' causal classifiers do; their heads are called `score`."""
        return hasattr(self.model, "score")

    def _tokens(self, prompts, completions, prompt_ids, completion_ids, finished) -> list[list[int]]:
        """The rows of a decoder, (N,) lists of ids; ids that are None are made from the texts."""
        tokenizer, messages = self.tokenizer, bool(prompts) and not isinstance(prompts[0], str)
        end = (turn_end(tokenizer) if messages else None) or tokenizer.eos_token_id
        # a special token at the end of an answer is what ended it; an unknown word may end one too
        stops = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id} | {end, tokenizer.eos_token_id}
        sampled = completion_ids is not None
        asked = prompt_ids or encoding.prompt_ids(prompts, tokenizer)
        answers = completion_ids if sampled else encoding.completion_ids(prompts, completions, tokenizer)
        rows = []
        for before, answer, by_itself in zip(asked, answers, finished, strict=True):
            stopped = len(answer) > 0 and answer[-1] in stops
            closed = end is not None and (self.append_eos or by_itself or (sampled and stopped))
            rows.append([*before, *(answer[:-1] if stopped else answer), *([end] if closed else [])])
        return rows

    def _texts(self, prompts, completions, finished) -> list[list[int]]:
        """The rows of an encoder. Most tokenizers of encoders end a text themselves, and have no EOS."""
        texts = [_plain(p) + _plain(c) for p, c in zip(prompts, completions, strict=True)]
        eos_id = self.tokenizer.eos_token_id
        room = self.limit - (eos_id is not None)
        rows = self.tokenizer(texts, truncation=True, max_length=room)["input_ids"]
        closed = [eos_id is not None and (self.append_eos or by_itself) for by_itself in finished]
        return [[*row, eos_id] if end and row[-1:] != [eos_id] else row for row, end in zip(rows, closed, strict=True)]

    def _read(self, rows: list[list[int]]) -> Tensor:
        """Scores (B,) of rows of tokens."""
        device, width = next(self.model.parameters()).device, max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
        if not self._is_decoder:
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

    An answer that one model overrates is rated lower by models of other seeds or data. For `min` train the members with
    `trainer.center_rewards_coefficient`, or from the same start and data: a model may add any constant to its scores.

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
    functions, tokenizers = reward_funcs, reward_processing_classes
    if not isinstance(functions, dict):
        functions = list(functions) if isinstance(functions, list | tuple) else [functions]
        names = [getattr(f, "__name__", type(f).__name__) for f in functions]
        names = [name if names.count(name) == 1 else f"{name}_{i}" for i, name in enumerate(names)]
        functions = dict(zip(names, functions, strict=True))
    if not isinstance(tokenizers, dict):
        tokenizers = tokenizers if isinstance(tokenizers, list | tuple) else [tokenizers] * len(functions)
        tokenizers = dict(zip(functions, tokenizers, strict=True))
    if not functions:
        raise UserError("PPO has no reward; give a reward model or a reward function")
    weights = [1.0] * len(functions) if weights is None else list(weights)
    if len(weights) != len(functions):
        raise UserError(
            f"trainer.reward_weights has {len(weights)} numbers for {len(functions)} rewards: {', '.join(functions)}"
        )
    parts = {}
    for (name, function), weight in zip(functions.items(), weights, strict=True):
        if isinstance(function, nn.Module):
            own = tokenizers.get(name) or tokenizer
            function.to(device).requires_grad_(False)
            function = ModelReward(function, own, shared=reads_alike(own, tokenizer), append_eos=append_eos)
        if isinstance(function, ModelReward):
            function.check(messages, tokenizer)
        parts[name] = Part(function, weight)
    return RewardFunctions(parts, on_nonfinite=on_nonfinite)


def reads_alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers make the same tokens of a text and of messages."""
    same = one is other or one.get_vocab() == other.get_vocab()
    return same and one.chat_template == other.chat_template


def _plain(text) -> str:
    return text if isinstance(text, str) else "\n\n".join(message["content"] for message in text)
