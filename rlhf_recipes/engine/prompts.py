"""Prompts: which ones an update takes, and how they become tokens."""

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_recipes.errors import UserError


class PromptStream:
    """An endless, seeded stream of prompts: one shuffled pass over the dataset after another.

    Which rows update u takes is a function of the seed and u alone, so nothing of it has to be saved, and a dataset
    smaller than a rollout simply comes round again.

    Args:
        dataset: rows with `prompt` (text or messages) or `input_ids`; every other column goes to the reward functions.
        tokenizer: the policy's.
        batch_size: prompts an update, over all processes.
        seed: of the shuffles.
    """

    def __init__(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int, seed: int):
        if len(dataset) == 0:
            raise UserError("the dataset of prompts is empty; PPO needs at least one row with a prompt")
        missing = {"prompt", "input_ids"}.isdisjoint(dataset.column_names)
        if missing:
            raise UserError(f"prompts need a column `prompt` or `input_ids`; the dataset has {dataset.column_names}")
        self.dataset, self.tokenizer, self.batch_size, self.seed = dataset, tokenizer, batch_size, seed
        self._orders: dict[int, list[int]] = {}

    def rows(self, update: int) -> list[dict]:
        """The `batch_size` rows of update `update` (from 0), in order."""
        n = len(self.dataset)
        places = range(update * self.batch_size, (update + 1) * self.batch_size)
        return [self.dataset[self._order(place // n)[place % n]] for place in places]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(self.seed + 7919 * epoch)
            self._orders = {k: v for k, v in self._orders.items() if k == epoch - 1}
            self._orders[epoch] = torch.randperm(len(self.dataset), generator=generator).tolist()
        return self._orders[epoch]


def prompt_tokens(row: dict, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a row's prompt: ready ones, or text, or messages through the chat template.

    An EOS that the tokenizer appends is dropped: a prompt is not finished.
    """
    if row.get("input_ids") is not None:
        # left padding of a collated dataset is not part of the prompt
        keep = row.get("attention_mask") or [1] * len(row["input_ids"])
        ids = [token for token, real in zip(row["input_ids"], keep, strict=True) if real]
    elif isinstance(row["prompt"], str):
        ids = tokenizer(row["prompt"])["input_ids"]
        if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]
    else:
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=True, return_dict=False)
    if not ids:
        raise UserError(f"a prompt has no tokens: {row.get('prompt')!r}; give the tokenizer a BOS or the row some text")
    return list(ids)


def pad_left(rows: list[list[int]], pad_id: int, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Token ids (B, P) padded on the left, and their mask (B, P). P is `width`, or the longest row's length."""
    width = width or max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = True
    return ids, mask


def as_completion(text: str, prompt):
    """A completion in the kind of its prompt: text, or one assistant message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


class PretrainingMix:
    """Rows of a corpus for the language-model loss beside PPO's: every optimizer step takes its own.

    Args:
        dataset: rows of `input_ids`.
        tokenizer: the policy's.
        rows: corpus rows an optimizer step, over all processes.
        seed: of the shuffles.
    """

    def __init__(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, rows: int, seed: int):
        self.stream = PromptStream(dataset, tokenizer, rows, seed)
        self.pad_id = tokenizer.pad_token_id or 0

    def share(self, step: int, place: int, places: int) -> tuple[Tensor, int]:
        """Of optimizer step `step` of the run, what forward `place` of `places` takes.

        Returns:
            token ids (C, L), -1 on padding, and how many tokens the whole step predicts.
        """
        every = [row["input_ids"] for row in self.stream.rows(step)]
        rows = every[place::places] or [[self.pad_id]]
        ids, _ = pad_left([row[::-1] for row in rows], -1)
        return ids.flip(1), max(1, sum(len(row) - 1 for row in every))
