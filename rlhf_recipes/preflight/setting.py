"""Which models a stage loads, which of them it trains, and in what numbers."""

import contextlib
import io
from dataclasses import dataclass, field

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes import finished
from rlhf_recipes.artifacts import StageRun
from rlhf_recipes.preflight import memory
from rlhf_recipes.preflight.machine import Machine
from rlhf_recipes.preflight.memory import FLOAT, SIZES, Numbers
from rlhf_recipes.preflight.rows import Rows
from rlhf_recipes.preflight.shapes import Shape, shape_of
from rlhf_recipes.training import arguments, peft_config


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
    def libraries(self) -> float:
        """What is there before any model, and a tokenizer for each reward model."""
        return self.machine.baseline + self.tokenizer * sum(n.part == "reward" for n in self.networks)

    @property
    def gradients(self) -> float:
        return memory.gradients(self.shape, self.numbers) if self.trained else 0.0


@dataclass
class Setting:
    """What the memory of a stage is computed from.

    Args:
        cfg: the checked config.
        args: its `trainer` node as its class; None for a stage that trains nothing.
        rows: how long rows are, tokens.
        machine: where it will run.
        tokenizer: bytes that one more tokenizer takes.
        networks: every model, in the order in which they are loaded.
    """

    cfg: DictConfig
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
    setting = Setting(cfg, args, rows, machine, tokenizer if machine.device == "cpu" else 0.0)
    autocast = args is not None and bool(args.bf16 or args.fp16)

    def add(part: str, path: str | None, *, trained: bool = False, head: bool = False) -> Network:
        peft = peft_config(cfg, "SEQ_CLS" if head else "CAUSAL_LM") if trained else None
        shape = shape_of(cfg.model, path, scalar_head=head, peft=peft)
        numbers = numbers_of(cfg.model, shape, not trained, machine.device, autocast)
        setting.networks.append(Network(part, shape, numbers, trained))
        return setting.networks[-1]

    path = language_model(run)
    match cfg.stage:
        case "pretrain" | "sft":
            add("policy", path, trained=True)
        case "reward":
            add("policy", path, trained=True, head=True)
        case "dpo":
            if add("policy", path, trained=True).shape.adapter is None:
                add("reference", path)
        case "grpo":
            for place in reward_paths(cfg, run):
                add("reward", place, head=True)
            if add("policy", path, trained=True).shape.adapter is None and cfg.kl.kl_coef:
                add("reference", path)
        case "ppo":
            critic = run.inputs.get("value_model", {}).get("path")
            if critic and shape_of(cfg.model, critic).vocab == shape_of(cfg.model, path).vocab:
                add("critic", critic, trained=True, head=True)
            policy = add("policy", path, trained=True)
            for place in reward_paths(cfg, run):
                add("reward", place, head=True)
            if policy.shape.adapter is None:
                setting.networks.append(Network("reference", policy.shape, policy.numbers))  # a copy, not read again
        case "evaluate":  # one at a time; the largest counts
            for place in sorted(language_models(run), key=lambda p: -shape_of(cfg.model, p).parameters)[:1]:
                add("policy", place)
            for place in reward_paths(cfg, run):
                add("reward", place, head=True)
        case "chat" | "export":
            key = f"{cfg.stage}.{'models' if cfg.stage == 'chat' else 'model'}"
            places = OmegaConf.select(cfg, key)
            for place in [places] if isinstance(places, str) else list(places or [None]):
                add("policy", finished.find(run, place, key).path)
        case _:
            if path:
                add("policy", path)
            if cfg.stage in ("collect", "score"):
                for place in reward_paths(cfg, run):
                    add("reward", place, head=True)
    return setting


def quiet_arguments(cfg: DictConfig, run: StageRun):
    """training.arguments without what it prints: the stage itself will."""
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


def reward_paths(cfg: DictConfig, run: StageRun) -> list[str]:
    """Where the models of the reward signal lie; those that are not made yet are left out."""
    places = []
    for spec in ((cfg.reward or {}).get("models") or {}).values():
        if spec is not None:
            paths = [spec.path] if isinstance(spec.path, str) else list(spec.path)  # a list is an ensemble
            places += [run.inputs.get("reward_model", {}).get("path") if path == "auto" else path for path in paths]
    for spec in ((cfg.reward or {}).get("functions") or {}).values():
        if spec is not None and str(spec.get("path")).endswith("classifier:label_score"):
            places.append(spec.kwargs.model)
    return [place for place in places if place]


def language_models(run: StageRun) -> list[str]:
    """Where the language models among a stage's inputs lie."""
    others = ("reward_model", "value_model")
    return [entry["path"] for name, entry in run.inputs.items() if name not in others]


def language_model(run: StageRun) -> str | None:
    """The first of them: the policy, or of models to be compared the first. None: it is made from nothing."""
    return next(iter(language_models(run)), None)
