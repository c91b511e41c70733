"""A signal saves and stops, at the end of an update."""

import logging
import signal

import torch
from torch import distributed
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


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
