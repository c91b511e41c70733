"""PPO in transformers.Trainer's loop: a rollout where a batch would be fetched, and a loss.

When the update's forwards are used up, `training_step` plays a rollout and cuts it into the next update's epochs and
minibatches; `compute_loss` takes one micro-batch of it. Accumulation, clipping, precision, distribution, checkpoints,
callbacks and logging are Trainer's own, called by its name: where TRL has a PPOTrainer too, none of its methods run.
"""

import copy
import logging
import math
import os
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer import Trainer

from rlhf_recipes.engine.forward import evaluating
from rlhf_recipes.engine.sampling import Sampling
from rlhf_recipes.engine.stops import stop_ids, stop_string_test
from rlhf_recipes.errors import UserError
from rlhf_recipes.models.sharding import weights, whole
from rlhf_recipes.ppo import checkpoint, guards
from rlhf_recipes.ppo.actor_critic import ActorCritic, Reference, split_groups, switch_dropout_off, with_adapter
from rlhf_recipes.ppo.config import PPOConfig
from rlhf_recipes.ppo.experience import Experience, ScoreScale, make_experience
from rlhf_recipes.ppo.plan import activation_bytes, make_plan, trainer_arguments
from rlhf_recipes.ppo.rollout import Player, answer_held_out, means
from rlhf_recipes.ppo.streams import PretrainingMix, PromptStream, as_corpus
from rlhf_recipes.ppo.update import StepStatistics, Update, mean_of, micro_batches, ppo_loss
from rlhf_recipes.rewards.model import as_reward_functions
from rlhf_recipes.runs import checkpoints
from rlhf_recipes.training.updates import tell

logger = logging.getLogger(__name__)

try:  # so that isinstance knows ours for TRL's; the last TRL that has one is 1.12
    from trl.experimental.ppo import PPOTrainer as Kin
except ImportError:
    Kin = Trainer


class PPOTrainer(Kin):
    """Proximal policy optimisation of a language model against a reward, with a KL penalty (arXiv:2203.02155).

    Args:
        model: the policy, a causal language model or a PEFT model.
        args: see PPOConfig. It is copied; callbacks get the copy, and may set `kl_coef` and other coefficients on it.
        processing_class: the policy's tokenizer.
        reward_funcs: a reward function `f(prompts, completions, **columns) -> list[float | None]`, a sequence
            classifier, or several as a list or dict by name; or a rewards.RewardFunctions.
        train_dataset: rows with `prompt` (text or messages) or `input_ids`; other columns go to the reward functions.
        eval_dataset: held-out prompts, for evaluation and samples.
        ref_model: the reference of the KL. None: the policy with its adapter off, or a frozen copy of the policy.
        value_model: a sequence classifier with one label, or None for a value head on the policy's backbone.
        peft_config: wraps the policy in an adapter; value_peft_config the value model.
        reward_processing_classes: tokenizers of reward models that have their own (list or dict as reward_funcs).
        ptx_dataset: rows with `input_ids` or `text` for the pretraining mix (`ptx_coef`).
        callbacks, optimizers: as Trainer's. A callback may have four events beside Trainer's, each called as
            `event(args, state, control, **keywords)`: `on_rollout(metrics, trainer)` before an update learns from its
            rollout, `on_update(metrics)` after every update whatever is logged, `on_experience(tokens)` and
            `on_samples(samples)` with the tables of answers.

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
        self.stop_ids = stop_ids(processing_class, model, args)
        guards.check(args, model, ref_model, eval_dataset, ptx_dataset, self.stop_ids)
        # the reference is then the policy with its adapter off, or a copy; an adapter that came with the model is not
        # the policy as it starts
        self._starts_at_reference = ref_model is None and not hasattr(model, "peft_config")
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

        configs = [m.config for m in (model, value_model) if m is not None]
        self.plan = make_plan(args, len(train_dataset), lambda n: sum(activation_bytes(c, n) for c in configs))
        args = trainer_arguments(args, self.plan)
        use_cache = model.config.use_cache
        sampling = Sampling(
            max_length=args.response_length,
            temperature=args.temperature,
            stop_ids=self.stop_ids,
            min_length=args.min_length,
            top_k=args.top_k,
            top_p=args.top_p,
            stopped=stop_string_test(args.stop_strings, processing_class),
        )
        Trainer.__init__(
            self,
            model=ActorCritic(model, value_model, sampling),
            args=args,
            data_collator=list,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.early_stopping = EarlyStoppingCallback(args.early_stopping_patience or 1)
        if args.early_stopping_patience is not None:
            self.add_callback(self.early_stopping)
        model.config.use_cache = use_cache  # Trainer switches it off, and would save it so
        self.actor_critic: ActorCritic = self.accelerator.unwrap_model(self.model)
        self.ref_model = ref_model
        if ref_model is not None:
            ref_model.requires_grad_(False).eval().to(args.device)
        self.rewards = as_reward_functions(
            reward_funcs,
            args.reward_weights,
            reward_processing_classes,
            processing_class,
            args.reward_append_eos,
            args.device,
            args.on_nonfinite,
            messages="prompt" in train_dataset.column_names and not isinstance(train_dataset[0]["prompt"], str),
        )
        self.reference = Reference(self.actor_critic.policy, ref_model, args)
        narrow = any(p.dtype != torch.float32 for p in model.parameters())
        self.player = Player(
            self.actor_critic,
            self.reference,
            self.rewards,
            processing_class,
            args,
            anew=narrow or self.accelerator.mixed_precision != "no",
        )
        self.scale = ScoreScale(args.reward_normalize)
        self.prompts = PromptStream(train_dataset, self.plan.batch_size, args.data_seed or args.seed)
        self.ptx = None
        if args.ptx_coef:
            context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
            corpus = as_corpus(ptx_dataset, processing_class, context)
            self.ptx = PretrainingMix(corpus, processing_class, self.plan.mini_batch_size, args.seed + 1)
        self._update: Update | None = None
        self._logged: list[dict] = []
        self._unlogged: dict | None = None  # what a checkpoint had not logged yet; the next log line counts it too

    # ---- what Trainer's loop calls at each step ----

    @property
    def update(self) -> int:
        """Index of the update under way, from 0."""
        return self.state.global_step // self.plan.steps

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Trainer's train. `resume_from_checkpoint` "auto" or True: the last whole checkpoint, if there is one."""
        if resume_from_checkpoint:
            resume_from_checkpoint = checkpoints.choose(self.args.output_dir, resume_from_checkpoint, logger.warning)
        self._update, self._logged = None, []
        self.early_stopping.early_stopping_patience_counter = 0
        if resume_from_checkpoint:
            self._load_ppo_state(Path(resume_from_checkpoint))
        return Trainer.train(self, resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """One empty item a forward: prompts are fetched a rollout at a time, by `training_step`."""
        forwards = self.plan.updates * self.plan.steps * self.plan.micro_batches
        # with a generator of its own, because the loader would draw from the global one
        return DataLoader(range(forwards), batch_size=1, collate_fn=lambda _: {}, generator=torch.Generator())

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Trainer's optimizer, the critic's parameters in groups with their own learning rate."""
        if self.optimizer is not None or self.args.value_learning_rate is None:
            return Trainer.create_optimizer(self, model)
        optimizer = Trainer.create_optimizer(self, model)
        critic = {id(p) for n, p in self.model.named_parameters() if n.startswith(("value_model.", "value_head."))}
        split_groups(optimizer, critic, self.args.value_learning_rate)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Trainer's schedule, over updates: the learning rate is constant within one, as in TRL."""
        fresh = self.lr_scheduler is None
        scheduler = Trainer.create_scheduler(self, self.plan.updates, optimizer)
        if fresh and hasattr(scheduler, "lr_lambdas"):
            steps = self.plan.steps
            scheduler.lr_lambdas = [lambda step, f=f: f(step // steps) for f in scheduler.lr_lambdas]
        return scheduler

    def _run_epoch(self, **kwargs) -> None:
        """Trainer's epoch, without a step where the run had already decided to stop before it was killed."""
        waited = self.early_stopping.early_stopping_patience_counter
        if self.args.early_stopping_patience is not None and waited >= self.args.early_stopping_patience:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            Trainer._run_epoch(self, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """Trainer's step on the update's next forward. Where the last rollout is used up it plays another one first."""
        if self._unlogged is not None:  # Trainer has set both back to 0
            self._tr_loss.fill_(self._unlogged["loss"])
            self._globalstep_last_logged, self._unlogged = self._unlogged["since"], None
        if self._update is None:
            self._update = self._play()
            tell(self, "on_rollout", metrics=dict(self._update.metrics), trainer=self)
        batch = self._update.buffer[0]
        stopped = self._update.stop_at(batch, self.args.target_kl, self.args.num_mini_batches)
        if stopped or not len(batch.rows):
            self._update.buffer.popleft()
            return torch.zeros((), device=self.args.device)  # no gradient: the optimizer leaves the weights alone
        return Trainer.training_step(self, model, inputs, num_items_in_batch)

    def _prepare_inputs(self, inputs):
        """The next micro-batch; Trainer would move a batch to the device here."""
        batch = self._update.buffer.popleft()
        self._update.rows = [batch.rows] if batch.first else [*self._update.rows, batch.rows]
        return batch

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The PPO loss of a micro-batch: see `update.ppo_loss`."""
        plan, now = self.plan, self._update
        learning = self.update >= self.args.value_warmup_updates
        corpus = None
        if learning and self.ptx is not None:
            place = plan.rank * inputs.places + inputs.place
            corpus = self.ptx.share(self.update * plan.steps + inputs.step, place, inputs.places * plan.world)
        loss, out, sums = ppo_loss(model, now.experience, inputs, self.args, plan.world, learning, corpus)
        now.statistics.add(inputs.step, sums)
        if self.args.on_nonfinite == "stop" and not loss.isfinite():
            raise self._not_finite("the loss is", loss.item(), [inputs.rows])
        return (loss, out) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        """Trainer's norm before clipping; a step whose gradient is not finite is refused or skipped here."""
        norm = Trainer._get_grad_norm(self, model, grad_norm)
        if math.isfinite(norm):
            if not self._update.stopped:
                self._update.norms.append(float(norm))
            return norm
        if self.args.on_nonfinite == "stop":
            raise self._not_finite("the gradient norm is", float(norm), self._update.rows)
        logger.warning("global step %d skipped: its gradient norm is %s", self.state.global_step, float(norm))
        for parameter in self.actor_critic.parameters():
            parameter.grad = None
        return norm

    def _not_finite(self, what: str, value: float, rows: list[Tensor]) -> UserError:
        place = self.update, self.state.global_step % self.plan.steps
        sequences = self._update.experience.sequences
        return guards.not_finite(what, value, place, torch.cat(rows), sequences, self.processing_class)

    # ---- rollout ----

    def _play(self) -> Update:
        """Answer, score and value a rollout of prompts, and cut it into the update's micro-batches."""
        began, update = time.perf_counter(), self.update
        rows = self.prompts.rows(update)
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + update)
        uniforms = torch.rand(len(rows), self.args.response_length, generator=generator)
        experience, metrics = self._experience_of(rows, uniforms)
        return Update(
            experience,
            experience.metrics(self.stop_ids) | metrics,
            deque(micro_batches(experience, self.plan, generator)),
            StepStatistics(self.plan.steps, self.args.device, self._reduce),
            self.optimizer.param_groups[0]["lr"],
            began,
        )

    def _experience_of(self, rows: list[dict], uniforms: Tensor) -> tuple[Experience, dict[str, float]]:
        """Experience of all processes' rows, each process having played its own part; and what it measured."""
        local = self.plan.local
        with self._reading():
            played = self.player.play(rows[local], uniforms[local], self.state)
        everyone = played.gather(self.accelerator)
        if self._starts_at_reference and self.state.global_step == 0:
            guards.check_first_kl(everyone.kl, everyone.sequences.mask, self.player.anew)
        measured = everyone.logged | {f"time/{name}": seconds for name, seconds in played.seconds.items()}
        measured |= {f"reward/{k}": v for k, v in zip(played.names, everyone.by_name.nanmean(0).tolist(), strict=True)}
        measured["objective/raw_scores"] = everyone.scores.nanmean().item()
        if left_out := int((~everyone.scores.isfinite()).sum()):
            measured["objective/left_out"] = float(left_out)
        everyone.scores = torch.tensor(self.scale(everyone.scores.tolist()), device=self.args.device)
        return make_experience(everyone, self.args), measured

    @contextmanager
    def _reading(self):
        """Eval mode, the run's precision, and whole weights."""
        gathered = whole(self.actor_critic, self.accelerator)
        with evaluating(self.actor_critic), self.accelerator.autocast(), torch.no_grad(), gathered:
            yield

    def _reduce(self, sums: Tensor) -> Tensor:
        return self.accelerator.reduce(sums, "sum")

    # ---- the end of an update ----

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        if self._update is not None and not self._update.buffer:
            self._end_update()
        Trainer._maybe_log_save_evaluate(self, *args, **kwargs)

    def _end_update(self) -> None:
        """Close an update: its metrics, the reference's move, the sample table."""
        update, self._update = self._update, None
        finished = self.state.global_step // self.plan.steps
        self.state.episode = finished * self.plan.batch_size
        metrics = update.close(self.plan.batch_size) | {"episode": self.state.episode}
        self._logged.append(metrics)
        tell(self, "on_update", metrics=dict(metrics))
        if self.args.sync_ref_model and finished % self.args.ref_model_sync_steps == 0:
            self.reference.follow(self.args.ref_model_mixup_alpha)
        often = self.args.sample_every or self.plan.updates // max(1, self.args.num_sample_generations)
        if (self.args.sample_every or self.args.num_sample_generations > 0) and (finished - 1) % max(1, often) == 0:
            tell(self, "on_experience", tokens=update.experience.token_rows(0, self.processing_class))
            if self.eval_dataset is not None:
                self.generate_completions(sampling=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log; a training line carries the mean of the updates since the last one (`episode` the last)."""
        if self._logged and "loss" in logs:
            logs = mean_of(self._logged) | logs
            self._logged = []
        if "episode" in logs:
            self.state.epoch = logs["episode"] / len(self.train_dataset)
        Trainer.log(self, logs, start_time)

    # ---- held-out prompts ----

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Answer held-out prompts and score them: <prefix>_score, _kl, _length, _eos_rate and _reward/<name>.

        <prefix>_gold is _reward/gold, where there is one. The random numbers are the same at every evaluation, so that
        two of them differ by the policy alone.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise UserError("evaluation needs held-out prompts; give eval_dataset")
        metrics = means(self._answer_held_out(dataset, len(dataset)), metric_key_prefix)
        best = self.args.metric_for_best_model
        if best and metric_key_prefix == "eval" and f"eval_{best.removeprefix('eval_')}" not in metrics:
            raise UserError(f"trainer.metric_for_best_model={best}: an evaluation has only {', '.join(metrics)}")
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
        at = {"step": self.state.global_step, "episode": self.update * self.plan.batch_size}
        rows = [at | row for row in self._answer_held_out(self.eval_dataset, count)]
        tell(self, "on_samples", samples=rows)
        return rows

    def _answer_held_out(self, dataset: Dataset, count: int) -> list[dict]:
        with self._reading():
            return answer_held_out(self.player, dataset, count, self.plan, self.args.seed, self.state)

    # ---- saving ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy alone (whole, or its adapter) and the tokenizer, so that from_pretrained reads it."""
        output_dir = output_dir or self.args.output_dir
        state = weights(self.actor_critic, self.accelerator)
        if self.args.should_save:
            os.makedirs(output_dir, exist_ok=True)
            policy = {n.removeprefix("policy."): t for n, t in state.items() if n.startswith("policy.")}
            self.actor_critic.policy.save_pretrained(output_dir, state_dict=policy)
            self.processing_class.save_pretrained(output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_checkpoint(self, model, trial) -> None:
        """Trainer's checkpoint, with critic, beta and reward statistics; whole or not there at all."""
        output = Path(self.args.output_dir)
        staged = output / checkpoint.STAGING / f"checkpoint-{self.state.global_step}"
        self._get_output_dir = lambda trial: str(staged.parent)  # where Trainer writes this time
        try:
            Trainer._save_checkpoint(self, model, trial)
        finally:
            del self._get_output_dir
        if self.state.best_model_checkpoint == str(staged):  # in every process, because each reads it at the end
            self.state.best_model_checkpoint = str(output / staged.name)
        loss = self._reduce(self._tr_loss) / self.plan.world
        if self.args.should_save:
            if not self.is_fsdp_enabled:  # FSDP has written policy and critic to a file of its own
                checkpoint.save_critic(staged, self.actor_critic)
            torch.save(self._ppo_state(loss.item()), staged / checkpoints.STATE_FILE)
            self.state.save_to_json(str(staged / "trainer_state.json"))
            torch.save(self.args, staged / "training_args.bin")
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoint.publish(staged, output, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def _ppo_state(self, loss: float) -> dict:
        """What a checkpoint holds beside Trainer's files and the critic; `loss`: summed since the last log line."""
        return {
            "kl_coef": self.args.kl_coef,
            "rewards": self.rewards.state_dict(),
            "reference": self.ref_model.state_dict() if self.args.sync_ref_model else None,
            "scale": self.scale.state_dict(),
            "waited": self.early_stopping.early_stopping_patience_counter,  # Trainer saves it and does not read it
            "unlogged": {"updates": self._logged, "loss": loss, "since": self._globalstep_last_logged},
        }

    def _load_ppo_state(self, folder: Path) -> None:
        state = torch.load(folder / checkpoints.STATE_FILE, map_location="cpu", weights_only=True)
        self.args.kl_coef = state["kl_coef"]
        self.scale.load_state_dict(state["scale"])
        self.early_stopping.early_stopping_patience_counter = state["waited"]
        self._logged, self._unlogged = list(state["unlogged"]["updates"]), state["unlogged"]
        self.rewards.load_state_dict(state["rewards"] if "rewards" in state else state["signal"])  # its former name
        if state["reference"] is not None:
            self.ref_model.load_state_dict(state["reference"])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        """Policy (or adapter) as Trainer loads it, then the critic; FSDP has its own file of both."""
        if self.is_fsdp_enabled:
            Trainer._load_from_checkpoint(self, resume_from_checkpoint, model)
            return
        wrapped, self.model = self.model, self.actor_critic.policy
        try:
            Trainer._load_from_checkpoint(self, resume_from_checkpoint, self.model)
        finally:
            self.model = wrapped
        checkpoint.load_critic(Path(resume_from_checkpoint), self.actor_critic)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)
