"""From answers to scores: reward functions, reward models, or a signal that is already combined."""

import inspect
import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf_recipes.errors import UserError

logger = logging.getLogger(__name__)


@dataclass
class Answers:
    """A batch of answered prompts, as the reward side sees them. All lists have one entry a row.

    Args:
        prompts, completions: text, or lists of messages.
        prompt_ids, completion_ids: the policy's tokens, without padding; completions with their stop token.
        columns: every other column of the dataset, by name.
        finished: whether a stop token or string ended each completion, not the length.
    """

    prompts: list
    completions: list
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    columns: dict[str, list]
    finished: list[bool]


class ModelReward:
    """A sequence classifier as a reward function.

    With the policy's own tokenizer it reads the policy's tokens. With another one, the text is written anew in that
    model's chat template (or plainly, prompt and completion joined) and tokenised again. What is longer than the model
    reads loses its start, for the answer stands at the end.

    Args:
        model: one label, or several and `label` says which one's logit is the reward.
        tokenizer: the model's; None if it is the policy's.
        eos_id: the policy's EOS, for a model that shares its tokenizer.
        append_eos: close answers that were cut off with EOS too, as RewardTrainer's training texts are, and not only
            those known to be finished. A chat template closes every turn by itself.
        label: index or name of the rewarding label.
        batch_size: answers a forward.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        eos_id: int | None = None,
        append_eos: bool = True,
        label: int | str | None = None,
        batch_size: int = 64,
    ):
        self.model, self.tokenizer, self.eos_id = model.eval(), tokenizer, eos_id
        self.append_eos, self.batch_size = append_eos, batch_size
        self.label = self._label(label)
        self.limit = getattr(getattr(model, "config", None), "max_position_embeddings", None) or 10**6
        if tokenizer is not None:
            self.limit = min(self.limit, tokenizer.model_max_length)
            tokenizer.truncation_side = "left"
        self.__name__ = type(model).__name__

    def _label(self, label: int | str | None) -> int:
        config = getattr(self.model, "config", None)
        names = {name: i for i, name in (getattr(config, "id2label", None) or {}).items()}
        count = getattr(config, "num_labels", 1)
        if label is None and count > 1:
            raise UserError(f"the reward model has {count} labels ({', '.join(names)}); say which one is the reward")
        if isinstance(label, str) and label not in names:
            raise UserError(f"the reward model has no label {label!r}; it has {', '.join(names)}")
        return names[label] if isinstance(label, str) else label or 0

    def check(self, messages: bool, policy_tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        """Refuse a model that cannot read what it will be given, before any training; warn of a doubtful reading.

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
        # an encoder (a sentiment classifier, say) knows no turns: it reads the words
        if messages and not self.tokenizer.chat_template and hasattr(self.model, "score"):
            raise UserError(
                "the prompts are conversations and the reward model's tokenizer has no chat template: it would not "
                "read what it was trained on. Save the template with it, or give texts with data.template=plain"
            )
        policys = policy_tokenizer.chat_template if policy_tokenizer is not None else self.tokenizer.chat_template
        if not messages and self.tokenizer.chat_template and self.tokenizer.chat_template != policys:
            logger.warning(
                "the reward model has a chat template of its own and the prompts are plain text: it reads them "
                "without; data.template=chat gives it turns"
            )

    @torch.no_grad()
    def __call__(
        self, prompts, completions, prompt_ids=None, completion_ids=None, finished=None, **columns
    ) -> list[float]:
        """One score an answer. TRL's reward-function form; the ids are used where the tokenizer is shared."""
        closed = [self.append_eos or bool(ended) for ended in finished or [False] * len(completions)]
        if self.tokenizer is None:
            rows = [list(p) + list(c) for p, c in zip(prompt_ids, completion_ids, strict=True)]
            ends = [self.eos_id if end else None for end in closed]
            rows = [_close(row, end, self.limit) for row, end in zip(rows, ends, strict=True)]
        else:
            rows = [self._tokens(*row) for row in zip(prompts, completions, closed, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = [0.0] * len(rows)
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            for i, score in zip(part, self._read([rows[i] for i in part]).tolist(), strict=True):
                scores[i] = score
        return scores

    def _tokens(self, prompt, completion, closed: bool) -> list[int]:
        if not isinstance(prompt, str) and self.tokenizer.chat_template:
            ids = self.tokenizer.apply_chat_template(prompt + completion, tokenize=True, return_dict=False)
            return ids[-self.limit :]
        # encoders close their input themselves ([SEP]) and know no EOS
        eos_id = self.tokenizer.eos_token_id if closed else None
        room = self.limit - (eos_id is not None)
        ids = self.tokenizer(_plain(prompt) + _plain(completion), truncation=True, max_length=room)["input_ids"]
        return _close(ids, eos_id, self.limit)

    def _read(self, rows: list[list[int]]) -> Tensor:
        device = next(self.model.parameters()).device
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        ids, mask = ids.to(device), mask.to(device)
        if not hasattr(self.model, "score"):
            return self.model(input_ids=ids, attention_mask=mask).logits[:, self.label].float()
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        # its own forward looks for the last token that is not pad, which is wrong where pad is EOS
        hidden = base.base_model(input_ids=ids, attention_mask=mask)[0]
        last = hidden[torch.arange(len(rows), device=device), mask.sum(1) - 1]
        return base.score(last)[:, self.label].float()


def _close(row: list[int], eos_id: int | None, limit: int) -> list[int]:
    """The row's last `limit` tokens, EOS behind them where one is given and none is there."""
    return (row if eos_id is None or row[-1] == eos_id else [*row, eos_id])[-limit:]


def _plain(text) -> str:
    return text if isinstance(text, str) else "\n\n".join(message["content"] for message in text)


class RewardSum:
    """Weighted sum of reward functions; a function's None leaves that row to the others.

    Args:
        functions: {name: reward function}, TRL's GRPO callables.
        weights: {name: weight}.
    """

    def __init__(self, functions: dict, weights: dict[str, float]):
        self.functions, self.weights = functions, weights

    def __call__(self, answers: Answers) -> tuple[list[float], dict[str, list[float | None]]]:
        by_name = {}
        for name, function in self.functions.items():
            values = call_reward(function, answers)
            if len(values) != len(answers.prompts):
                raise UserError(
                    f"reward/{name} gave {len(values)} scores for {len(answers.prompts)} answers; expected one each"
                )
            by_name[name] = [None if v is None else float(v) for v in values]
        total = []
        for row in range(len(answers.prompts)):
            given = [(name, values[row]) for name, values in by_name.items() if values[row] is not None]
            total.append(sum(self.weights[name] * value for name, value in given) if given else math.nan)
        return total, by_name


class ReadySignal:
    """A combined signal `signal(prompts, completions, columns) -> (scores, by_name)` behind the same call."""

    def __init__(self, signal):
        self.signal = signal

    def __call__(self, answers: Answers) -> tuple[list[float], dict[str, list[float | None]]]:
        columns = answers.columns | {"finished": answers.finished}
        scores, by_name = self.signal(answers.prompts, answers.completions, columns)
        return [float(s) for s in scores], by_name


def call_reward(function, answers: Answers) -> list[float | None]:
    """Call a reward function with what it can take: everything, if it has **kwargs."""
    offered = {name: getattr(answers, name) for name in ("prompt_ids", "completion_ids", "finished")}
    offered = answers.columns | offered
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        offered = {k: v for k, v in offered.items() if k in parameters}
    return list(function(prompts=answers.prompts, completions=answers.completions, **offered))


def build_signal(
    reward_funcs, weights, reward_processing_classes, tokenizer, append_eos: bool, device, messages: bool = False
):
    """One callable Answers -> (scores, by_name) from what PPOTrainer was given as reward_funcs."""
    if callable(reward_funcs) and not isinstance(reward_funcs, nn.Module) and _is_signal(reward_funcs):
        if weights is not None:
            raise UserError(
                "trainer.reward_weights is for reward functions handed over one by one; a combined signal has its "
                "weights: set reward.functions.<name>.weight or reward.models.<name>.weight"
            )
        return ReadySignal(reward_funcs)
    functions = reward_funcs if isinstance(reward_funcs, dict | list | tuple) else [reward_funcs]
    if not isinstance(functions, dict):
        functions = {_name(f, i, functions): f for i, f in enumerate(functions)}
    if not functions:
        raise UserError("PPO has no reward; give a reward model or a reward function")
    tokenizers = reward_processing_classes
    if not isinstance(tokenizers, dict):
        tokenizers = tokenizers if isinstance(tokenizers, list | tuple) else [tokenizers] * len(functions)
        tokenizers = dict(zip(functions, tokenizers, strict=True))
    ready = {}
    for name, function in functions.items():
        if isinstance(function, nn.Module):
            own = tokenizers.get(name)
            if own is not None and _same(own, tokenizer):
                own = None
            function.to(device).requires_grad_(False)
            function = ModelReward(function, own, tokenizer.eos_token_id, append_eos)
        if isinstance(function, ModelReward):
            function.check(messages, tokenizer)
        ready[name] = function
    weights = [1.0] * len(ready) if weights is None else list(weights)
    if len(weights) != len(ready):
        raise UserError(
            f"trainer.reward_weights has {len(weights)} numbers for {len(ready)} rewards: {', '.join(ready)}"
        )
    return RewardSum(ready, dict(zip(ready, weights, strict=True)))


def _same(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    return a.get_vocab() == b.get_vocab() and a.chat_template == b.chat_template


def _is_signal(function) -> bool:
    parameters = inspect.signature(function).parameters
    return "columns" in parameters and parameters["columns"].kind is not inspect.Parameter.VAR_KEYWORD


def _name(function, index: int, functions) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    names = [getattr(f, "__name__", type(f).__name__) for f in functions]
    return name if names.count(name) == 1 else f"{name}_{index}"
