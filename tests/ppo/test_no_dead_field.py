"""Every field of PPOConfig is read by code that PPO runs, or refused with what to set instead."""

import ast
import inspect
import textwrap
from dataclasses import fields

import pytest
import transformers
from transformers import Trainer, trainer_callback, trainer_optimizer
from transformers.integrations import integration_utils

from rlhf_recipes.engine import stops
from rlhf_recipes.errors import UserError
from rlhf_recipes.ppo import PPOConfig, PPOTrainer, actor_critic, config, experience, guards, plan, rollout, update
from rlhf_recipes.ppo.config import NOT_READ
from rlhf_recipes.training import updates

REFUSED = [name for names in NOT_READ.values() for name in names]
FIELDS = [field.name for field in fields(PPOConfig)]
# Read by TrainingArguments itself: its properties and what it sets up, which Trainer asks for in other names.
BY_TRAINING_ARGUMENTS = [
    "tf32",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "torch_compile",
    "logging_steps",
    "eval_steps",
    "use_cpu",
    "log_on_each_node",
    "log_level",
    "log_level_replica",
    "save_on_each_node",
    "ddp_backend",
    "ddp_timeout",
    "warmup_steps",
    "save_steps",
]
OUR_MODULES = (actor_critic, config, experience, guards, plan, rollout, update, stops, updates)


def _reads(source: str) -> set[str]:
    """Attributes read of something called `args`, `settings` or, in a config's own class, `self`."""
    tree = ast.parse(textwrap.dedent(source))
    places = ("args", "self.args", "settings", "self.player.args")
    return {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) in places}


def _methods() -> list:
    """What PPOTrainer reaches through `self.`, `super().` and `Trainer.`: its own and Trainer's methods."""
    reached, todo = [], [getattr(PPOTrainer, n) for n in ("__init__", "train", "evaluate", "save_model")]
    while todo:
        method = todo.pop()
        if method in reached:
            continue
        reached.append(method)
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method)))):
            if not isinstance(node, ast.Attribute):
                continue
            owner = {"self": PPOTrainer, "Trainer": Trainer}.get(ast.unparse(node.value))
            if ast.unparse(node.value).startswith("super("):
                owner = Trainer
            target = getattr(owner, node.attr, None) if owner else None
            todo += [target] if inspect.isfunction(target) else []
    return reached


def test_every_field_is_read_or_refused():
    methods = _methods()
    assert Trainer.evaluation_loop not in methods  # else what only TRL's or Trainer's evaluation reads would pass
    read = set().union(*(_reads(inspect.getsource(method)) for method in methods))
    modules = (*OUR_MODULES, trainer_callback, trainer_optimizer, integration_utils)
    read |= set().union(*(_reads(inspect.getsource(module)) for module in modules))
    arguments = inspect.getsource(transformers.TrainingArguments)
    read |= {name for name in BY_TRAINING_ARGUMENTS if f"self.{name}" in arguments or f'("{name}", ' in arguments}
    assert [name for name in FIELDS if name not in read and name not in REFUSED] == []
    assert set(REFUSED) <= set(FIELDS)


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_nothing_reads_is_refused(name, tmp_path):
    default = getattr(PPOConfig, name, None)
    other = not default if isinstance(default, bool) else "x" if isinstance(default, str) else 3
    with pytest.raises(UserError, match=f"^trainer.{name}={other} is not read by PPO: .+$"):
        PPOConfig(output_dir=str(tmp_path), **{name: other})


def test_eval_delay_counts_updates(make, prompts):
    held_out = {"eval_dataset": prompts}
    delays = dict(eval_strategy="steps", eval_steps=1, eval_delay=2)
    trainer = make(**delays, num_mini_batches=2, num_ppo_epochs=3, trainer=held_out)
    assert trainer.args.eval_delay == 2 * 6
    assert make(eval_strategy="epoch", eval_delay=2, trainer=held_out).args.eval_delay == 2
