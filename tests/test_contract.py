"""Every private name of transformers' and TRL's trainers that this package overrides, calls or reads, and why.

A private name may change in any release. When one does, the first test says which, and the second keeps the list whole.
"""

import ast
import functools
import inspect
import textwrap
from pathlib import Path

import pytest
import transformers
import trl

import rlhf_recipes

T, G, R = "Trainer", "GRPOTrainer", "RLOOTrainer"
CONTRACT = {
    # name: (classes, parameters that we name or hand on by place; None: an attribute, why)
    "_run_epoch": ([T], ("resume_from_checkpoint",), "PPO ends a resumed run that was over already"),
    "_prepare_inputs": ([T, G], (), "PPO's batches are rollouts; GRPO's rows of silent groups are left out"),
    "_get_grad_norm": ([T], ("model", "grad_norm"), "PPO stops at a gradient that is not finite, before the step"),
    "_maybe_log_save_evaluate": ([T], (), "an update ends here; GRPO puts a checkpoint off to the rollout's end"),
    "_save_checkpoint": ([T], ("model", "trial"), "PPO writes a checkpoint beside its place and moves it there whole"),
    "_get_output_dir": ([T], ("trial",), "where _save_checkpoint writes"),
    "_load_from_checkpoint": ([T], ("resume_from_checkpoint", "model"), "PPO's checkpoint holds policy and critic"),
    "_load_best_model": ([T], (), "the policy of PPO's best checkpoint, without the critic around it"),
    "_tr_loss": ([T], None, "the loss that no line has logged yet is part of PPO's checkpoint"),
    "_globalstep_last_logged": ([T], None, "and so is the step of the last line"),
    "_determine_best_metric": ([T], ("metrics", "trial"), "GRPO's best model is by the answers measured last"),
    "_save_optimizer_and_scheduler": ([T], ("output_dir",), "a GRPO reference that moves is part of a checkpoint"),
    "_load_optimizer_and_scheduler": ([T], ("checkpoint",), "and is read back with the optimizer"),
    "_generate_and_score_completions": (
        [G, R],
        ("inputs",),
        "groups of like scores are counted or replaced",
    ),
    "_calculate_rewards": ([G, R], ("inputs", "prompts", "completions", "completion_ids_list"), "what each gave"),
    "_generate": ([G, R], ("prompts",), "answers of held-out prompts are drawn as TRL draws them"),
    "_tokenize_prompts": ([G, R], ("prompts",), "a prompt's ids are those that SFT trained on (engine/prompts.py)"),
    "_tokenizer": ([G, R], None, "its EOS is compared with ids in five places: several stop tokens take its place"),
    "_metrics": (["SFTTrainer", "RewardTrainer", "DPOTrainer", "KTOTrainer", G, R], None, "evaluation means, by rows"),
    "_logs": ([G, R], None, "the table of answers that callbacks get"),
    "_step": ([G, R], None, "where in a rollout a step stands"),
    "_pending_metrics": ([G, R], None, "what a reward logged for held-out answers is not a training figure"),
    "_pending_extra_logs": ([G, R], None, "nor is it a column of the training answers"),
    "_prepare_dataset": (["RewardTrainer", "DPOTrainer", "KTOTrainer"], ("dataset",), "rows come as ids, joined here"),
}
OTHERS = {"_name", "_save"}  # functions of ours that happen to be called like private names of theirs


@functools.cache
def private(cls: type) -> set[str]:
    """Names that a class or its bases define or assign, of transformers and TRL alone."""
    names = set()
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] in ("trl", "transformers"):
            tree = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base))))
            names |= {n.attr for n in tree if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)} | {
                *vars(base)
            }
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def owner(name: str) -> type:
    return getattr(trl, name, None) or getattr(transformers, name)


@pytest.mark.parametrize("name", CONTRACT)
def test_it_is_there_and_takes_what_it_is_given(name):
    classes, parameters, why = CONTRACT[name]
    for cls in map(owner, classes):
        where = f"{cls.__name__}.{name} of trl {trl.__version__}, transformers {transformers.__version__}"
        assert name in private(cls), f"{where} is gone; needed: {why}"
        if parameters is not None:
            taken = [*inspect.signature(getattr(cls, name)).parameters][1:]
            missing = [p for p in parameters if p not in taken]
            assert not missing, f"{where} takes {taken}, not {missing}; needed: {why}"


def test_nothing_private_is_used_that_is_not_listed():
    known = set().union(*(private(owner(name)) for name in {c for classes, *_ in CONTRACT.values() for c in classes}))
    [house] = rlhf_recipes.__path__
    used = {}
    for file in Path(house).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(node, "attr", None) or (node.name if isinstance(node, ast.FunctionDef) else None)
            if name in known:
                used.setdefault(name, file.relative_to(house).as_posix())
    unlisted = {name: file for name, file in used.items() if name not in CONTRACT and name not in OTHERS}
    assert not unlisted, "private names of transformers or TRL; say in CONTRACT why they are needed"
    assert not [name for name in CONTRACT if name not in used], "no longer used"
