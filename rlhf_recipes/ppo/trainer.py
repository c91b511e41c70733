"""PPO as transformers.Trainer runs it: a rollout where a batch would be fetched, and a loss.

The loop is Trainer's. When the buffer of micro-batches is empty, `_prepare_inputs` plays a rollout and cuts it into
the update's epochs and minibatches; `compute_loss` takes one micro-batch of it. Accumulation, clipping, precision,
distribution, checkpoints, callbacks and logging are Trainer's own. TRL's PPOTrainer gives its name and its fields;
none of its methods run.
"""

import copy
import logging
import math
import os
import time
from collections import deque
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer import Trainer
from transformers.trainer_utils import rotate_checkpoints
from trl.experimental.ppo import PPOTrainer as TRLPPOTrainer

from rlhf_recipes.errors import UserError
from rlhf_recipes.ppo import checkpoint, core
from rlhf_recipes.ppo.actor_critic import ActorCritic, PolicyLanguage, Sequences, causal_lm, evaluating
from rlhf_recipes.ppo.config import PPOConfig
from rlhf_recipes.ppo.experience import Experience, StepStatistics, make_experience
from rlhf_recipes.ppo.normalise import ScoreScale
from rlhf_recipes.ppo.plan import make_plan, trainer_arguments
from rlhf_recipes.ppo.prompts import PromptStream, as_completion, pad_left, prompt_tokens
from rlhf_recipes.ppo.rollout import Sampling, generate
from rlhf_recipes.ppo.scoring import Answers, build_signal
from rlhf_recipes.ppo.setup import as_corpus, find_stop_ids, stop_string_test, switch_dropout_off, with_adapter

logger = logging.getLogger(__name__)

CRITIC_FILE = "critic.safetensors"
STATE_FILE = "ppo_state.pt"


class PPOTrainer(TRLPPOTrainer):
    """Proximal policy optimisation of a language model against a reward, with a KL penalty (arXiv:2203.02155).

    Args:
        model: the policy, a causal language model or a PEFT model.
        args: see PPOConfig. It is copied; callbacks get the copy, and may set `kl_coef` and other coefficients on it.
        processing_class: the policy's tokenizer.
        reward_funcs: a reward function `f(prompts, completions, **columns) -> list[float | None]`, a sequence
            classifier, or several as a list or dict by name; or a combined
            `signal(prompts, completions, columns) -> (scores, by_name)`.
        train_dataset: rows with `prompt` (text or messages) or `input_ids`; other columns go to the reward functions.
        eval_dataset: held-out prompts, for evaluation and samples.
        ref_model: the reference of the KL. None: the policy with its adapter off, or a frozen copy of the policy.
        value_model: a sequence classifier with one label, or None for a value head on the policy's backbone.
        peft_config: wraps the policy in an adapter; value_peft_config the value model.
        reward_processing_classes: tokenizers of reward models that have their own (list or dict as reward_funcs).
        ptx_dataset: rows with `input_ids` or `text` for the pretraining mix (`ptx_coef`).
        callbacks, optimizers: as Trainer's.

    Raises:
        UserError: settings or models that do not fit together.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the whole minibatch's tokens

    def __init__(
        self,
        model: nn.Module,
        args: PPOConfig,
        processing_class: PreTrainedTokenizerBase,
        reward_funcs,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        ref_model: nn.Module | None = None,
        value_model: nn.Module | None = None,
        peft_config=None,
        callbacks: list[TrainerCallback] | None = None,
        value_peft_config=None,
        reward_processing_classes=None,
        ptx_dataset: Dataset | None = None,
        optimizers=(None, None),
    ):
        if ref_model is not None and ref_model is model:
            raise UserError("ref_model is the policy itself; give a copy, or None for one to be made")
        if args.kl_estimator in ("k2", "k3"):
            logger.warning(
                "kl_estimator=%s in the reward has a biased gradient (k1 and full have none); it is fit for logging",
                args.kl_estimator,
            )
        if args.top_p < 1 or args.top_k:
            logger.warning("top_p and top_k cut the tail that the ratio still counts: the gradient is biased by it")
        if args.target_kl is not None and args.fp16:
            raise UserError("target_kl skips optimizer steps, which fp16's loss scaling does not allow; use bf16")
        self.stop_ids = find_stop_ids(args, processing_class, model)
        if args.missing_eos_penalty is not None and not (self.stop_ids or args.stop_strings):
            raise UserError("missing_eos_penalty needs something that ends an answer; set stop_token=eos")
        model = with_adapter(model, peft_config)
        value_model = with_adapter(value_model, value_peft_config)
        self.is_peft_model = hasattr(model, "peft_config")
        if ref_model is None and not self.is_peft_model:
            ref_model = copy.deepcopy(model)
        if args.sync_ref_model and ref_model is None:
            raise UserError(
                "sync_ref_model moves a reference model; an adapter's reference is its base. Give ref_model"
            )
        for module in filter(None, (model, ref_model, value_model)):
            switch_dropout_off(module)

        self.plan = make_plan(args, len(train_dataset))
        args = trainer_arguments(args, self.plan)
        use_cache = model.config.use_cache
        language = PolicyLanguage(args.temperature, self.stop_ids, args.min_length)
        Trainer.__init__(
            self,
            model=ActorCritic(model, value_model, language),
            args=args,
            data_collator=list,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        model.config.use_cache = use_cache  # Trainer switches it off, and it would be saved so
        self.actor_critic: ActorCritic = self.accelerator.unwrap_model(self.model)
        self.ref_model = ref_model
        if ref_model is not None:
            ref_model.requires_grad_(False).eval().to(self.args.device)
        self.signal = build_signal(
            reward_funcs,
            args.reward_weights,
            reward_processing_classes,
            processing_class,
            args.reward_append_eos,
            self.args.device,
        )
        self.scale = ScoreScale(args.reward_normalize)
        self.prompts = PromptStream(train_dataset, processing_class, self.plan.batch_size, args.data_seed or args.seed)
        self.ptx = None
        if args.ptx_coef:
            if ptx_dataset is None:
                raise UserError("ptx_coef is set but there is no ptx_dataset; give a corpus, or ptx_coef=0")
            self.ptx = PromptStream(
                as_corpus(ptx_dataset, processing_class), processing_class, self.plan.mini_batch_size, args.seed + 1
            )
        self._sampling = Sampling(
            language, args.response_length, args.top_k, args.top_p, stop_string_test(args, processing_class)
        )
        self._pad_id = processing_class.pad_token_id or 0
        self._buffer: deque = deque()
        self._experience: Experience | None = None
        self._logged: list[dict] = []
        self._norms: list[float] = []
        self._skip_rest = False
        self._warned: set[str] = set()

    # ---- steps: Trainer's loop asks, we answer ----

    @property
    def update(self) -> int:
        """Index of the update under way, from 0."""
        return self.state.global_step // self.plan.steps

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Trainer's train. `resume_from_checkpoint` "auto" or True: the last whole checkpoint, if there is one."""
        if resume_from_checkpoint in ("auto", True):
            resume_from_checkpoint = checkpoint.last_whole(self.args.output_dir)
        self._buffer.clear()
        self._resumed_from = resume_from_checkpoint or None
        if self._resumed_from:
            self._load_ppo_state(Path(resume_from_checkpoint))
        return Trainer.train(self, resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """One empty item a forward: prompts are fetched a rollout at a time, by `_prepare_inputs`."""
        forwards = self.plan.updates * self.plan.steps * self.plan.micro_batches
        # its own generator: the loader would draw from the global one otherwise
        return DataLoader(range(forwards), batch_size=1, collate_fn=lambda _: {}, generator=torch.Generator())

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Trainer's optimizer, the critic's parameters in groups with their own learning rate."""
        if self.optimizer is not None or self.args.value_learning_rate is None:
            return Trainer.create_optimizer(self, model)
        optimizer = Trainer.create_optimizer(self, model)
        critic = {id(p) for n, p in self.model.named_parameters() if n.startswith(("value_model.", "value_head."))}
        groups = optimizer.param_groups[:]
        optimizer.param_groups.clear()
        for group in groups:
            for is_critic in (False, True):
                params = [p for p in group["params"] if (id(p) in critic) == is_critic]
                lr = self.args.value_learning_rate if is_critic else group["lr"]
                optimizer.add_param_group({**group, "params": params, "lr": lr})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Trainer's schedule, over updates: the learning rate is constant within one, as in TRL."""
        fresh = self.lr_scheduler is None
        scheduler = Trainer.create_scheduler(self, self.plan.updates, optimizer)
        if fresh and hasattr(scheduler, "lr_lambdas"):
            steps = self.plan.steps
            scheduler.lr_lambdas = [lambda step, f=f: f(step // steps) for f in scheduler.lr_lambdas]
        return scheduler

    def _prepare_inputs(self, inputs):
        """The next micro-batch; a rollout first, where the last one is used up."""
        if not self._buffer:
            self._play()
        return self._buffer.popleft()

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        if self._buffer and self._stop_epochs(self._buffer[0]):
            self._buffer.popleft()
            return torch.zeros((), device=self.args.device)  # no gradient: the optimizer leaves the weights alone
        return Trainer.training_step(self, model, inputs, num_items_in_batch)

    def _stop_epochs(self, item: dict) -> bool:
        """Whether target_kl was exceeded in an epoch of this update before the one that `item` begins or belongs to."""
        if self.args.target_kl is None or self._skip_rest:
            return self._skip_rest
        per_epoch = self.args.num_mini_batches
        epoch, first = divmod(item["step"], per_epoch)
        if epoch and first == 0 and item["first"]:
            past = slice((epoch - 1) * per_epoch, epoch * per_epoch)
            self._skip_rest = self._statistics.epoch_kl(past, self._reduce) > self.args.target_kl
        return self._skip_rest

    # ---- rollout ----

    def _play(self) -> None:
        """Answer, score and value a rollout of prompts, and cut it into the update's micro-batches."""
        update = self.update
        rows = self.prompts.rows(update)
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + update)
        uniforms = torch.rand(len(rows), self.args.response_length, generator=generator)
        self._clock = {"start": time.perf_counter()}
        self._rate = self.optimizer.param_groups[0]["lr"]
        exp, rewards = self._experience_of(rows, uniforms)
        self._experience = exp
        lengths = (exp.sequences.prompt_mask.sum(1) + exp.lengths).cpu()
        self._statistics = StepStatistics(self.plan.steps, self.args.device)
        self._skip_rest = False
        steps_seen: dict[int, int] = {}
        for i, (mine, minibatch) in enumerate(self.plan.micro_batch_rows(lengths, generator)):
            step = i // self.plan.micro_batches
            first = step not in steps_seen
            steps_seen[step] = i
            tokens, values = exp.mask[minibatch].sum(), exp.value_mask[minibatch].sum()
            self._buffer.append(
                {"rows": mine, "step": step, "first": first, "tokens": tokens, "values": values, "share": len(mine)}
            )
        self._rollout_metrics = exp.metrics(self.stop_ids) | rewards
        self._clock["optimise"] = time.perf_counter()

    def _experience_of(self, rows: list[dict], uniforms: Tensor) -> tuple[Experience, dict[str, float]]:
        """Experience of all processes' rows, each process having played its own part; and its raw scores' means."""
        mine = rows[self.plan.local]
        tokens = [prompt_tokens(row, self.processing_class) for row in rows]
        width = max(map(len, tokens))
        local_tokens = tokens[self.plan.local]
        with evaluating(self.actor_critic), self._full_weights(), self.accelerator.autocast(), torch.no_grad():
            sequences, logprobs, finished = self._generate(local_tokens, uniforms[self.plan.local], width)
            self._clock["score"] = time.perf_counter()
            answers = self._answers(mine, local_tokens, sequences)
            scores, by_name = self.signal(answers)
            self._check_scores(scores, by_name, answers)
            self._clock["value"] = time.perf_counter()
            logprobs, kl, values = self._judge(sequences, logprobs)
        device = self.args.device
        names = list(by_name)
        table = [[math.nan if v is None else v for v in by_name[n]] for n in names]
        parts = (
            *(sequences.prompt_ids, sequences.prompt_mask, sequences.completion_ids, sequences.mask),
            *(finished, torch.tensor(scores, device=device, dtype=torch.float32), logprobs, kl, values),
            torch.tensor(table, device=device, dtype=torch.float32).view(len(names), len(mine)).T.contiguous(),
        )
        *seq, finished, scores, logprobs, kl, values, table = (self.accelerator.gather(p.contiguous()) for p in parts)
        raw = scores.nanmean().item()
        scores = torch.tensor(self.scale(scores.tolist()), device=device)
        exp = make_experience(Sequences(*seq), finished, scores, logprobs, kl, values, self.args)
        return exp, {f"reward/{k}": v for k, v in zip(names, table.nanmean(0).tolist(), strict=True)} | {
            "objective/raw_scores": raw
        }

    def _generate(self, tokens: list[list[int]], uniforms: Tensor, width: int) -> tuple[Sequences, Tensor, Tensor]:
        """Answers to prompts, in forward batches of like length. prompt columns `width`, completion columns T."""
        device, steps = self.args.device, self.args.response_length
        count = len(tokens)
        ids, mask = pad_left(tokens, self._pad_id)
        ids = torch.nn.functional.pad(ids, (width - ids.shape[1], 0), value=self._pad_id).to(device)
        mask = torch.nn.functional.pad(mask, (width - mask.shape[1], 0)).to(device)
        out = Sequences(
            ids,
            mask,
            torch.full((count, steps), self._pad_id, device=device),
            torch.zeros(count, steps, dtype=torch.bool, device=device),
        )
        logprobs = torch.zeros(count, steps, device=device)
        finished = torch.zeros(count, dtype=torch.bool, device=device)
        causal, uniforms = causal_lm(self.actor_critic.policy), uniforms.to(device)
        for part in mask.sum(1).argsort(stable=True).split(self.args.local_rollout_forward_batch_size):
            longest = int(mask[part].sum(1).max())
            answer, logp, done = generate(
                causal,
                ids[part][:, width - longest :],
                mask[part][:, width - longest :],
                uniforms[part],
                self._sampling,
                self._pad_id,
            )
            out.completion_ids[part], out.mask[part] = answer.completion_ids, answer.mask
            logprobs[part], finished[part] = logp, done
        return out, logprobs, finished

    def _judge(self, sequences: Sequences, logprobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities (B, T) of the policy, KL (B, T) to the reference and values (B, T + 1).

        The log-probabilities of generation serve where they are those of training: float32, nothing but softmax.
        """
        module, kind = self.actor_critic, self.args.kl_estimator
        narrow = any(p.dtype != torch.float32 for p in module.policy.parameters())
        anew = narrow or self.accelerator.mixed_precision != "no"
        out, kl = logprobs.clone(), torch.zeros_like(logprobs)
        values = logprobs.new_zeros(len(logprobs), logprobs.shape[1] + 1)
        order = (sequences.prompt_mask.sum(1) + sequences.mask.sum(1)).argsort(stable=True)
        for part in order.split(self.args.local_rollout_forward_batch_size):
            seq = sequences[part].trim()
            width = seq.mask.shape[1]
            if anew:
                out[part, :width] = module.logprobs(seq)
            if kind == "full":
                kl[part, :width] = module.full_kl(seq, self.reference)
            else:
                with self.reference() as causal:
                    ref = module.logprobs(seq, causal)
                kl[part, :width] = core.kl_estimate(out[part, :width], ref, kind) * seq.mask
            values[part, : width + 1] = module.values(seq)
        return out, kl, values

    @contextmanager
    def reference(self):
        """The reference's causal model: its own, or the policy's with the adapter off or exchanged."""
        policy = self.actor_critic.policy
        if self.ref_model is not None:
            yield causal_lm(self.ref_model)
        elif self.args.ref_adapter_name:
            policy.set_adapter(self.args.ref_adapter_name)
            try:
                yield causal_lm(policy)
            finally:
                policy.set_adapter(self.args.model_adapter_name or "default")
        else:
            with policy.disable_adapter():
                yield causal_lm(policy)

    @contextmanager
    def _full_weights(self):
        """Whole weights for the rollout, where they are sharded (FSDP, ZeRO-3)."""
        if self.is_fsdp_enabled:
            from torch.distributed.fsdp import FullyShardedDataParallel

            with FullyShardedDataParallel.summon_full_params(self.model_wrapped, writeback=False):
                yield
        elif self.is_deepspeed_enabled and self.accelerator.state.deepspeed_plugin.zero_stage == 3:
            import deepspeed

            with deepspeed.zero.GatheredParameters(list(self.actor_critic.parameters())):
                yield
        else:
            yield

    def _answers(self, rows: list[dict], tokens: list[list[int]], sequences: Sequences) -> Answers:
        completion_ids = [ids[m].tolist() for ids, m in zip(sequences.completion_ids, sequences.mask, strict=True)]
        decode = partial(self.processing_class.decode, skip_special_tokens=True)
        prompts = [
            row["prompt"] if row.get("prompt") is not None else decode(t) for row, t in zip(rows, tokens, strict=True)
        ]
        completions = [as_completion(decode(ids), prompt) for ids, prompt in zip(completion_ids, prompts, strict=True)]
        columns = {k: [row[k] for row in rows] for k in rows[0] if k not in ("prompt", "input_ids", "attention_mask")}
        return Answers(prompts, completions, tokens, completion_ids, columns)

    def _check_scores(self, scores: list[float], by_name: dict, answers: Answers) -> None:
        bad = [i for i, score in enumerate(scores) if not math.isfinite(score)]
        if bad and self.args.on_nonfinite == "stop":
            i = bad[0]
            parts = ", ".join(f"{name}={values[i]}" for name, values in by_name.items())
            raise UserError(
                f"update {self.update}: the score of row {i} is {scores[i]} ({parts}) for prompt "
                f"{answers.prompts[i]!r} and completion {answers.completions[i]!r}; mend the reward, or leave such "
                "rows out with trainer.on_nonfinite=skip"
            )

    # ---- loss ----

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The PPO loss of a micro-batch, a part of its minibatch's mean over tokens.

        L = mean_t L_clip - c_H mean_t H + c_V mean_t L_V + gamma L_lm        (arXiv:1707.06347 eq. 9)
        """
        args, exp, world = self.args, self._experience, self.plan.world
        rows = inputs["rows"].to(exp.mask.device)
        seq = exp.sequences[rows].trim()
        width = seq.mask.shape[1]
        per_token = world / inputs["tokens"].clamp(min=1)  # DDP averages over processes
        per_step = world / inputs["values"].clamp(min=1)
        old, advantages = (x[rows][:, :width][seq.mask] for x in (exp.logprobs, exp.advantages))

        def terms(logp: Tensor, part: slice) -> Tensor:
            return core.clipped_policy_terms(logp, old[part], advantages[part], args.cliprange)[0] * per_token

        learning = self.update >= args.value_warmup_updates
        out = model(
            seq,
            terms if learning else None,
            (args.entropy_coef * per_token).item() if args.entropy_coef else 0.0,
            self._corpus(inputs) if learning and self.ptx else None,
        )
        span = min(width + 1, exp.values.shape[1])
        old_values, returns, value_mask = (x[rows][:, :span] for x in (exp.values, exp.returns, exp.value_mask))
        values = torch.where(value_mask, out["values"][:, :span], 0.0)
        value_terms, value_clipped = core.clipped_value_terms(values, old_values, returns, args.cliprange_value)
        loss = args.vf_coef * (value_terms * value_mask).sum() * per_step
        token_terms = []
        if learning:
            loss = loss + out["policy_loss"]
            terms_now, clipped = core.clipped_policy_terms(out["logprobs"], old, advantages, args.cliprange)
            ratio = (out["logprobs"] - old).exp()
            token_terms = [0.5 * (out["logprobs"] - old) ** 2, clipped, terms_now, out["entropies"], ratio]
        if "corpus_loss" in out:
            loss = loss + args.ptx_coef * out["corpus_loss"] * world / self._corpus_tokens
        self._statistics.add(inputs["step"], token_terms, [value_terms.detach(), value_clipped], value_mask)
        self._check_loss(loss, inputs)
        return (loss, out) if return_outputs else loss

    def _corpus(self, inputs: dict) -> Tensor:
        """This micro-batch's share of the minibatch of corpus rows: (C, L) ids, -1 on padding."""
        every = self.ptx.rows(self.update * self.plan.steps + inputs["step"])
        self._corpus_tokens = max(1, sum(len(row["input_ids"]) - 1 for row in every))
        forwards = self.plan.micro_batches * self.plan.world
        place = self.plan.rank * self.plan.micro_batches + self._micro_of(inputs)
        rows = [row["input_ids"] for row in every[place::forwards]] or [[self._pad_id]]
        ids, _ = pad_left([row[::-1] for row in rows], -1)
        return ids.flip(1).to(self.args.device)

    def _micro_of(self, inputs: dict) -> int:
        behind = sum(item["step"] == inputs["step"] for item in self._buffer)
        return self.plan.micro_batches - 1 - behind

    def _check_loss(self, loss: Tensor, inputs: dict) -> None:
        if self.args.on_nonfinite == "stop" and not torch.isfinite(loss):
            texts = self._texts(inputs["rows"][:2])
            raise UserError(
                f"update {self.update}, optimizer step {inputs['step']}: the loss is {loss.item()} on rows "
                f"{inputs['rows'].tolist()} (first: {texts}); the weights are those before this step. Lower "
                "learning_rate, or go on without such steps with trainer.on_nonfinite=skip"
            )

    def _texts(self, rows: Tensor) -> list[str]:
        seq = self._experience.sequences[rows.to(self.args.device)]
        ids = [torch.cat([p[pm], c[cm]]) for p, pm, c, cm in zip(*vars(seq).values(), strict=True)]
        return self.processing_class.batch_decode(ids)

    def _get_grad_norm(self, model, grad_norm=None):
        """Trainer's norm before clipping; a step whose gradient is not finite is refused or skipped here."""
        norm = Trainer._get_grad_norm(self, model, grad_norm)
        if torch.isfinite(torch.as_tensor(norm)):
            if not self._skip_rest:
                self._norms.append(float(norm))
            return norm
        if self.args.on_nonfinite == "stop":
            step = self.state.global_step % self.plan.steps
            raise UserError(
                f"update {self.update}, optimizer step {step}: the gradient norm is {float(norm)}; the weights "
                "are those before this step. Lower learning_rate, or go on without such steps with "
                "trainer.on_nonfinite=skip"
            )
        logger.warning("global step %d skipped: its gradient norm is %s", self.state.global_step, float(norm))
        for parameter in self.actor_critic.parameters():
            parameter.grad = None
        return norm

    # ---- the end of an update ----

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        if self._experience is not None and not self._buffer:
            self._end_update()
        super(TRLPPOTrainer, self)._maybe_log_save_evaluate(*args, **kwargs)

    def _end_update(self) -> None:
        """Close an update: its metrics, the reference's move, the sample table."""
        exp, now, clock = self._experience, time.perf_counter(), self._clock
        finished = self.state.global_step // self.plan.steps
        episode = finished * self.plan.batch_size
        metrics = self._rollout_metrics | self._statistics.metrics(self._reduce)
        metrics["policy/grad_norm"] = sum(self._norms) / max(1, len(self._norms))
        times = {
            "time/rollout": clock["score"] - clock["start"],
            "time/score": clock["value"] - clock["score"],
            "time/value": clock["optimise"] - clock["value"],
            "time/optimise": now - clock["optimise"],
            "tokens_per_second": exp.lengths.sum().item() / (now - clock["start"]),
            "eps": self.plan.batch_size / (now - clock["start"]),
        }
        self._logged.append(metrics | times | {"lr": self._rate, "episode": episode})
        self._experience, self._norms = None, []
        self.state.episode = episode
        if self.args.sync_ref_model and finished % self.args.ref_model_sync_steps == 0:
            self._move_reference()
        often = max(1, self.plan.updates // max(1, self.args.num_sample_generations))
        if self.args.num_sample_generations > 0 and (finished - 1) % often == 0:
            self._tell("on_experience", tokens=exp.token_rows(0, self.processing_class))
            if self.eval_dataset is not None:
                self.generate_completions(sampling=True)

    def _tell(self, event: str, **kwargs) -> None:
        """Call our own events on the callbacks that have them."""
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(self.args, self.state, self.control, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log; a training line carries the mean of the updates since the last one (`episode` the last)."""
        if self._logged and "loss" in logs:
            names = dict.fromkeys(name for update in self._logged for name in update)
            means = {}
            for name in names:
                values = [update[name] for update in self._logged if name in update]
                means[name] = sum(values) / len(values)
            logs = {**means, "episode": self._logged[-1]["episode"], **logs}
            self._logged = []
        if "episode" in logs:
            self.state.epoch = logs["episode"] / len(self.train_dataset)
        Trainer.log(self, logs, start_time)

    @torch.no_grad()
    def _move_reference(self) -> None:
        share = self.args.ref_model_mixup_alpha
        policy = self.actor_critic.policy
        for ref, new in zip(self.ref_model.parameters(), policy.parameters(), strict=True):
            ref.lerp_(new.to(ref.dtype), share)

    def _reduce(self, sums: Tensor) -> Tensor:
        return self.accelerator.reduce(sums, "sum")

    # ---- held-out prompts ----

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Answer held-out prompts and score them: <prefix>_score, _kl, _length, _eos_rate and _reward/<name>.

        The random numbers are the same at every evaluation, so that two of them differ by the policy alone.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise UserError("evaluation needs held-out prompts; give eval_dataset")
        table = self._answer_held_out(dataset, len(dataset))
        numbers = {k: v for k, v in table.items() if k not in ("prompt", "completion")}
        metrics = {f"{metric_key_prefix}_{k}": torch.tensor(v).nanmean().item() for k, v in numbers.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def generate_completions(self, sampling: bool = False) -> list[dict]:
        """Answers to held-out prompts as rows {"step", "prompt", "completion", "score", "kl", ...}.

        They are handed to every callback that has `on_samples(args, state, control, samples)`.

        Args:
            sampling: only the first `per_device_eval_batch_size` prompts, as in TRL.
        """
        count = min(len(self.eval_dataset), self.args.per_device_eval_batch_size if sampling else 10**9)
        table = self._answer_held_out(self.eval_dataset, count)
        rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        rows = [{"step": self.state.global_step, "episode": self.update * self.plan.batch_size, **row} for row in rows]
        self._tell("on_samples", samples=rows)
        return rows

    @torch.no_grad()
    def _answer_held_out(self, dataset: Dataset, count: int) -> dict[str, list]:
        """Columns prompt, completion, score, kl, length, eos_rate and reward/<name> of the first `count` rows."""
        world, rank = self.plan.world, self.plan.rank
        uniforms = torch.rand(count, self.args.response_length, generator=torch.Generator().manual_seed(self.args.seed))
        table: dict[str, list] = {}
        places = list(range(count))[rank::world]
        size = self.args.local_rollout_forward_batch_size
        with evaluating(self.actor_critic), self._full_weights(), self.accelerator.autocast():
            for start in range(0, len(places), size):
                part = places[start : start + size]
                rows = [dataset[i] for i in part]
                tokens = [prompt_tokens(row, self.processing_class) for row in rows]
                sequences, logprobs, finished = self._generate(tokens, uniforms[part], max(map(len, tokens)))
                answers = self._answers(rows, tokens, sequences)
                scores, by_name = self.signal(answers)
                _, kl, _ = self._judge(sequences, logprobs)
                columns = {
                    "place": part,
                    "prompt": answers.prompts,
                    "completion": answers.completions,
                    "score": scores,
                    "kl": kl.sum(1).tolist(),
                    "length": sequences.mask.sum(1).float().tolist(),
                    "eos_rate": finished.float().tolist(),
                }
                columns |= {f"reward/{k}": [math.nan if x is None else x for x in v] for k, v in by_name.items()}
                for name, values in columns.items():
                    table.setdefault(name, []).extend(values)
        parts = gather_object([table]) if world > 1 else [table]
        table = {name: [v for part in parts for v in part.get(name, [])] for name in parts[0]}
        order = sorted(range(len(table["place"])), key=table["place"].__getitem__)
        return {name: [values[i] for i in order] for name, values in table.items() if name != "place"}

    # ---- saving ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy alone (whole, or its adapter) and the tokenizer, so that from_pretrained reads it."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            state = self.accelerator.get_state_dict(self.model_wrapped)
            state = {k.removeprefix("policy."): v for k, v in state.items() if k.startswith("policy.")}
        else:
            state = None
        output_dir = output_dir or self.args.output_dir
        if self.args.should_save:
            os.makedirs(output_dir, exist_ok=True)
            self.actor_critic.policy.save_pretrained(output_dir, state_dict=state)
            self.processing_class.save_pretrained(output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_checkpoint(self, model, trial) -> None:
        """Trainer's checkpoint, with critic, beta and reward statistics; whole or not there at all."""
        place = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        staging = Path(self.args.output_dir) / checkpoint.STAGING
        staged = staging / place.name
        self._get_output_dir = lambda trial: str(staging)  # where Trainer writes this time
        try:
            super(TRLPPOTrainer, self)._save_checkpoint(model, trial)
        finally:
            del self._get_output_dir
        if self.args.should_save:
            self._save_ppo_state(staged)
            if self.state.best_model_checkpoint == str(staged):
                self.state.best_model_checkpoint = str(place)
                self.state.save_to_json(str(staged / "trainer_state.json"))
            torch.save(self.args, staged / "training_args.bin")
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoint.publish(staged, place)
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )
        self.accelerator.wait_for_everyone()

    def _save_ppo_state(self, folder: Path) -> None:
        critic = {n: p.detach().cpu().contiguous() for n, p in self._critic_state().items()}
        save_file(critic, folder / CRITIC_FILE)
        state = {"kl_coef": self.args.kl_coef, "signal": None, "reference": None, "scale": self.scale.state_dict()}
        signal = getattr(self.signal, "signal", None)
        if hasattr(signal, "state_dict"):
            state["signal"] = signal.state_dict()
        if self.args.sync_ref_model:
            state["reference"] = self.ref_model.state_dict()
        torch.save(state, folder / STATE_FILE)

    def _critic_state(self) -> dict[str, Tensor]:
        return {n: t for n, t in self.actor_critic.state_dict().items() if not n.startswith("policy.")}

    def _load_ppo_state(self, folder: Path) -> None:
        state = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        self.args.kl_coef = state["kl_coef"]
        self.scale.load_state_dict(state["scale"])
        if state["signal"] is not None:
            self.signal.signal.load_state_dict(state["signal"])
        if state["reference"] is not None:
            self.ref_model.load_state_dict(state["reference"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        """Policy (or adapter) as Trainer loads it, then the critic."""
        if self.is_fsdp_enabled:
            return super(TRLPPOTrainer, self)._load_from_checkpoint(resume_from_checkpoint, model)
        whole, self.model = self.model, self.actor_critic.policy
        try:
            super(TRLPPOTrainer, self)._load_from_checkpoint(resume_from_checkpoint, self.model)
        finally:
            self.model = whole
        critic = load_file(Path(resume_from_checkpoint) / CRITIC_FILE)
        missing = set(self._critic_state()) ^ set(critic)
        if missing:
            raise UserError(
                f"{resume_from_checkpoint} holds another critic (differs in {sorted(missing)[:3]}); start a new run"
            )
        self.actor_critic.load_state_dict(critic, strict=False)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
