"""Playing episodes: answer prompts, score the answers, and read them with policy, reference and critic."""

import itertools
import math
import time
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_recipes.engine.forward import causal_lm
from rlhf_recipes.engine.generation import Generated, generate
from rlhf_recipes.engine.prompts import as_completion, row_prompt_ids
from rlhf_recipes.engine.sequences import Kept, Sequences
from rlhf_recipes.errors import UserError
from rlhf_recipes.ppo import core, guards
from rlhf_recipes.ppo.actor_critic import ActorCritic
from rlhf_recipes.ppo.config import PPOConfig
from rlhf_recipes.ppo.reference import Reference
from rlhf_recipes.rewards import RewardFunctions


@dataclass
class Answers:
    """A batch of answered prompts, as the reward functions see them. All lists have one entry a row.

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

    def all_columns(self) -> dict[str, list]:
        """What a reward function gets beside prompts and completions."""
        own = {"prompt_ids": self.prompt_ids, "completion_ids": self.completion_ids, "finished": self.finished}
        return self.columns | own


@dataclass
class Episodes:
    """B answered prompts.

    Args:
        sequences: (B, P), (B, T); finished: (B,) ended by a stop token or string.
        scores: (B,) raw; NaN where no reward function had one. by_name: (B, n) of `names`, NaN for None.
        logprobs, kl: (B, T), 0 on padding; values: (B, T).
        answers: as the reward side saw them, this process's only.
        seconds: of "rollout", "score" and "value".
    """

    sequences: Sequences
    finished: Tensor
    scores: Tensor
    by_name: Tensor
    names: list[str]
    logprobs: Tensor
    kl: Tensor
    values: Tensor
    answers: Answers
    seconds: dict[str, float] = field(default_factory=dict)

    def gather(self, accelerator) -> "Episodes":
        """Those of all processes, in their order."""
        if accelerator.num_processes == 1:
            return self
        seq = vars(self.sequences) | {"kept": None}
        gathered = {k: accelerator.gather(v.contiguous()) for k, v in seq.items() if v is not None}
        if self.sequences.kept is not None:
            ids, counts = self.sequences.kept.ids, self.sequences.kept.counts
            ids = accelerator.gather(accelerator.pad_across_processes(ids, pad_index=-1))
            gathered["kept"] = Kept(ids[ids >= 0], accelerator.gather(counts.contiguous()))
        mine = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: accelerator.gather(v.contiguous()) for k, v in mine.items() if isinstance(v, Tensor)}
        return replace(self, sequences=Sequences(**gathered), **tensors)

    def check(self, update: int) -> None:
        """Refuse scores that are not finite, naming the first such answer."""
        bad = (~self.scores.isfinite()).nonzero().flatten().tolist()
        if bad:
            i = bad[0]
            values = self.by_name[i].tolist()
            parts = ", ".join(f"{n}={None if math.isnan(v) else v}" for n, v in zip(self.names, values, strict=True))
            raise UserError(
                f"update {update}: the score of row {i} is {self.scores[i].item()} ({parts}) for prompt "
                f"{self.answers.prompts[i]!r} and completion {self.answers.completions[i]!r}; mend the reward, or "
                "leave such rows out with trainer.on_nonfinite=skip"
            )


@dataclass
class Player:
    """Plays episodes with the models of a run. Its forwards hold `local_rollout_forward_batch_size` rows at most.

    Args:
        actor_critic, reference: whose log-probabilities and values are read.
        rewards: compute the scores.
        tokenizer: the policy's.
        args: local_rollout_forward_batch_size, kl_estimator.
        anew: read the policy's log-probabilities again by the training forward, where generation's are not the same
            numbers: under mixed precision, or with weights in a narrow type.
        checked: whether generation and the training forward were found to agree, as the first answers show.
    """

    actor_critic: ActorCritic
    reference: Reference
    rewards: RewardFunctions
    tokenizer: PreTrainedTokenizerBase
    args: PPOConfig
    anew: bool
    checked: bool = False

    @torch.no_grad()
    def play(self, rows: list[dict], uniforms: Tensor, width: int | None = None) -> Episodes:
        """Answer every row's prompt once, in eval mode and under the caller's precision.

        Args:
            rows: of the dataset, B of them.
            uniforms: (B, response_length) random numbers in [0, 1).
            width: columns of the prompts' tensors; None for the longest prompt here.
        """
        clock = [time.perf_counter()]
        tokens = row_prompt_ids(rows, self.tokenizer)
        sequences, logprobs, finished = self.generate(tokens, uniforms, width)
        if not self.checked:
            first = sequences[slice(0, 8)]
            guards.check_generation(logprobs[:8], self.actor_critic.logprobs(first), first.mask, self.anew)
            self.checked = True
        clock.append(time.perf_counter())
        answers = self.answers(rows, tokens, sequences, finished)
        scores, by_name = self.rewards(answers.prompts, answers.completions, answers.all_columns())
        clock.append(time.perf_counter())
        logprobs, kl, values = self.judge(sequences, logprobs)
        clock.append(time.perf_counter())
        table = [[math.nan if v is None else v for v in by_name[n]] for n in by_name]
        table = torch.tensor(table, dtype=torch.float32, device=kl.device).view(len(by_name), len(rows)).T
        scores = torch.tensor(scores, dtype=torch.float32, device=kl.device)
        spent = (b - a for a, b in itertools.pairwise(clock))
        seconds = dict(zip(("rollout", "score", "value"), spent, strict=True))
        return Episodes(sequences, finished, scores, table, list(by_name), logprobs, kl, values, answers, seconds)

    def generate(self, prompts: list[list[int]], uniforms: Tensor, width: int | None) -> Generated:
        """The policy's answers, by the engine."""
        return generate(
            causal_lm(self.actor_critic.policy),
            prompts,
            uniforms,
            self.actor_critic.sampling,
            pad_id=self.tokenizer.pad_token_id or 0,
            batch_size=self.args.local_rollout_forward_batch_size,
            width=width,
        )

    def answers(self, rows: list[dict], tokens: list[list[int]], sequences: Sequences, finished: Tensor) -> Answers:
        """The answers as the reward side sees them: texts (or messages), tokens, and every other column."""
        completion_ids = [ids[m].tolist() for ids, m in zip(sequences.completion_ids, sequences.mask, strict=True)]

        def decode(ids: list[int]) -> str:
            return self.tokenizer.decode(ids, skip_special_tokens=True)

        prompts = [
            row["prompt"] if row.get("prompt") is not None else decode(t) for row, t in zip(rows, tokens, strict=True)
        ]
        completions = [as_completion(decode(ids), prompt) for ids, prompt in zip(completion_ids, prompts, strict=True)]
        columns = {k: [row[k] for row in rows] for k in rows[0] if k not in ("prompt", "input_ids", "attention_mask")}
        return Answers(prompts, completions, tokens, completion_ids, columns, finished.tolist())

    def judge(self, sequences: Sequences, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (B, T) of the policy, KL and values, (B, T) each."""
        module, kind = self.actor_critic, self.args.kl_estimator
        out, kl = logprobs.clone(), torch.zeros_like(logprobs)
        values = torch.zeros_like(logprobs)
        order = (sequences.prompt_mask.sum(1) + sequences.mask.sum(1)).argsort(stable=True)
        for part in order.split(self.args.local_rollout_forward_batch_size):
            seq = sequences[part].trim()
            width = seq.mask.shape[1]
            if self.anew:
                out[part, :width] = module.logprobs(seq)
            if kind == "full":
                kl[part, :width] = module.full_kl(seq, self.reference)
            else:
                with self.reference() as causal:
                    ref = module.logprobs(seq, causal)
                kl[part, :width] = core.kl_estimate(out[part, :width], ref, kind) * seq.mask
            span = min(width + 1, logprobs.shape[1])  # the step after the end has a value too, where there is room
            values[part, :span] = module.values(seq, span)
        return out, kl, values
