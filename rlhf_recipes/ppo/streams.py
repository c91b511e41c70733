"""Which prompts an update takes, and which rows of the pretraining corpus an optimizer step takes."""

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_recipes.engine.sequences import pad_left
from rlhf_recipes.errors import UserError


class PromptStream:
    """An endless, seeded stream of prompts: one shuffled pass over the dataset after another.

    Which rows update u takes is a function of the seed and u alone, so nothing of it has to be saved, and a dataset
    smaller than a rollout simply comes round again.

    Args:
        dataset: rows with `prompt` (text or messages) or `input_ids`; every other column goes to the reward functions.
        batch_size: prompts an update, over all processes.
        seed: of the shuffles.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int):
        if len(dataset) == 0:
            raise UserError("the dataset of prompts is empty; PPO needs at least one row with a prompt")
        if {"prompt", "input_ids"}.isdisjoint(dataset.column_names):
            raise UserError(f"prompts need a column `prompt` or `input_ids`; the dataset has {dataset.column_names}")
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed

    def rows(self, update: int) -> list[dict]:
        """The `batch_size` rows of update `update` (from 0), in order."""
        n = len(self.dataset)
        places = range(update * self.batch_size, (update + 1) * self.batch_size)
        orders = {epoch: self._order(epoch) for epoch in range(places[0] // n, places[-1] // n + 1)}
        return [self.dataset[orders[place // n][place % n]] for place in places]

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed + 7919 * epoch)
        return torch.randperm(len(self.dataset), generator=generator).tolist()


def as_corpus(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, context: int | None) -> Dataset:
    """Rows of `input_ids` from rows of `text`, cut at the model's context, at 1,024 tokens where it has none."""
    if "input_ids" in dataset.column_names:
        return dataset
    if "text" not in dataset.column_names:
        raise UserError(f"ptx_dataset needs a column `text` or `input_ids`; it has {dataset.column_names}")
    length = min(tokenizer.model_max_length, context or 1024, 1024)
    return dataset.map(
        lambda row: {"input_ids": tokenizer(row["text"], truncation=True, max_length=length)["input_ids"]},
        remove_columns=dataset.column_names,
    )


class PretrainingMix:
    """Rows of a corpus for the language-model loss beside PPO's: every optimizer step takes its own.

    Args:
        dataset: rows of `input_ids`.
        tokenizer: the policy's.
        rows: corpus rows an optimizer step, over all processes.
        seed: of the shuffles.
    """

    def __init__(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, rows: int, seed: int):
        self.stream = PromptStream(dataset, rows, seed)
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
