"""Rollouts: answer prompts, score the answers, and read them with policy, reference and critic."""

import itertools
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field, fields, replace

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerState

from rlhf_recipes.engine.forward import causal_lm
from rlhf_recipes.engine.generation import Generated, generate
from rlhf_recipes.engine.prompts import as_completion, row_prompt_ids
from rlhf_recipes.engine.sequences import Kept, Sequences
from rlhf_recipes.ppo import core, guards
from rlhf_recipes.ppo.actor_critic import ActorCritic, Reference
from rlhf_recipes.ppo.config import PPOConfig
from rlhf_recipes.ppo.plan import Plan
from rlhf_recipes.rewards import RewardFunctions
from rlhf_recipes.rewards.logged import Logged
from rlhf_recipes.training.means import known_mean


@dataclass
class Episodes:
    """B answered prompts.

    Args:
        sequences: (B, P), (B, T); finished: (B,) ended by a stop token or string.
        scores: (B,) raw; NaN where the row is not scored, or its score is not finite.
        by_name: (B, n) of `names`, NaN for None.
        logprobs, kl: (B, T), 0 on padding; values: (B, T).
        prompts, completions: of this process only, as the reward functions saw them: text, or lists of messages.
        extra: of this process only, columns that the reward functions logged (TRL's `log_extra`).
        logged: means of the metrics that they logged (`log_metric`).
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
    prompts: list
    completions: list
    extra: dict[str, list] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def gather(self, accelerator) -> "Episodes":
        """Those of all processes, in their order."""
        if accelerator.num_processes == 1:
            return self
        seq = vars(self.sequences) | {"kept": None}
        for name in ("prompt_ids", "prompt_mask"):
            seq[name] = accelerator.pad_across_processes(seq[name].long(), dim=1, pad_first=True)
        gathered = {k: accelerator.gather(v.contiguous()) for k, v in seq.items() if v is not None}
        gathered["prompt_mask"] = gathered["prompt_mask"].bool()
        if self.sequences.kept is not None:
            ids, counts = self.sequences.kept.ids, self.sequences.kept.counts
            ids = accelerator.gather(accelerator.pad_across_processes(ids, pad_index=-1))
            gathered["kept"] = Kept(ids[ids >= 0], accelerator.gather(counts.contiguous()))
        mine = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {k: accelerator.gather(v.contiguous()) for k, v in mine.items() if isinstance(v, Tensor)}
        logged = defaultdict(list)
        for name, value in gather_object(list(self.logged.items())):
            logged[name].append(value)
        logged = {name: sum(values) / len(values) for name, values in logged.items()}
        return replace(self, sequences=Sequences(**gathered), logged=logged, **tensors)

    def rows(self) -> list[dict]:
        """Each answer as {prompt, completion, score, kl, length, eos_rate, reward/<name>, and what was logged}."""
        columns = {
            "prompt": self.prompts,
            "completion": self.completions,
            "score": self.scores.tolist(),
            "kl": self.kl.sum(1).tolist(),
            "length": self.sequences.mask.sum(1).float().tolist(),
            "eos_rate": self.finished.float().tolist(),
        }
        columns |= {f"reward/{name}": self.by_name[:, i].tolist() for i, name in enumerate(self.names)}
        columns |= {name: values for name, values in self.extra.items() if name not in columns}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@dataclass
class Player:
    """Plays episodes with the models of a run, at most `local_rollout_forward_batch_size` rows a forward.

    Args:
        actor_critic, reference: whose log-probabilities and values are read.
        rewards: compute the scores.
        tokenizer: the policy's.
        args: local_rollout_forward_batch_size, kl_estimator.
        anew: read the policy's log-probabilities again with the training forward, because generation's differ from
            them: under mixed precision, or with weights in a narrow type.
        checked: whether the first answers have shown that generation and the training forward agree.
    """

    actor_critic: ActorCritic
    reference: Reference
    rewards: RewardFunctions
    tokenizer: PreTrainedTokenizerBase
    args: PPOConfig
    anew: bool
    checked: bool = False

    @torch.no_grad()
    def play(self, rows: list[dict], uniforms: Tensor, state: TrainerState) -> Episodes:
        """Answer every row's prompt once, in eval mode and under the caller's precision.

        Args:
            rows: of the dataset, B of them.
            uniforms: (B, response_length) random numbers in [0, 1).
            state: the trainer's, for the reward functions.
        """
        clock = [time.perf_counter()]
        tokens = row_prompt_ids(rows, self.tokenizer)
        sequences, logprobs, finished = self.generate(tokens, uniforms)
        if not self.checked:
            first = sequences[slice(0, 8)]
            guards.check_generation(logprobs[:8], self.actor_critic.logprobs(first), first.mask, self.anew)
            self.checked = True
        clock.append(time.perf_counter())
        completion_ids = sequences.completions()
        prompts = [
            self.tokenizer.decode(ids, skip_special_tokens=True) if row.get("prompt") is None else row["prompt"]
            for row, ids in zip(rows, tokens, strict=True)
        ]
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in completion_ids]
        completions = [as_completion(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]
        columns = {k: [row[k] for row in rows] for k in rows[0] if k not in ("prompt", "input_ids", "attention_mask")}
        columns |= {"prompt_ids": tokens, "completion_ids": completion_ids, "finished": finished.tolist()}
        logged = Logged()
        scores, by_name = self.rewards(prompts, completions, columns | {"trainer_state": state} | logged.keywords())
        extra = logged.columns(len(rows))
        clock.append(time.perf_counter())
        logprobs, kl, values = self.judge(sequences, logprobs)
        clock.append(time.perf_counter())
        seconds = [after - before for before, after in itertools.pairwise(clock)]
        table = [[math.nan if v is None else v for v in by_name[n]] for n in by_name]
        return Episodes(
            sequences=sequences,
            finished=finished,
            scores=torch.tensor([math.nan if s is None else s for s in scores], device=kl.device),
            by_name=torch.tensor(table, dtype=torch.float32, device=kl.device).view(len(by_name), len(rows)).T,
            names=list(by_name),
            logprobs=logprobs,
            kl=kl,
            values=values,
            prompts=prompts,
            completions=completions,
            extra=extra,
            logged=logged.means(),
            seconds=dict(zip(("rollout", "score", "value"), seconds, strict=True)),
        )

    def generate(self, prompts: list[list[int]], uniforms: Tensor) -> Generated:
        """The policy's answers, by the engine."""
        return generate(
            causal_lm(self.actor_critic.policy),
            prompts,
            uniforms,
            self.actor_critic.sampling,
            pad_id=self.tokenizer.pad_token_id or 0,
            batch_size=self.args.local_rollout_forward_batch_size,
        )

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


def answer_held_out(
    player: Player, dataset: Dataset, count: int, plan: Plan, seed: int, state: TrainerState
) -> list[dict]:
    """The first `count` rows answered, as `Episodes.rows`, of all processes and in the dataset's order.

    The random numbers depend on `seed` alone, so that two tables differ by the policy alone.
    """
    uniforms = torch.rand(count, player.args.response_length, generator=torch.Generator().manual_seed(seed))
    places = list(range(count))[plan.rank :: plan.world]
    rows = player.play([dataset[i] for i in places], uniforms[places], state).rows() if places else []
    placed = list(zip(places, rows, strict=True))
    if plan.world > 1:
        placed = sorted(gather_object(placed), key=lambda pair: pair[0])
    return [row for _, row in placed]


def means(rows: list[dict], prefix: str) -> dict[str, float]:
    """<prefix>_<column>: the mean over the rows that have a number; reward/gold as gold too."""
    names = [n for n in rows[0] if n in ("score", "kl", "length", "eos_rate") or n.startswith("reward/")]
    known = {name: known_mean((row[name] for row in rows), math.nan) for name in names}
    if "reward/gold" in known:
        known["gold"] = known["reward/gold"]
    return {f"{prefix}_{name}": value for name, value in known.items()}
