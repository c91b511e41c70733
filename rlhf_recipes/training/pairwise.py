"""TRL's trainers of preferences on token ids that are ready: held-out metrics over the rows, and their reference."""

from collections.abc import Callable

import trl
from omegaconf import DictConfig

from rlhf_recipes import models
from rlhf_recipes.models import adapters
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.training.fit import fit, keywords, last_evaluation, previewed
from rlhf_recipes.training.means import weigh


class OverRows:
    """To mix in before RewardTrainer, DPOTrainer or KTOTrainer: TRL 1.12 averages the means of batches of unlike size.

    Here a batch weighs as many rows as it has (pairs, or answers of a label), as its loss does in transformers' Trainer
    already. Several processes fill the last batch up with rows seen before: its mean is over all of them, its weight
    that of the new ones.
    """

    def __init__(self, *args, **kwargs):
        self._sizes: list[tuple[int, int, int]] = []  # of each batch under way: rows, chosen ones, rejected ones
        super().__init__(*args, **kwargs)

    def prediction_step(self, model, inputs, *args, **kwargs):
        result = super().prediction_step(model, inputs, *args, **kwargs)
        rows = inputs["label"] if "label" in inputs else inputs["input_ids"][::2, 0]  # a pair has two rows there
        rows = self.accelerator.gather_for_metrics(rows.to(self.accelerator.device))
        chosen = int(rows.sum()) if "label" in inputs else len(rows)
        self._sizes.append((len(rows), chosen, len(rows) - chosen if "label" in inputs else len(rows)))
        return result

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        def weights_of(name: str) -> list[int]:
            side = 1 if name.endswith("/chosen") else 2 if name.endswith("/rejected") else 0
            return [sizes[side] for sizes in self._sizes if sizes[side]]

        means = self._metrics["eval"]
        weigh(means, weights_of)
        if self._sizes and {"rewards/chosen", "rewards/rejected", "rewards/margins"} <= means.keys():
            means["rewards/margins"] = [means["rewards/chosen"][0] - means["rewards/rejected"][0]]
        self._sizes.clear()
        super().log(logs, start_time)


class RewardTrainer(OverRows, trl.RewardTrainer):
    """TRL's, with held-out accuracy and margin over all pairs."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """Join prompt and answers as ids. TRL leaves rows that have `chosen_ids` as they are, and reads no prompt."""

        def joined(row: dict) -> dict:
            return {name: row["prompt_ids"] + row[name] for name in ("chosen_ids", "rejected_ids")}

        if "prompt_ids" in dataset.column_names:
            dataset = dataset.map(joined, remove_columns="prompt_ids", num_proc=args.dataset_num_proc)
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)


class DPOTrainer(OverRows, trl.DPOTrainer):
    """TRL's, with held-out accuracy and margin of the implicit reward over all pairs."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """TRL 1.12 tokenises every row again, prompt and answer as one text; ours are ready and fit max_length."""
        if "chosen_ids" in dataset.column_names:
            return dataset
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)


class KTOTrainer(OverRows, trl.KTOTrainer):
    """TRL's, with held-out metrics over all rows."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        """As for DPO. Each prompt gets the answer of the row before it too, for TRL's estimate of the KL."""
        if "completion_ids" not in dataset.column_names:
            return super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        if not self.calculate_KL:
            return dataset

        def rotated(rows: dict) -> dict:
            answers = rows["completion_ids"]
            return {"KL_completion_ids": [answers[-1], *answers[:-1]]}

        size = args.per_device_train_batch_size
        return dataset.map(rotated, batched=True, batch_size=size, num_proc=args.dataset_num_proc)


def preference_trainer(kind: type, cfg: DictConfig, run: StageRun, rows: str, *, shuffle: bool = False):
    """A trainer of preferences against a reference, from the config.

    The reference is a copy of the policy. With an adapter it is the policy with its adapter switched off, where that is
    the model that training starts from; precomputed, it is the policy before training, and takes no memory afterwards.

    Args:
        kind: the trainer's class.
        rows: the kind of rows it learns from.
        shuffle: shuffle them by the seed, for a trainer that reads them in order.
    """
    given, path = keywords(cfg, run, rows), run.inputs["policy"]["path"]
    if shuffle:
        given |= {n: given[n] and given[n].shuffle(seed=cfg.seed) for n in ("train_dataset", "eval_dataset")}
    adapter, tokenizer = given["peft_config"], given["processing_class"]
    copied = adapters.moves_base(adapter) or (not adapter and not given["args"].precompute_ref_log_probs)
    return kind(
        model=models.load_policy(cfg.model, path, tokenizer),
        ref_model=models.load_policy(cfg.model, path, tokenizer, frozen=True) if copied else None,
        **given,
    )


def train_on_preferences(
    training, cfg: DictConfig, run: StageRun, rows: str, figures: dict[str, str], before: Callable | None = None
) -> dict:
    """Show, or train and measure.

    Args:
        training: what `preference_trainer` returned.
        rows: the kind of rows, for the preview.
        figures: {name in summary.json: metric of the last evaluation}.
        before: called with the trainer before it trains.

    Returns:
        train_loss and the figures; None where nothing was held out.
    """
    if previewed(training, cfg, rows):
        return {}
    if before is not None:
        before(training)
    train = fit(training, run)
    last = last_evaluation(training)
    return {"train_loss": train["train_loss"]} | {name: last.get(metric) for name, metric in figures.items()}
