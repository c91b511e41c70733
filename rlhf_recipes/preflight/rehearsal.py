"""One step of a stage's own code over models without numbers.

Nothing of a stage or of a trainer is written again here. `rehearse` calls the stage as `stages` would, in a folder that
vanishes, with these things exchanged:

- models are built from their config as ghosts (see ghosts.py), and nothing is saved;
- rows are the longest there are, as many as a step takes; reward functions are not asked;
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
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
from datasets import Dataset
from omegaconf import DictConfig, OmegaConf
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    Trainer,
)

from rlhf_recipes import data
from rlhf_recipes.data.examples import length
from rlhf_recipes.engine.prompts import prompt_ids
from rlhf_recipes.preflight.ghosts import CUT_UP_BY_ADAPTER, Ghosts, Ledger, haunted
from rlhf_recipes.runs.artifacts import StageRun

MANY = 5000  # rows that are measured
TALK = 4096  # tokens of a talk that are counted: a context of 128 thousand is seldom filled at the terminal
Exchanges = Iterator[AbstractContextManager]


@dataclass
class Rehearsal:
    """What was seen.

    Args:
        ledger: bytes, at the peak and by moment.
        models: {"policy", "critic", "reference", "reward", "reward 2" …: module}, as the stage used them.
        vocab: rows of the policy's embedding in its config, before the tokenizer's own tokens.
        trainer: the stage's; None where nothing is trained.
        splits: {kind: rows as the stage loads them, all of them}.
        prompt, whole: tokens of the longest prompt, and of the longest with its answer, among `measured` rows.
    """

    ledger: Ledger
    models: dict[str, nn.Module] = field(default_factory=dict)
    vocab: int = 0
    trainer: Trainer | None = None
    splits: dict[str, data.Split] = field(default_factory=dict)
    prompt: int = 0
    whole: int = 0
    measured: int = 0


def unscored(prompts, completions, **columns) -> list[float]:
    """In place of every reward function: nobody is asked, and no two answers score alike."""
    return [float(i) for i in range(len(completions))]


def rehearse(cfg: DictConfig, run: StageRun, stage: Callable[[DictConfig, StageRun], dict], device: str) -> Rehearsal:
    """Run `stage(cfg, run)` for one step.

    Args:
        device: "cpu" or "cuda", whose memory counts.

    Raises:
        UserError: bad input, as the stage itself would meet it.
    """
    seen, run = Rehearsal(Ledger(device)), copy.copy(run)
    with tempfile.TemporaryDirectory(prefix="rlhf_recipes_") as folder, ExitStack() as stack:
        run.dir = Path(folder)
        run.cfg = cfg = _one_update(cfg, run.dir)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        ghosts = stack.enter_context(haunted(seen.ledger))
        for exchange in itertools.chain(_models(seen, ghosts, cfg, stack), _rows(seen, cfg), _steps(seen)):
            stack.enter_context(exchange)
        stage(cfg, run)
    return seen


def _one_update(cfg: DictConfig, folder: Path) -> DictConfig:
    """The config of one update that saves and reports nothing, asks nobody, and answers held-out prompts once."""
    cfg = copy.deepcopy(cfg)
    OmegaConf.set_struct(cfg, False)
    functions, domain = (cfg.get("reward") or {}).get("functions") or {}, cfg.get("data") or {}
    for node, names in ((functions, list(functions)), (domain, ["gold", "exact"])):
        for name in names:
            spec = node.get(name)
            if spec and not (node is functions and str(spec.path).endswith("classifier:label_score")):
                weight = {"weight": spec.get("weight", 1.0)} if node is functions else {}
                node[name] = {"path": f"{__name__}:unscored"} | weight
    changes = {
        "collect": {"prompts": 1, "answers": cfg.get("collect", {}).get("batch_size", 1)},
        "evaluate": {"prompts": cfg.get("evaluate", {}).get("batch_size", 1), "benchmarks": [], "endpoints": {}},
        "export": {"to": str(folder / "export"), "push_to_hub": None},
        "score": {"out": str(folder / "scores.jsonl")},
    }
    if cfg.stage in changes:
        cfg[cfg.stage] = OmegaConf.merge(cfg[cfg.stage], changes[cfg.stage])
    trainer = cfg.get("trainer")
    if trainer is None:
        return cfg
    trainer.update(max_steps=1, num_train_epochs=1, report_to=[], disable_tqdm=True)
    trainer.update(save_strategy="no", load_best_model_at_end=False, eval_on_start=False)
    if str(trainer.get("eval_strategy", "no")) != "no":
        trainer.update(eval_strategy="steps", eval_steps=1)
    if trainer.get("use_vllm"):
        trainer.use_vllm = False
    if "num_mini_batches" in trainer:  # PPO: as many minibatches as a forward of the rollout takes
        minis, often = trainer.num_mini_batches, trainer.gradient_accumulation_steps
        share = trainer.per_device_train_batch_size * often / minis
        kept = min(minis, math.ceil(trainer.get("local_rollout_forward_batch_size", 64) / share))
        if often * kept % minis == 0:
            trainer.update(num_mini_batches=kept, gradient_accumulation_steps=often * kept // minis)
        trainer.update(num_ppo_epochs=1, num_sample_generations=0, sample_every=None)
    return cfg


# ---- models ----


def _models(seen: Rehearsal, ghosts: Ghosts, cfg: DictConfig, stack: ExitStack) -> Exchanges:
    """`from_pretrained` reads the config and builds ghosts; `save_pretrained` writes nothing."""
    decoders = set()

    def answer() -> int:
        args = seen.trainer.args if seen.trainer is not None else cfg[cfg.stage]
        names = ("response_length", "max_completion_length", "max_new_tokens")
        return next((n for name in names if (n := getattr(args, name, None))), 1)

    def built(cls, place, *_, dtype=None, quantization_config=None, attn_implementation=None, **others):
        known = {name: others[name] for name in ("num_labels", "revision", "trust_remote_code") if name in others}
        config = AutoConfig.from_pretrained(place, **known)
        narrow = config.dtype or torch.float32
        dtype = narrow if dtype in ("auto", None) else dtype
        seen.ledger.doing = f"loading {place}" if dtype != narrow else "loading"
        with ghosts.fake:
            keywords = {"attn_implementation": attn_implementation} if attn_implementation else {}
            model = cls.from_config(config, dtype=dtype, **keywords)
        model.name_or_path = model.config._name_or_path = str(place)
        if quantization_config is not None:
            pack(model, quantization_config, ghosts)
        writes = model.get_output_embeddings() is not None
        seen.vocab = seen.vocab or (model.get_input_embeddings().num_embeddings if writes else 0)
        _name(seen, "policy" if writes else "reward", model)
        if dtype != narrow and seen.ledger.device == "cpu":  # the file lies beside the model until it is closed
            size = sum(p.numel() for p in model.parameters()) * narrow.itemsize
            seen.ledger.note(**{"file being read": size})
        seen.ledger.doing = None
        if (decoder := type(model.base_model)) not in decoders:
            decoders.add(decoder)
            stack.enter_context(mock.patch.object(decoder, "forward", _ends_of_an_answer(decoder.forward, answer)))
        return model

    for kind in (AutoModelForCausalLM, AutoModelForSequenceClassification):
        yield mock.patch.object(kind, "from_pretrained", classmethod(built))
    for kind in (PreTrainedModel, PeftModel):
        yield mock.patch.object(kind, "save_pretrained", lambda *args, **keywords: None)


def _name(seen: Rehearsal, part: str, model: nn.Module) -> None:
    """Count a model under a name; a second one of that name gets a number."""
    names = (part if n == 1 else f"{part} {n}" for n in itertools.count(1))
    part = next(name for name in names if name not in seen.models)
    seen.models[part] = model
    for parameter in model.parameters():
        seen.ledger.add(parameter, part)


def _ends_of_an_answer(forward: Callable, answer: Callable[[], int]) -> Callable:
    """A decoder's forward that writes a second token as if it were the last, and gives its result for all others."""

    @functools.wraps(forward)
    def quick(self, *args, **keywords):
        cache = keywords.get("past_key_values")
        if cache is None or not cache.get_seq_length():
            return forward(self, *args, **keywords)
        if not hasattr(cache, "last"):
            whole = cache.get_seq_length() + answer() - 2  # before the last token but one is read
            for layer in cache.layers:
                length = min(whole, getattr(layer, "sliding_window", None) or whole)
                for name in ("keys", "values"):
                    held = getattr(layer, name, None)
                    if isinstance(held, Tensor):
                        setattr(layer, name, held.new_empty(*held.shape[:-2], length, held.shape[-1]))
            cache.last = forward(self, *args, **keywords)
        return cache.last

    return quick


def pack(model: PreTrainedModel, config, ghosts: Ghosts) -> None:
    """The matrices of a decoder in 4 or 8 bits as bitsandbytes keeps them: whole while they are multiplied with.

    Constants of each block of weights take an eighth more.
    """
    bits = 4 if config.load_in_4bit else 8
    for module in list(model.base_model.modules()):
        for linear in module.children():
            if type(linear) is nn.Linear:
                with ghosts.fake:
                    packed = torch.empty(linear.weight.numel() * bits * 9 // 64, dtype=torch.uint8)
                linear.__class__, linear.weight = Packed, nn.Parameter(packed, requires_grad=False)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = bits == 4, bits == 8


class Packed(nn.Linear):
    """A linear layer whose weight is bytes."""

    def forward(self, x: Tensor) -> Tensor:
        out = _PackedProduct.apply(x, self.out_features)
        return out if self.bias is None else out + self.bias


class _PackedProduct(torch.autograd.Function):
    """x (…, in) times a matrix that exists in the forward pass and again in the backward pass, and not between."""

    @staticmethod
    def forward(ctx, x, width):
        ctx.shape = (x.shape[-1], width)
        return x @ x.new_empty(ctx.shape)

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ gradient.new_empty(ctx.shape).T, None


# ---- rows ----


def _rows(seen: Rehearsal, cfg: DictConfig) -> Exchanges:
    """`data.load` gives the longest rows, as many as a step takes."""
    load = data.load

    def shortened(node, kind, *, tokenizer=None, **keywords) -> data.Split:
        split = load(node, kind, tokenizer=tokenizer, **keywords)
        seen.splits.setdefault(kind, split)
        trainer = cfg.get("trainer") or {}
        own = (cfg.get(cfg.stage) or {}).get("batch_size", 1)
        size = trainer.get("per_device_train_batch_size", 8) if trainer else own
        step = size * trainer.get("gradient_accumulation_steps", 1)
        held = trainer.get("per_device_eval_batch_size", 8) if trainer else own
        if trainer and kind == "prompts" and held <= step:
            held = 0  # answered in forwards that are no larger than the rollout's
        if trainer.get("packing"):
            step *= 2 + int(trainer.get("max_length") or 1024)  # enough to fill whole rows
        train, prompt, whole = _longest(split.train, kind, tokenizer, size, step)
        if kind == next(iter(seen.splits)):
            seen.prompt, seen.whole, seen.measured = prompt, whole, min(len(split.train), MANY)
        return data.Split(train, _longest(split.eval, kind, tokenizer, held, held)[0], split.counts, kind, split.source)

    yield mock.patch.object(data, "load", shortened)


def _longest(rows: Dataset, kind: str, tokenizer, size: int, many: int) -> tuple[Dataset, int, int]:
    """`many` rows that are the `size` longest ones in turn; tokens of the longest prompt, and with its answer."""
    few = rows.select(range(min(len(rows), MANY)))
    if not len(few) or not size or tokenizer is None:
        return rows.select(range(min(len(rows), many))), 0, 0
    asked = list(few["prompt"]) if "prompt" in few.column_names else []
    prompts = [len(ids) for ids in prompt_ids(asked, tokenizer)] if asked else [0]
    whole = prompts if kind == "prompts" else [length(row) for row in few]
    order = sorted(range(len(few)), key=lambda i: -whole[i])[:size]
    return few.select(list(itertools.islice(itertools.cycle(order), many))), max(prompts), max(whole)


# ---- steps ----


def _steps(seen: Rehearsal) -> Exchanges:
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
        seen.ledger.doing = "optimizer step"
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        if type(optimizer).__module__.startswith("bitsandbytes"):  # its kernels read memory; two bytes a parameter
            for p in trained:
                optimizer.state[p] = {n: torch.zeros_like(p, dtype=torch.uint8) for n in ("state1", "state2")}
            optimizer.step = lambda closure=None: None
        else:
            for p in trained:
                p.grad = torch.zeros_like(p)
            optimizer.step()
            optimizer.zero_grad()
        for value in itertools.chain(*(state.values() for state in optimizer.state.values())):
            if isinstance(value, Tensor):
                seen.ledger.add(value, "optimizer")
        for p in trained:
            p.register_post_accumulate_grad_hook(lambda p: seen.ledger.add(p.grad, "gradients"))
        seen.ledger.doing = None
        return optimizer

    yield mock.patch.object(Trainer, "training_step", training_step)
    yield mock.patch.object(Trainer, "create_optimizer", create_optimizer)


def _parts(seen: Rehearsal, trainer: Trainer) -> None:
    """Name the models after what the trainer does with them; those that it does not know are the reward's."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if any("lora_" in name for name, _ in model.named_parameters()):
        seen.ledger.cut_up = CUT_UP_BY_ADAPTER
    known = {
        "policy": getattr(model, "policy", model),
        "critic": getattr(model, "value_model", None) or getattr(model, "value_head", None),
        "reference": getattr(trainer, "ref_model", None),
    }
    known = {part: found for part, found in known.items() if found is not None}
    used = {id(p) for found in known.values() for p in found.parameters()}
    loaded = [found for found in seen.models.values() if not used & {id(p) for p in found.parameters()}]
    seen.models = {}
    for part, found in [*known.items(), *(("reward", found) for found in loaded)]:
        _name(seen, part, found)
