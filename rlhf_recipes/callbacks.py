"""Controllers and monitors of a run, as callbacks of transformers.Trainer.

PPOTrainer calls three events more than Trainer does, each with (args, state, control, ...):
    on_rollout(metrics={...}, trainer=...)   what a rollout measured of the weights, before an update learns from it
    on_samples(samples=[rows])               answers to held-out prompts
    on_experience(tokens=[rows])             one training answer token by token
"""

import json
import logging
import math
import signal
import time
from collections import deque
from pathlib import Path

import torch
from torch import distributed
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from rlhf_recipes.checkpoints import remove, replace, standing
from rlhf_recipes.errors import UserError

logger = logging.getLogger(__name__)


class KLControl(TrainerCallback, ExportableState):
    """Let a controller set beta after every logged update; beta lives in the checkpoint.

    PPO: `args.kl_coef` from objective/kl. GRPO: `args.beta` and the trainer's, from its kl (a token's mean) times its
    mean length. GRPOTrainer needs a beta above 0 to begin with, for without one it loads no reference.

    Args:
        controller: has `kl_coef`, `update(kl, episodes)`, `state_dict()` and `load_state_dict()`: see rlhf_recipes.kl.
        trainer: GRPO's, which keeps beta in an attribute; may be set later.
    """

    def __init__(self, controller, trainer=None):
        self.controller = controller
        self.trainer = trainer
        self.episodes = 0

    def state(self) -> dict:
        return {"args": {}, "attributes": {"saved": self.controller.state_dict(), "episodes": self.episodes}}

    def on_train_begin(self, args, state, control, **kwargs):
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        if saved and saved["attributes"]:
            self.controller.load_state_dict(saved["attributes"]["saved"])
            self.episodes = saved["attributes"]["episodes"]
        self._set(args, self.controller.kl_coef)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "objective/kl" in logs:
            kl, episodes = logs["objective/kl"], logs["episode"]
        elif logs.get("kl") is not None and "completions/mean_length" in logs:
            kl = logs["kl"] * logs["completions/mean_length"]
            batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
            episodes = state.global_step * batch // args.num_iterations  # an answer is learned from so often
        else:
            return
        self._set(args, self.controller.update(kl, episodes - self.episodes))
        self.episodes = episodes

    def _set(self, args, beta: float) -> None:
        if hasattr(args, "kl_coef"):
            args.kl_coef = beta
            return
        args.beta = beta
        if self.trainer is not None:
            self.trainer.beta = beta
            if hasattr(self.trainer, "liger_loss"):  # which has a third copy
                self.trainer.liger_loss.beta = beta


class KLRunaway(TrainerCallback, ExportableState):
    """Stop a run whose policy has left the reference, and keep the best policy that had not.

    A rollout measures the weights that wrote it. What is kept is saved there and then, before the update learns from
    it: the policy kept is the one that the figures are of. They lie beside it, and a resumed run goes on from them.

    Args:
        max_kl: nats a response; above it for `patience` rollouts in a row the run stops at the end of the update.
        patience: rollouts.
        folder: where the policy with the highest objective/rlhf_reward is kept, inside output_dir.
    """

    FIGURES = "kept.json"

    def __init__(self, max_kl: float, patience: int = 1, folder: str = "best"):
        if not max_kl > 0:
            raise UserError(f"KLRunaway: max_kl is {max_kl}; expected nats a response, above 0")
        self.max_kl, self.patience, self.folder = max_kl, patience, folder
        self.above = 0
        self.kept: dict | None = None  # step, kl and rlhf_reward of the policy kept

    @property
    def stopped(self) -> bool:
        """Whether the KL has been above its limit for long enough."""
        return self.above >= self.patience

    def state(self) -> dict:
        return {"args": {"max_kl": self.max_kl, "patience": self.patience}, "attributes": {"above": self.above}}

    def on_train_begin(self, args, state, control, **kwargs):
        place = Path(args.output_dir) / self.folder
        if state.global_step:
            saved = state.stateful_callbacks.get(type(self).__name__)
            self.above = saved["attributes"]["above"] if saved else 0
            found = standing(place)
            self.kept = json.loads((found / self.FIGURES).read_text(encoding="utf-8")) if found else None
        elif state.is_world_process_zero:
            remove(place)

    def on_rollout(self, args, state, control, metrics, trainer):
        place = Path(args.output_dir) / self.folder
        kl, reward = metrics["objective/kl"], metrics["objective/rlhf_reward"]
        self.above = 0 if kl <= self.max_kl else self.above + 1  # a KL that is NaN is no KL below the limit
        if self.stopped and self.kept is None:
            logger.warning("the KL is %.1f nats a response, above %.1f: stopped; none was below it", kl, self.max_kl)
        elif self.stopped:
            logger.warning(
                "the KL is %.1f nats a response, above %.1f: stopped; the best policy (rlhf_reward %.3f) is in %s",
                kl,
                self.max_kl,
                self.kept["rlhf_reward"],
                place,
            )
        elif not self.above and reward > (self.kept["rlhf_reward"] if self.kept else -math.inf):
            self.kept = {"step": state.global_step, "kl": kl, "rlhf_reward": reward}
            self._keep(place, trainer, state.is_world_process_zero)

    def _keep(self, place: Path, trainer, first: bool) -> None:
        aside = place.with_name(f".{place.name}.writing")
        if first:
            remove(aside)
        trainer.save_model(str(aside), _internal_call=True)  # the hub gets the last one only
        if first:
            (aside / self.FIGURES).write_text(json.dumps(self.kept), encoding="utf-8")
            replace(aside, place)

    def on_step_end(self, args, state, control, **kwargs):
        if self.stopped and state.global_step % steps_an_update(args) == 0:
            control.should_training_stop = True


def steps_an_update(args) -> int:
    """Optimizer steps that learn from one rollout of PPO's; 1 for any other trainer."""
    return getattr(args, "num_ppo_epochs", 1) * getattr(args, "num_mini_batches", 1)


class GracefulStop(TrainerCallback):
    """SIGTERM and Ctrl-C: finish the update, save a checkpoint, stop. A second one stops at once, without saving.

    Of several processes one signalled is enough: all ask each other at the end of an update, and stop at the same one.
    Their launcher hands them the signal that the terminal has sent them already: a second one is no news there.
    `received` is the signal's number afterwards, in every process, None if there was none.
    """

    def __init__(self):
        self.received: int | None = None
        self._own = False  # this process was signalled, not another
        self._before: dict = {}

    def on_train_begin(self, args, state, control, **kwargs):
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:
                return  # not the main thread: signals are someone else's

    def _note(self, number, frame):
        if self._own and _several():
            return
        if self._own:
            raise KeyboardInterrupt
        self._own, self.received = True, number
        logger.warning("%s: finishing this update, saving, stopping", signal.Signals(number).name)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % steps_an_update(args):
            return
        told = self.received or 0
        if _several():
            highest = torch.tensor(told, device=args.device)
            distributed.all_reduce(highest, op=distributed.ReduceOp.MAX)
            told = int(highest)
        if told:  # a signal that came since then waits for the next step's end, or some would stop alone
            self.received = told
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _several() -> bool:
    """Whether this is one of several processes."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class SamplesFile(TrainerCallback):
    """Append answers to held-out prompts to a file, one JSON object a line: step, prompt, completion, score ...

    Args:
        path: samples.jsonl; lines of steps that a resumed run will play again are dropped when it begins.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= state.global_step]
            self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def on_samples(self, args, state, control, samples=()):
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        now = time.time()
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**row, "time": now}, ensure_ascii=False) + "\n" for row in samples)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # a line torn by a kill goes too


class SamplesTable(TrainerCallback):
    """Answers to held-out prompts on the screen, and in wandb where it runs; `tokens` adds one answer token by token.

    Args:
        rows: answers a table on the screen; 0 for wandb's only, which has all of them.
        tokens: show each token's KL, value, reward and advantage of one training answer.
    """

    def __init__(self, rows: int = 5, tokens: bool = False):
        self.rows, self.tokens = rows, tokens

    def on_samples(self, args, state, control, samples=()):
        if not samples or not state.is_world_process_zero:
            return
        keys = dict.fromkeys(key for row in samples for key in row)  # not every prompt can be judged: rows may differ
        columns = [key for key in keys if key not in ("step", "episode")]
        if self.rows:
            self._print(f"step {state.global_step}", columns, samples[: self.rows])
        if "wandb" in (args.report_to or []):
            import wandb

            if wandb.run is not None:
                table = wandb.Table(columns=columns, data=[[row.get(c) for c in columns] for row in samples])
                wandb.log({"completions": table})

    def on_experience(self, args, state, control, tokens=()):
        if self.tokens and tokens and state.is_world_process_zero:
            self._print(f"step {state.global_step}, one answer", list(tokens[0]), tokens)

    @staticmethod
    def _print(title: str, columns: list[str], rows) -> None:
        from rich.console import Console
        from rich.table import Table

        table = Table(*columns, title=title, show_lines=True)
        for row in rows:
            table.add_row(*(f"{v:.3f}" if isinstance(v, float) else _text(v) for v in (row.get(c) for c in columns)))
        Console().print(table)


def _text(value) -> str:
    from rich.markup import escape

    if isinstance(value, list):
        value = "\n".join(f"{m['role']}: {m['content']}" for m in value)
    return escape("" if value is None else str(value))


class PracticeWarnings(TrainerCallback):
    """Say once what a practitioner would say on seeing the curves.

    Args:
        window: log lines that a sign must hold for, and over which a rise or fall is measured.
        gold: metric that is believed more than the score, e.g. "reward/gold"; None if there is none.
    """

    def __init__(self, window: int = 5, gold: str | None = None):
        self.window, self.gold = window, gold
        self.history: deque = deque(maxlen=window)
        self.first: dict | None = None
        self.said: set[str] = set()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "objective/kl" not in logs:
            return
        self.first = self.first or dict(logs)
        self.history.append(dict(logs))
        if len(self.history) < self.window or not state.is_world_process_zero:
            return
        for name, text in self._signs():
            if name not in self.said:
                self.said.add(name)
                logger.warning("step %d: %s", state.global_step, text)

    def _signs(self):
        def always(metric, test):
            values = [row.get(metric) for row in self.history]
            return all(v is not None and test(v) for v in values)

        def change(metric):
            old, new = self.first.get(metric), self.history[-1].get(metric)
            return (new - old) if old is not None and new is not None else 0.0

        last = self.history[-1]
        if always("objective/kl", lambda v: v < -0.1):
            yield (
                "kl",
                (
                    "the KL is negative for long: answers are less likely under the policy than the reference, which "
                    "sampling from the policy cannot give; look for generation settings that differ from the ratio's"
                ),
            )
        if always("val/explained_variance", lambda v: v < 0):
            yield "critic", "explained variance stays below 0: the critic is worse than a constant; raise its rate"
        if always("policy/clipfrac_avg", lambda v: v > 0.5):
            yield "clip", "more than half of all tokens are clipped: lower learning_rate or num_ppo_epochs"
        entropy = self.first.get("policy/entropy_avg")
        if entropy and last.get("policy/entropy_avg", entropy) < 0.1 * entropy:
            yield "entropy", "the entropy fell below a tenth of its start: the policy is collapsing; raise kl_coef"
        rising = change("objective/scores") > 0
        if rising and self.gold and change(self.gold) < 0:
            yield "gold", f"the score rises while {self.gold} falls: the reward is being over-optimised"
        length = self.first.get("completions/mean_length")
        if rising and length and last["completions/mean_length"] > 1.5 * length:
            yield "length", "the score rises with length (half as long again): the reward may be paying for length"
