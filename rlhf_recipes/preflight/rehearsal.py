"""One step of a stage's own code over models without numbers.

Nothing of a stage or of a trainer is written again here. `rehearse` calls the stage as `stages` would, in a folder that
vanishes, with these things exchanged:

- models are built from their config as ghosts (see ghosts.py), and nothing is saved;
- rows are the longest there are, as many as a step takes; reward functions are not called;
- there is one update, and two of its micro-batches are run, the second beside the gradients of the first;
- the optimizer has its state from the start, as in every step but the first;
- of an answer the first token is written, and the last one with the whole KV cache; those between repeat it.
"""

import contextlib
import copy
import functools
import io
import itertools
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy
import torch
from datasets import Dataset
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel, Trainer

from rlhf_recipes import data
from rlhf_recipes.data.examples import length
from rlhf_recipes.engine.prompts import prompt_ids
from rlhf_recipes.preflight.ghosts import Ghosts, Ledger, haunted
from rlhf_recipes.runs.artifacts import StageRun

ANSWER = ("response_length", "max_completion_length", "max_new_tokens")  # what trainers and stages call its longest


@dataclass
class Rehearsal:
    """What a rehearsal showed."""

    ledger: Ledger
    models: dict[str, nn.Module] = field(default_factory=dict)  # policy, critic, reference, reward, reward 2 …
    trainer: Trainer | None = None  # where something is trained
    splits: dict[str, data.Split] = field(default_factory=dict)  # {kind: all rows, as the stage loads them}


def unscored(prompts, completions, **columns) -> list[float]:
    """In place of every reward function: no two answers score alike."""
    return [float(i) for i in range(len(completions))]


def rehearse(cfg: DictConfig, run: StageRun, stage: Callable[[DictConfig, StageRun], dict], device: str) -> Rehearsal:
    """Run `stage(cfg, run)` for one step, counting the memory of `device`, "cpu" or "cuda".

    Raises:
        UserError: bad input, as the stage itself would meet it.
    """
    seen, run = Rehearsal(Ledger(device)), copy.copy(run)
    with tempfile.TemporaryDirectory(prefix="rlhf_recipes_") as folder, ExitStack() as stack:
        run.dir = Path(folder)
        run.cfg = cfg = _one_update(cfg, run.dir)
        run.inputs = {name: entry for name, entry in run.inputs.items() if cfg.inputs.get(name) != "none"}
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        ghosts = stack.enter_context(haunted(seen.ledger))
        for exchange in itertools.chain(_models(seen, ghosts, cfg), _rows(seen, cfg), _steps(seen)):
            stack.enter_context(exchange)
        stage(cfg, run)
    return seen


def _one_update(cfg: DictConfig, folder: Path) -> DictConfig:
    """The config of one update that saves and reports nothing, calls no reward, and answers held-out prompts once."""
    cfg = copy.deepcopy(cfg)
    OmegaConf.set_struct(cfg, False)
    rewards, domain = (cfg.get("reward") or {}).get("functions") or {}, cfg.get("data") or {}
    for name, spec in rewards.items():
        if spec and not str(spec.path).endswith("classifier:label_score"):  # which is a model
            rewards[name] = {"path": f"{__name__}:unscored", "weight": spec.get("weight", 1.0)}
    domain.update({name: {"path": f"{__name__}:unscored"} for name in ("gold", "exact") if domain.get(name)})
    cfg.prompt = cfg.prompt or "a"  # of a chat
    batch = cfg.get(cfg.stage, {}).get("batch_size", 1)
    changes = {
        "collect": {"prompts": 1, "answers": batch},
        "evaluate": {"prompts": batch, "benchmarks": [], "endpoints": {}},
        "export": {"to": str(folder / "export"), "push_to_hub": None},
        "score": {"out": str(folder / "scores.jsonl")},
    }
    cfg.get(cfg.stage, {}).update(changes.get(cfg.stage, {}))
    trainer = cfg.get("trainer")
    if trainer is None:
        return cfg
    trainer.update(max_steps=1, num_train_epochs=1, report_to=[], disable_tqdm=True, save_strategy="no")
    trainer.update(load_best_model_at_end=False, eval_on_start=False, eval_steps=1)
    trainer.update({"eval_strategy": "steps"} if trainer.get("eval_strategy", "no") != "no" else {})
    trainer.update({"use_vllm": False} if trainer.get("use_vllm") else {})
    if "num_mini_batches" in trainer:  # PPO: as many minibatches as a forward of the rollout takes
        minis, often = trainer.num_mini_batches, trainer.gradient_accumulation_steps
        share = trainer.per_device_train_batch_size * often / minis
        kept = min(minis, math.ceil(trainer.get("local_rollout_forward_batch_size", 64) / share))
        if often * kept % minis == 0:
            trainer.update(num_mini_batches=kept, gradient_accumulation_steps=often * kept // minis)
        trainer.update(num_ppo_epochs=1, num_sample_generations=0, sample_every=None)
    return cfg


def _models(seen: Rehearsal, ghosts: Ghosts, cfg: DictConfig) -> Iterator:
    """`from_pretrained` reads the config and builds ghosts; `save_pretrained` writes nothing."""

    node = cfg.get("trainer") or cfg.get(cfg.stage) or {}
    answer = next((node[name] for name in ANSWER if node.get(name)), 1)

    def built(cls, place, *_, dtype, quantization_config=None, attn_implementation=None, **others):
        known = {name: others[name] for name in ("num_labels", "revision", "trust_remote_code") if name in others}
        config = AutoConfig.from_pretrained(place, **known)
        stored = config.dtype or torch.float32
        dtype = stored if dtype == "auto" else dtype
        seen.ledger.phase = "loading"
        with ghosts.fake:
            model = cls.from_config(config, dtype=dtype, attn_implementation=attn_implementation)
            count = sum(p.numel() for p in model.parameters())
            file = torch.empty(count * stored.itemsize * (dtype != stored), dtype=torch.uint8)  # until all is read
        del file
        model.name_or_path = model.config._name_or_path = str(place)
        if quantization_config is not None:
            pack(model, quantization_config, ghosts)
        _name(seen, "reward" if model.get_output_embeddings() is None else "policy", model)
        seen.ledger.phase = None
        forward = model.base_model.forward
        model.base_model.forward = functools.wraps(forward)(functools.partial(_ends_of_an_answer, forward, answer))
        return model

    for kind in (AutoModelForCausalLM, AutoModelForSequenceClassification):
        yield mock.patch.object(kind, "from_pretrained", classmethod(built))
    for kind in (PreTrainedModel, PeftModel):
        yield mock.patch.object(kind, "save_pretrained", lambda *args, **keywords: None)


def _name(seen: Rehearsal, part: str, model: nn.Module) -> None:
    """Count a model under a name; a second one of that name gets a number."""
    same = sum(name.partition(" ")[0] == part for name in seen.models)
    part = f"{part} {same + 1}" if same else part
    seen.models[part] = model
    for parameter in model.parameters():
        seen.ledger.add(parameter, part)


def _ends_of_an_answer(forward: Callable, answer: int, *args, **keywords):
    """A decoder's forward that writes a second token as if it were the last, and gives its result for all others."""
    cache = keywords.get("past_key_values")
    if cache is None or not cache.get_seq_length():
        return forward(*args, **keywords)
    if not hasattr(cache, "last"):
        whole = cache.get_seq_length() + answer - 2  # before the last token but one is read
        for layer in cache.layers:
            length = min(whole, getattr(layer, "sliding_window", None) or whole)
            for name in ("keys", "values"):
                if isinstance(held := getattr(layer, name, None), Tensor):
                    setattr(layer, name, held.new_empty(*held.shape[:-2], length, held.shape[-1]))
        cache.last = forward(*args, **keywords)
    return cache.last


def pack(model: PreTrainedModel, config, ghosts: Ghosts) -> None:
    """The matrices of a decoder in 4 or 8 bits, as bitsandbytes keeps them, and an eighth more for its constants."""
    bits = 4 if config.load_in_4bit else 8
    for linear in [module for module in model.base_model.modules() if type(module) is nn.Linear]:
        with ghosts.fake:
            packed = torch.empty(linear.weight.numel() * bits * 9 // 64, dtype=torch.uint8)
        linear.__class__, linear.weight = Packed, nn.Parameter(packed, requires_grad=False)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = bits == 4, bits == 8


class Packed(nn.Linear):
    """A linear layer whose weight is bytes: the matrix exists while it is multiplied with, forward and backward."""

    def forward(self, x: Tensor) -> Tensor:
        def product(x: Tensor) -> Tensor:
            return functional.linear(x, x.new_empty(self.out_features, self.in_features), self.bias)

        return checkpoint(product, x, use_reentrant=False, preserve_rng_state=False)


def _rows(seen: Rehearsal, cfg: DictConfig) -> Iterator:
    """`data.load` gives the longest rows, as many as a step takes."""
    load, trainer = data.load, cfg.get("trainer") or {}
    own = (cfg.get(cfg.stage) or {}).get("batch_size", 1)
    size, held = (trainer.get(f"per_device_{split}_batch_size", 8) if trainer else own for split in ("train", "eval"))
    step = size * trainer.get("gradient_accumulation_steps", 1)

    def shortened(node, kind, *, tokenizer=None, **keywords) -> data.Split:
        split = load(node, kind, tokenizer=tokenizer, **keywords)
        seen.splits.setdefault(kind, split)
        many = step * (2 + int(trainer.get("max_length") or 1024)) if trainer.get("packing") else step
        asked = 0 if trainer and kind == "prompts" and held <= step else held  # forwards no larger than the rollout's
        train = _longest(split.train, size, many, kind, tokenizer)
        held_out = _longest(split.eval, asked, asked, kind, tokenizer)
        return data.Split(train, held_out, split.counts, kind, split.source)

    yield mock.patch.object(data, "load", shortened)


def _longest(rows: Dataset, size: int, many: int, kind: str, tokenizer) -> Dataset:
    """`many` rows that are the `size` longest ones in turn."""
    few = rows.select(range(min(len(rows), 5000)))  # all of a large set would take minutes to measure
    if not len(few) or not size or tokenizer is None:
        return rows.select(range(min(len(rows), many)))
    lengths = list(map(len, prompt_ids(list(few["prompt"]), tokenizer)) if kind == "prompts" else map(length, few))
    return few.select(numpy.resize(numpy.argsort(lengths)[::-1][:size], many))


def _steps(seen: Rehearsal) -> Iterator:
    """Trainer's step runs twice, with an optimizer that has its state already."""
    step, create, runs = Trainer.training_step, Trainer.create_optimizer, itertools.count(1)

    def training_step(trainer, model, inputs, num_items_in_batch=None) -> Tensor:
        if next(runs) <= min(2, trainer.args.gradient_accumulation_steps):
            return step(trainer, model, inputs, num_items_in_batch)
        trainer._prepare_inputs(inputs)  # PPO and GRPO take their next micro-batch there
        return torch.zeros((), device=trainer.args.device)

    def create_optimizer(trainer, *args):
        seen.trainer = trainer
        _parts(seen, trainer)
        optimizer = create(trainer, *args)
        seen.ledger.phase = "optimizer step"
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        for p in trained:
            p.grad = torch.zeros_like(p)
            p.register_post_accumulate_grad_hook(lambda p: seen.ledger.add(p.grad, "gradients"))
        if type(optimizer).__module__.startswith("bitsandbytes"):  # its kernels read memory; two bytes a parameter
            optimizer.state.update(
                {p: {"both": torch.zeros((2, *p.shape), dtype=torch.uint8, device=p.device)} for p in trained}
            )
            optimizer.step = lambda closure=None: None
        optimizer.step()
        optimizer.zero_grad()
        for value in filter(torch.is_tensor, itertools.chain(*(state.values() for state in optimizer.state.values()))):
            seen.ledger.add(value, "optimizer")
        seen.ledger.phase = None
        return optimizer

    yield mock.patch.object(Trainer, "training_step", training_step)
    yield mock.patch.object(Trainer, "create_optimizer", create_optimizer)


def _parts(seen: Rehearsal, trainer: Trainer) -> None:
    """Name the models after what the trainer does with them; those that it does not know are the reward's."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    seen.ledger.adapter = any("lora_" in name for name, _ in model.named_parameters())
    critic = getattr(model, "value_model", None) or getattr(model, "value_head", None)
    known = {"policy": getattr(model, "policy", model), "critic": critic}
    known["reference"] = getattr(trainer, "ref_model", None)
    used = {id(p) for network in known.values() if network is not None for p in network.parameters()}
    rewards = [network for network in seen.models.values() if not used & {id(p) for p in network.parameters()}]
    seen.models = {}
    for part, network in [*known.items(), *(("reward", network) for network in rewards)]:
        if network is not None:
            _name(seen, part, network)
