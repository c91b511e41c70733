"""GRPOTrainer: TRL 1.12's, with groups that teach nothing counted, skipped or resampled."""

import torch
from accelerate.utils import broadcast_object_list
from trl import GRPOTrainer as TRLGRPOTrainer

from rlhf_recipes.grpo import groups
from rlhf_recipes.grpo.group_trainer import GroupTrainer

TOKEN_MEAN = ("dapo", "cispo", "vespo")  # losses that are divided by num_items_in_batch; the others by their rows


class GRPOTrainer(GroupTrainer, TRLGRPOTrainer):
    """TRL's GRPOTrainer with what GroupTrainer adds, and `args.zero_variance`. `args` is our GRPOConfig."""

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        """A generation batch; under skip or resample its silent groups are marked or replaced."""
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training or self.args.zero_variance == "keep":
            return batch
        return self._teaching(batch, len(inputs))

    def _teaching(self, batch: dict[str, torch.Tensor], size: int) -> dict[str, torch.Tensor]:
        """`size` rows, first those of groups that teach, from as many generation batches as may be drawn for it.

        DAPO's dynamic sampling (arXiv:2503.14476 eq. 11), which TRL lacks. An answer's advantage is its own by now, so
        answers of several batches may be mixed, and each process fills its own share.
        """
        taught = ~self._own(self._silent)  # (B,)
        teaching, rest, resamples = [groups.take(batch, taught)], groups.take(batch, ~taught), 0
        while self.args.zero_variance == "resample" and resamples < self.args.max_resamples:
            full = torch.tensor(sum(len(f["advantages"]) for f in teaching) >= size, device=self.accelerator.device)
            if self.accelerator.gather(full).all():
                break
            further = super()._generate_and_score_completions(self._other_prompts())
            teaching.append(groups.take(further, ~self._own(self._silent)))
            resamples += 1
        rows = torch.arange(size, device=self.accelerator.device)
        batch = groups.take(groups.join([*teaching, rest], self._tokenizer.pad_token_id), rows)
        batch["taught"] = rows < sum(len(f["advantages"]) for f in teaching)
        tokens = (batch["completion_mask"] * batch.get("tool_mask", 1))[batch["taught"]].sum()
        batch["num_items_in_batch"] = self.accelerator.gather(tokens).sum()  # TRL counts silent groups' tokens too
        share = self.accelerator.gather(batch["taught"].float()).mean()
        batch["mean_taught"] = share * size / self.args.steps_per_generation  # rows that teach, a micro-batch
        self._metrics["train"]["groups/trained"].append(share.item())
        self._metrics["train"]["groups/resamples"].append(float(resamples))
        return batch

    def _prepare_inputs(self, generation_batch):
        """TRL's micro-batch without the rows of silent groups: no forward, no backward, no KL for them."""
        inputs = super()._prepare_inputs(generation_batch)
        if "taught" not in inputs:
            return inputs
        taught = inputs["taught"]
        # TRL gathers figures a row: a process with fewer such rows than another keeps silent ones that count nothing
        rows = taught.int().argsort(descending=True, stable=True)[: max(1, self._most(taught.sum()))]
        kept = groups.take(inputs, rows)
        return kept | {"completion_mask": kept["completion_mask"] * taught[rows, None]}

    def _most(self, count: torch.Tensor) -> int:
        """Of a count in each process."""
        return int(self.accelerator.gather(count).max())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """TRL's loss. A loss that is a mean over rows counts each row alike, in however full a micro-batch it lies."""
        if getattr(self, "use_liger_kernel", False):  # until TRL 1.14
            self.liger_loss.beta = self.beta  # a copy of its own
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if "mean_taught" not in inputs:
            return loss
        rows = inputs["completion_mask"].any(dim=1).sum()
        if not self.accelerator.gather(rows).any():  # nothing was averaged: TRL logs 0
            for name in ("kl", "entropy"):
                if self._metrics["train"].get(name):
                    self._metrics["train"][name][-1] = float("nan")
        if self.loss_type in TOKEN_MEAN:
            return loss
        counted = rows if self.loss_type == "bnpo" else len(inputs["completion_mask"])  # what TRL took the mean over
        return loss * counted / inputs["mean_taught"].clamp(min=1e-8)

    def _other_prompts(self) -> list[dict]:
        """Another generation batch of this process: prompts at random, the same draw on every process."""
        size = self.args.generation_batch_size // self.num_generations
        drawn = [torch.randint(len(self.train_dataset), (size,)).tolist()]  # by the state that checkpoints keep
        broadcast_object_list(drawn)
        return self._own([self.train_dataset[i] for i in drawn[0] for _ in range(self.num_generations)])
