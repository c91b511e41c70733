"""A signal saves a checkpoint and stops, at the end of an update."""

import logging
import signal

import torch
from torch import distributed
from transformers import TrainerCallback

from rlhf_recipes.training.updates import steps_an_update

logger = logging.getLogger(__name__)


class GracefulStop(TrainerCallback):
    """SIGTERM and Ctrl-C: finish the update, save a checkpoint, stop. A second signal stops at once, without saving.

    Of several processes it is enough that one is signalled: they compare at the end of every update and all stop at the
    same one. Their launcher passes on the signal that the terminal has sent them already, so a second one is ignored.
    `received` is the signal's number afterwards, in every process, and None if there was none.
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
                return  # not the main thread: another part of the program handles signals

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
        number = self.received or 0
        if _several():
            highest = torch.tensor(number, device=args.device)
            distributed.all_reduce(highest, op=distributed.ReduceOp.MAX)
            number = int(highest)
        if number:  # a signal that arrives after the comparison waits for the next one, or some processes would go on
            self.received = number
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _several() -> bool:
    """Whether this is one of several processes."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
