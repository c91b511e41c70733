"""What a stage starts from, and what its weights take at least: from configs alone, no model is built in memory."""

import contextlib
import io
from dataclasses import dataclass

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.modeling_utils import set_zero3_state

from rlhf_recipes import models
from rlhf_recipes.errors import UserError
from rlhf_recipes.models.adapters import bottom_of
from rlhf_recipes.runs import resolve
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.runs.hub import reach_hub

# Bytes of optimizer state for each byte of a trained float32 parameter, by transformers' names; Adam has two moments.
STATES = {"adafactor": 0.0, "sgd": 0.0, "rmsprop": 1.0, "adagrad": 1.0, "lion_32bit": 1.0, "lion_8bit": 0.25}


@dataclass(frozen=True)
class Scorer:
    """A model of the reward: its name in the `reward` node (members of an ensemble are numbered), and where it lies.

    classifies: it is a function's classifier, which reads text whatever the policy's tokens are.
    """

    name: str
    path: str
    classifies: bool = False


def scorers(cfg: DictConfig, run: StageRun) -> list[Scorer]:
    """Every model of the reward; those that are not made yet are left out."""
    found = []
    for name, spec in ((cfg.get("reward") or {}).get("models") or {}).items():
        paths = [] if spec is None else [spec.path] if isinstance(spec.path, str) else list(spec.path)
        for number, path in enumerate(paths, 1):
            path = run.inputs.get("reward_model", {}).get("path") if path == "auto" else path
            found.append(Scorer(name if len(paths) == 1 else f"{name}#{number}", path))
    for name, spec in ((cfg.get("reward") or {}).get("functions") or {}).items():
        if spec is not None and str(spec.get("path")).endswith("classifier:label_score"):
            found.append(Scorer(name, spec.kwargs.model, classifies=True))
    return [scorer for scorer in found if scorer.path]


def language_models(cfg: DictConfig, run: StageRun) -> list[resolve.ModelSource]:
    """The models of a stage that write, the policy first: its inputs, or whom chat and export were asked for.

    Raises:
        UserError: one is not there.
    """
    if cfg.stage == "chat":
        places = [cfg.chat.models] if isinstance(cfg.chat.models, str) else list(cfg.chat.models or [None])
        return [resolve.find(run, place, "chat.models") for place in places]
    if cfg.stage == "export":
        return [resolve.find(run, cfg.export.model, "export.model")]
    others = ("reward_model", "value_model")
    return [resolve.ModelSource(name, entry["path"]) for name, entry in run.inputs.items() if name not in others]


def quiet_arguments(cfg: DictConfig, run: StageRun):
    """training.arguments without what it prints: the stage itself will."""
    from rlhf_recipes.training.fit import arguments

    with contextlib.redirect_stdout(io.StringIO()):
        return arguments(cfg, run)


def least(cfg: DictConfig, run: StageRun, device: str) -> dict[str, float]:
    """{part: bytes} that a stage holds for certain: weights, gradients, optimizer state.

    Raises:
        UserError: a model's config cannot be read.
    """
    trains, parts = run.stage.learns_from is not None, {}
    written = [found.path for found in language_models(cfg, run)] or ([None] if trains else [])
    networks = [("policy", path, trains, cfg.model) for path in written[: None if cfg.stage == "chat" else 1]]
    if trains and "value_model" in run.inputs:
        networks.append(("critic", run.inputs["value_model"]["path"], True, cfg.model))
    known = scorers(cfg, run) if run.stage.scores else []
    networks += [("reward", scorer.path, False, models.plain(cfg.model)) for scorer in known]
    for part, path, trained, node in networks:
        whole, learned, width = _elements(
            cfg, node, path, part != "policy" or run.stage.makes == "reward_model", trained
        )
        if node.dtype != "auto":
            width = getattr(torch, node.dtype).itemsize
        elif trained or device == "cpu":
            width = 4
        if node.quantization:
            width = (4 if node.quantization.get("load_in_4bit") else 8) * 9 / 64
        amounts = {part: whole * width}
        if trained:
            kept = learned * (4 if learned < whole else width)
            name = str(cfg.trainer.get("optim", "adamw_torch"))
            state = 0.5 if "8bit" in name and "lion" not in name else STATES.get(name, 2.0)
            amounts |= {"gradients": kept, "optimizer": kept * state}
        for name, amount in amounts.items():
            parts[name] = parts.get(name, 0.0) + amount
    return parts


def _elements(cfg: DictConfig, node: DictConfig, path: str | None, head: bool, trained: bool) -> tuple[int, int, int]:
    """Parameters of a model, those of them that are trained, and bytes of a number in its file."""
    cls = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    more = {"num_labels": 1} if head else {}
    if path is None:
        fields = OmegaConf.to_container(node.init) | {"vocab_size": node.tokenizer_init.vocab_size}
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    else:
        place = bottom_of(path)
        reach_hub(place)
        try:
            config = AutoConfig.from_pretrained(
                place, revision=node.revision, trust_remote_code=node.trust_remote_code, **more
            )
        except (OSError, ValueError) as error:
            raise UserError(f"model.path={place}: no config to read: {str(error).strip().splitlines()[0]}") from error
    with torch.device("meta"), set_zero3_state():  # under ZeRO-3 it would meet with processes that do not estimate
        network = cls.from_config(config, trust_remote_code=node.trust_remote_code)
        if trained and cfg.peft and "_target_" in cfg.peft:
            from peft import get_peft_model

            from rlhf_recipes.training.fit import peft_config

            adapter = peft_config(cfg, "SEQ_CLS" if head else "CAUSAL_LM")
            network = get_peft_model(network, adapter, low_cpu_mem_usage=True)
    learned = sum(p.numel() for p in network.parameters() if p.requires_grad)
    width = config.dtype.itemsize if isinstance(config.dtype, torch.dtype) else 4
    return sum(p.numel() for p in network.parameters()), learned, width
