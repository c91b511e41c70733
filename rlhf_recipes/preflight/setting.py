"""Which models a stage loads, which of them it trains, and in what numbers."""

import contextlib
import io
from dataclasses import dataclass, field

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes import models
from rlhf_recipes.chat import chosen_models
from rlhf_recipes.evaluation import plan
from rlhf_recipes.preflight import memory
from rlhf_recipes.preflight.machine import Machine
from rlhf_recipes.preflight.memory import FLOAT, SIZES, Numbers
from rlhf_recipes.preflight.rows import Rows
from rlhf_recipes.preflight.shapes import Shape, shape_of
from rlhf_recipes.runs import resolve
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.runs.resolve import ModelSource


@dataclass(frozen=True)
class Network:
    """A model of a stage. part: policy, reference, critic or reward; trained: it has gradients."""

    part: str
    shape: Shape
    numbers: Numbers
    trained: bool = False

    @property
    def bytes(self) -> float:
        return memory.weights(self.shape, self.numbers)

    @property
    def gradients(self) -> float:
        return memory.gradients(self.shape, self.numbers) if self.trained else 0.0


@dataclass
class Setting:
    """What the memory of a stage is computed from.

    Args:
        cfg: the checked config.
        run: with its inputs resolved.
        args: its `trainer` node as its class; None for a stage that trains nothing.
        rows: how long rows are, tokens.
        machine: where it will run.
        tokenizer: bytes that one more tokenizer takes.
        networks: every model, in the order in which they are loaded.
    """

    cfg: DictConfig
    run: StageRun
    args: object
    rows: Rows
    machine: Machine
    tokenizer: float = 0.0
    networks: list[Network] = field(default_factory=list)

    @property
    def eager(self) -> bool:
        """Whether attention scores are written out; SDPA, the default, never holds (L, L) of them."""
        return self.cfg.model.attn_implementation == "eager"

    @property
    def dropout(self) -> bool:
        """Whether the pretrained networks' own dropout is on while they train: TRL's default outside SFT is off."""
        return self.cfg.stage != "ppo" and not getattr(self.args, "disable_dropout", False)

    def find(self, part: str) -> Network | None:
        return next((n for n in self.networks if n.part == part), None)

    @property
    def trained(self) -> list[Network]:
        return [n for n in self.networks if n.trained]

    @property
    def libraries(self) -> float:
        """What is there before any model, and a tokenizer for each reward model."""
        return self.machine.baseline + self.tokenizer * sum(n.part == "reward" for n in self.networks)

    @property
    def gradients(self) -> float:
        return sum(n.gradients for n in self.trained)

    @property
    def optimizer(self) -> float:
        return sum(memory.optimizer(n.shape, n.numbers, str(self.args.optim)) for n in self.trained)


def settle(cfg: DictConfig, run: StageRun, rows: Rows, machine: Machine, tokenizer: float = 0.0) -> Setting:
    """The setting of any stage.

    Raises:
        UserError: a model's config cannot be read, or the trainer refuses its settings.
    """
    args = quiet_arguments(cfg, run) if cfg.trainer is not None else None
    setting = Setting(cfg, run, args, rows, machine, tokenizer if machine.device == "cpu" else 0.0)
    autocast = args is not None and bool(args.bf16 or args.fp16)

    def add(part: str, path: str | None, *, trained=False, head=False, node: DictConfig = cfg.model) -> Network:
        peft = _adapter(cfg, "SEQ_CLS" if head else "CAUSAL_LM") if trained else None
        shape = shape_of(node, path, scalar_head=head, peft=peft)
        numbers = numbers_of(node, shape, not trained, machine.device, autocast)
        setting.networks.append(Network(part, shape, numbers, trained))
        return setting.networks[-1]

    def add_rewards() -> None:
        for scorer in scorers(cfg, run):
            add("reward", scorer.path, head=True, node=models.plain(cfg.model))

    written = language_models(cfg, run)
    path = written[0].path if written else None
    match cfg.stage:
        case "pretrain" | "sft":
            add("policy", path, trained=True)
        case "reward":
            add("policy", path, trained=True, head=True)
        case "dpo":
            if add("policy", path, trained=True).shape.adapter is None:
                add("reference", path)
        case "grpo":
            add_rewards()
            if add("policy", path, trained=True).shape.adapter is None and cfg.kl.kl_coef:
                add("reference", path)
        case "ppo":
            critic = run.inputs.get("value_model", {}).get("path")
            if critic and shape_of(cfg.model, critic).vocab == shape_of(cfg.model, path).vocab:
                add("critic", critic, trained=True, head=True)
            policy = add("policy", path, trained=True)
            add_rewards()
            if policy.shape.adapter is None:
                setting.networks.append(Network("reference", policy.shape, policy.numbers))  # a copy, not read again
        case "evaluate":  # one at a time; the largest counts
            nodes = [(found.path, node_of(cfg, run, found)) for found in written]
            for place, node in sorted(nodes, key=lambda n: -shape_of(n[1], n[0]).parameters)[:1]:
                add("policy", place, node=node)
            add_rewards()
        case "chat" | "export":
            for found in written:
                scores = resolve.is_reward_model(found.path)
                add("reward" if scores else "policy", found.path, head=scores, node=node_of(cfg, run, found))
        case "collect":
            add("policy", path)
            add_rewards()
        case "score":
            add_rewards()
    return setting


def _adapter(cfg: DictConfig, task: str):
    from rlhf_recipes.training.fit import peft_config  # the trainer's module takes seconds: a chat has no use for it

    return peft_config(cfg, task)


def quiet_arguments(cfg: DictConfig, run: StageRun):
    """training.arguments without what it prints: the stage itself will."""
    from rlhf_recipes.training.fit import arguments

    with contextlib.redirect_stdout(io.StringIO()):
        return arguments(cfg, run)


def numbers_of(model: DictConfig, shape: Shape, frozen: bool, device: str, autocast: bool) -> Numbers:
    """How wide a model's numbers are: as rlhf_recipes.models loads it, under the trainer's autocast or not."""
    if model.dtype != "auto":
        weight = float(SIZES.get(model.dtype, FLOAT))
    else:
        weight = float(SIZES.get(shape.dtype, FLOAT)) if frozen and device == "cuda" else float(FLOAT)
    narrow = 2 if autocast or weight == 2 else FLOAT
    norm = 2 if weight == 2 else FLOAT  # autocast leaves norms and the residual stream in float32
    if model.quantization:
        bits = 0.5 if model.quantization.get("load_in_4bit") else 1.0
        scales = bits / 8  # constants of each block of weights: 4 to 8 bits in 64 weights and rounding up
        outside = shape.embedding * (1 if shape.tied or not shape.head else 2)  # not quantised
        packed = (shape.parameters - outside) * (bits + scales)
        weight, narrow, norm = (packed + outside * 2) / shape.parameters, 2, 2
    return Numbers(weight, narrow, norm)


@dataclass(frozen=True)
class Scorer:
    """A model of the reward signal.

    Args:
        name: as in the `reward` node; the members of an ensemble are numbered.
        path: a folder or a hub id.
        classifies: it is a function's classifier, which reads text whatever the policy's tokens are.
        batch: answers a forward.
    """

    name: str
    path: str
    classifies: bool = False
    batch: int = 64


def scorers(cfg: DictConfig, run: StageRun) -> list[Scorer]:
    """Every model of the reward signal; those that are not made yet are left out."""
    found = []
    for name, spec in ((cfg.reward or {}).get("models") or {}).items():
        if spec is not None:
            paths = [spec.path] if isinstance(spec.path, str) else list(spec.path)  # a list is an ensemble
            for number, path in enumerate(paths, 1):
                path = run.inputs.get("reward_model", {}).get("path") if path == "auto" else path
                member = name if len(paths) == 1 else f"{name}#{number}"
                found.append(Scorer(member, path, batch=spec.get("batch_size") or 64))
    for name, spec in ((cfg.reward or {}).get("functions") or {}).items():
        if spec is not None and str(spec.get("path")).endswith("classifier:label_score"):
            batch = spec.kwargs.get("batch_size") or 32
            found.append(Scorer(name, spec.kwargs.model, classifies=True, batch=batch))
    return [scorer for scorer in found if scorer.path]


def language_models(cfg: DictConfig, run: StageRun) -> list[ModelSource]:
    """The models of a stage that write, the policy first: its inputs, or whom chat and export were asked for.

    Export's may be a reward model; `finished.kind` tells.

    Raises:
        UserError: one is not there, or does not write where it has to.
    """
    if cfg.stage == "chat":
        return chosen_models(cfg, run)
    if cfg.stage == "export":
        return [resolve.find(run, cfg.export.model, "export.model")]
    others = ("reward_model", "value_model")
    return [ModelSource(name, entry["path"]) for name, entry in run.inputs.items() if name not in others]


def language_model(cfg: DictConfig, run: StageRun) -> ModelSource | None:
    """The first of them: the policy, or of models to be compared the first. None: there is none, or none yet."""
    return next(iter(language_models(cfg, run)), None)


def node_of(cfg: DictConfig, run: StageRun, found: ModelSource) -> DictConfig:
    """The `model` node with which a stage loads a model that writes."""
    if cfg.stage == "evaluate":
        return cfg.model if plan.own(cfg, run.inputs[found.name]) else models.plain(cfg.model)
    if cfg.stage not in ("chat", "export"):
        return cfg.model
    node = resolve.model_node(cfg, found)
    return OmegaConf.merge(node, {"dtype": "float32", "quantization": None}) if cfg.stage == "export" else node
