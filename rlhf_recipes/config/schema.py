"""The settings that are ours, with their defaults. TRL's and PEFT's own (`trainer`, `peft`) are not declared here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


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
class Drawing:
    """How answers are drawn outside training. An answer does not depend on `batch_size`, the prompts at once."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 64
    batch_size: int = 64


@dataclass
class Collect(Drawing):
    prompts: int = 1000
    answers: int = 4
    keep: str = "best_worst"
    max_new_tokens: int = 48


@dataclass
class Harness:
    include_path: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int = 8


@dataclass
class Evaluate(Drawing):
    prompts: int = 256
    max_new_tokens: int = 128
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
    history: Any = None


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


Rule = tuple[Callable[[Any], bool], str]  # (what is allowed, in words)


def _one_of(*values: str) -> Rule:
    return lambda value: value in values, f"one of {', '.join(values)}"


def _least(least: int) -> Rule:
    return lambda value: value >= least, f"at least {least}"


_SHARE: Rule = (lambda value: 0 < value <= 1, "a number above 0, at most 1")
_SAMPLING = ("chat", "evaluate", "collect")
ALLOWED: dict[str, Rule] = {
    "model.dtype": _one_of("auto", "float32", "bfloat16", "float16", "float64"),
    "collect.keep": _one_of("best_worst", "all"),
    "logger.report_to": _one_of("none", "tensorboard", "wandb", "trackio"),
    "export.dtype": _one_of("float32", "bfloat16", "float16"),
    **dict.fromkeys(("seed", "evaluate.tie", "chat.top_k", *(f"{node}.temperature" for node in _SAMPLING)), _least(0)),
    **dict.fromkeys(("collect.prompts", "evaluate.prompts", "evaluate.majority"), _least(1)),
    **dict.fromkeys(("grpo.eval_prompts", "preview_rows", *(f"{n}.max_new_tokens" for n in _SAMPLING)), _least(1)),
    "collect.answers": _least(2),
    **dict.fromkeys((f"{node}.top_p" for node in _SAMPLING), _SHARE),
    "chat.repetition_penalty": (lambda value: value > 0, "a number above 0"),
    "chat.history": (lambda v: v in (None, "all") or str(v).isdecimal(), "a whole number, 0 or more, or all"),
}

# What stands below reward.<group>.<name>: the keys, and what a path may be.
REWARD = {
    "models": (
        ("path", "weight", "label", "batch_size", "ensemble", "std_coef"),
        "auto, a folder, a hub id, or a list of them",
    ),
    "functions": (("path", "weight", "kwargs", "clip", "gate"), "pkg.module:function or ./file.py:function"),
}
