"""The settings that are ours, and the checks on a composed config that need no model: they take well under a second.

TRL's and PEFT's own settings (`trainer`, `peft`) are not declared here: their keys are read from their classes' source.
"""

import sys
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from inspect import isclass, signature
from typing import Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlhf_recipes import fields as sources
from rlhf_recipes.errors import UserError
from rlhf_recipes.paths import CONF


@dataclass
class Run:
    name: str = "default"
    root: str = "runs"
    parent: Any = None
    overwrite: bool = False


@dataclass
class Model:
    name: str = "custom"
    path: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    pad_token: str | None = None
    eos_token: str | None = None
    dtype: str = "auto"
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    init: dict[str, Any] | None = None
    tokenizer_init: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Logger:
    report_to: str = "none"
    project: str = "rlhf_recipes"
    offline: bool = False


@dataclass
class Collect:
    prompts: int = 1000
    answers: int = 4
    keep: str = "best_worst"
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 48
    batch_size: int = 64


@dataclass
class Harness:
    include_path: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8


@dataclass
class Evaluate:
    prompts: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128
    batch_size: int = 64
    ppl_rows: int = 256
    corpus_rows: int = 256
    ref: str | None = None
    judge: Any = "auto"
    tie: float = 0.0
    pairs: list[str] | None = None
    majority: int = 1
    checkpoints: bool = False
    endpoints: dict[str, Any] = field(default_factory=dict)
    benchmarks: list[str] = field(default_factory=list)
    harness: Harness = field(default_factory=Harness)


@dataclass
class Ppo:
    sample_rows: int = 3
    token_view: bool = False
    max_kl: float | None = None


@dataclass
class Grpo:
    accuracy: Any = None
    vote: Any = None
    eval_prompts: int = 64
    sample_rows: int = 3


@dataclass
class Report:
    runs: Any = None


@dataclass
class Score:
    file: str | None = None
    out: str | None = None


@dataclass
class Chat:
    models: Any = field(default_factory=list)
    template: str = "auto"
    system: str | None = None
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 256
    history: int | None = None


@dataclass
class Export:
    model: str | None = None
    to: str | None = None
    dtype: str = "float32"
    push_to_hub: str | None = None
    private: bool = True


@dataclass
class Settings:
    """Every node of a composed config. `Any` marks what another package's class or another module checks."""

    stage: str = "???"
    needs: list[str] = field(default_factory=list)
    run: Run = field(default_factory=Run)
    seed: int = 0
    objective: Any = None
    preview: bool = False
    preview_rows: int = 3
    preflight: bool = False
    preflight_gb: float | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    model: Model = field(default_factory=Model)
    data: Any = None
    reward: Any = None
    kl: Any = None
    peft: Any = None
    trainer: Any = None
    logger: Logger = field(default_factory=Logger)
    collect: Collect = field(default_factory=Collect)
    evaluate: Evaluate = field(default_factory=Evaluate)
    ppo: Ppo = field(default_factory=Ppo)
    grpo: Grpo = field(default_factory=Grpo)
    report: Report = field(default_factory=Report)
    score: Score = field(default_factory=Score)
    prompt: str | None = None
    chat: Chat = field(default_factory=Chat)
    export: Export = field(default_factory=Export)


CHOICES = {
    "model.dtype": ("auto", "float32", "bfloat16", "float16", "float64"),
    "collect.keep": ("best_worst", "all"),
    "logger.report_to": ("none", "tensorboard", "wandb", "trackio"),
    "export.dtype": ("float32", "bfloat16", "float16"),
}
AT_LEAST = {"collect.prompts": 1, "collect.answers": 2, "evaluate.prompts": 1, "evaluate.majority": 1}
AT_LEAST |= {"evaluate.tie": 0, "grpo.eval_prompts": 1, "preview_rows": 1}


def check(cfg: DictConfig) -> DictConfig:
    """The config with our defaults filled in and every key known, or one line that says what is wrong.

    Raises:
        UserError: unknown key (with did-you-mean), wrong type, or a value that must be chosen and was not.
    """
    names(cfg)
    if missing := unset(cfg):
        raise UserError(f"no value for {', '.join(missing)}; give it as {missing[0]}=…")
    for node in ("trainer", "peft"):
        _against_source(node, cfg.get(node))
    not_its_own = _controller(cfg.get("kl"))
    _rewards(cfg.get("reward"))
    _inputs(cfg)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), cfg)
    except OmegaConfBaseException as error:
        raise UserError(_mistyped(cfg, error) or one_line(error)) from error
    with open_dict(merged):
        for key in not_its_own:
            del merged.kl[key]
    for key, allowed in CHOICES.items():
        if (value := OmegaConf.select(merged, key)) not in allowed:
            raise UserError(f"{key}={value}: expected one of {', '.join(allowed)}")
    for key, least in AT_LEAST.items():
        if (value := OmegaConf.select(merged, key)) < least:
            raise UserError(f"{key}={value}: expected at least {least}")
    return merged


def names(cfg: DictConfig) -> None:
    """Every key that is ours to know, before any of their values is looked at.

    Raises:
        UserError: an unknown one, with did-you-mean.
    """
    _known(cfg, Settings, "")


def _mistyped(cfg: DictConfig, error: OmegaConfBaseException) -> str | None:
    """One line for a value of the wrong simple type, with one of the right type."""
    key, hint = str(error.full_key or ""), Settings
    for part in key.split("."):
        hint = get_type_hints(hint).get(part) if is_dataclass(hint) else None
    value = OmegaConf.select(cfg, key) if key else None
    expected = sources.misfit(hint.__name__ if isclass(hint) else str(hint), value)
    if not expected:
        return None
    default = OmegaConf.to_yaml({"": OmegaConf.select(OmegaConf.structured(Settings), key)}).partition(":")[2].strip()
    return f"{key}={value}: expected {expected}, e.g. {key}={default}"


def _inputs(cfg: DictConfig) -> None:
    """Names of what a stage starts from, against its own file; evaluate compares whatever it is given."""
    file = CONF / "stage" / f"{cfg.get('stage')}.yaml"
    if cfg.get("stage") == "evaluate" or not file.is_file():
        return
    known = yaml.safe_load(file.read_text(encoding="utf-8")).get("inputs") or {}
    for name in cfg.get("inputs") or {}:
        if name not in known:
            if not known:
                raise UserError(f"inputs.{name}: stage={cfg.stage} starts from no model of a run")
            raise UserError(f"stage={cfg.stage} reads no inputs.{name}{suggest(str(name), known, 'inputs.')}")


def _controller(node: DictConfig | None) -> list[str]:
    """Keys and numbers of the `kl` node against the controller's own parameters (plain Python, no torch).

    Returns:
        Keys that belong to another controller of the same module: kl=fixed over a recipe that sets kl.target.
    """
    if not node:
        return []
    fields = OmegaConf.to_container(node, resolve=True)
    module, _, name = fields.pop("_target_").rpartition(".")
    controller = getattr(import_module(module), name)
    known = list(signature(controller).parameters)
    others = {key for found in vars(import_module(module)).values() if isclass(found) for key in _parameters(found)}
    not_its_own = [key for key in fields if key not in known and key in others]
    if not_its_own:
        print(f"kl: {name} reads no {' or '.join(not_its_own)}; left out", file=sys.stderr)
    for key, value in fields.items():
        if key in not_its_own:
            continue
        if key not in known:
            raise UserError(f"{name} has no setting {key}{suggest(str(key), known, 'kl.')}")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"kl.{key}={value!r}: expected a number")
    controller(**{key: value for key, value in fields.items() if key not in not_its_own})
    return not_its_own


def _parameters(controller: type) -> list[str]:
    return [] if issubclass(controller, Exception) else list(signature(controller).parameters)


def _rewards(node: DictConfig | None) -> None:
    """Keys of the `reward` node; what a function itself takes is checked where it is loaded."""
    if not node:
        return
    plain = OmegaConf.to_container(node, resolve=False)
    for key in plain:
        if key not in ("models", "functions", "tags"):
            raise UserError(f"no setting reward.{key}{suggest(str(key), ('models', 'functions'), 'reward.')}")
    for name, spec in (plain.get("models") or {}).items():
        known = ("path", "weight", "label", "batch_size", "ensemble", "std_coef")
        for key in spec or ():
            if key not in known:
                raise UserError(f"no setting reward.models.{name}.{key}{suggest(str(key), known)}")
        if spec is not None and not spec.get("path"):
            raise UserError(f"reward.models.{name} has no path; expected auto, a folder, a hub id, or a list of them")
    for name, spec in (plain.get("functions") or {}).items():
        known = ("path", "weight", "kwargs", "clip", "gate")
        for key in spec if isinstance(spec, dict) else ():
            if key not in known:
                raise UserError(f"no setting reward.functions.{name}.{key}{suggest(str(key), known)}")
        if spec is not None and not (isinstance(spec, dict) and spec.get("path")):
            raise UserError(f"reward.functions.{name} has no path; expected pkg.module:function or ./file.py:function")


def unset(cfg: DictConfig) -> list[str]:
    """Keys left at `???`, as they are written: without following interpolations, which would stop at the first."""
    found: list[str] = []

    def walk(node, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            elif value == "???":
                found.append(f"{prefix}{key}")

    walk(OmegaConf.to_container(cfg, resolve=False), "")
    return found


def _known(node: DictConfig, schema: type, prefix: str) -> None:
    types = get_type_hints(schema)
    ours = [f.name for f in fields(schema)]
    for key in node:
        if key not in ours:
            near = ours if prefix else [*ours, "recipes"]
            raise UserError(f"no setting {prefix}{key}{suggest(str(key), near, prefix)}")
        if is_dataclass(types[key]) and isinstance(node._get_node(key), DictConfig):
            _known(node[key], types[key], f"{prefix}{key}.")


def _against_source(node: str, values: DictConfig | None) -> None:
    """Keys and simple types of a node that builds another package's class by `_target_`."""
    if values is None:
        return
    if not isinstance(values, DictConfig):
        raise UserError(f"{node}={values}: expected settings below it, e.g. {node}.<field>=<value>")
    if "_target_" not in values:
        return
    target = values["_target_"]
    known = sources.fields(target)
    owner = target.rpartition(".")[2]
    for key, value in values.items():
        if key == "_target_":
            continue
        if key not in known:
            raise UserError(f"{owner} has no field {key}{suggest(str(key), known)}")
        if expected := sources.misfit(known[key], OmegaConf.to_container(values)[key]):
            raise UserError(f"{node}.{key}={value!r}: {owner} expects {expected}")


def suggest(word: str, known, prefix: str = "") -> str:
    """«; did you mean x?», or the end of the sentence where nothing is close.

    >>> suggest("vf_coeff", ["vf_coef", "lam"])
    '; did you mean vf_coef?'
    """
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known here: {', '.join(sorted(known)[:12])} …"


def one_line(error: BaseException) -> str:
    """An exception's message without its line breaks and OmegaConf's bookkeeping lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    text = " ".join(line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference")))
    return f"{key}: {text}" if key else text
