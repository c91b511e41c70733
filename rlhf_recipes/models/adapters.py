"""LoRA adapters on disk: what one stands on, and one trained on another written as a single adapter that PEFT loads.

PEFT loads an adapter on the plain model that its config names, and nothing in between. What a stage leaves therefore
holds the adapters below it, too: W = W0 + s1 B1 A1 + s2 B2 A2 is one adapter of rank r1 + r2, with A = [A1; A2] and
B = [s1 B1, s2 B2] (arXiv:2106.09685 section 4.1).
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of every name in an adapter's file
_FACTOR = re.compile(r"(.+)\.(lora_(?:embedding_)?)([AB])((?:\.weight)?)$")
# What may differ from PEFT's default in an adapter that is a sum of B A; DoRA, biases and the like are not.
_SUMMABLE = (
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("fan_in_fan_out", "init_lora_weights", "modules_to_save"),
)
_WHERE = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


@dataclass
class Adapter:
    """An adapter folder: its config, and its weights by their names in the file."""

    config: dict
    state: dict[str, Tensor]


def base_of(path: str | Path) -> str | None:
    """What an adapter folder stands on, a folder or a hub id; None for anything else."""
    file = Path(path) / CONFIG
    return json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"] if file.is_file() else None


def bottom_of(path: str | Path) -> str:
    """The plain model, a folder or a hub id, under an adapter or under several that stand on each other."""
    while (base := base_of(path)) is not None:
        path = base
    return str(path)


def moves_base(peft_config) -> bool:
    """Whether PEFT takes what such an adapter starts with out of the base's own weights (arXiv:2404.02948).

    With the adapter switched off, the model is then not the one that training started from.
    """
    init = getattr(peft_config, "init_lora_weights", None)
    return isinstance(init, str) and init.lower().startswith(("pissa", "olora"))


def start(model: nn.Module) -> dict[str, Tensor] | None:
    """The adapter before training, where its initialisation moves the base; None where it does not.

    Args:
        model: a PEFT model, or PPO's actor and critic with one as `policy`; anything else has no adapter.
    """
    policy = getattr(model, "policy", model)
    config = getattr(policy, "peft_config", {}).get("default")
    if not moves_base(config):
        return None
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(policy, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items() if _FACTOR.match(name)}


def stand_alone(folder: Path, model: DictConfig, tokenizer, began: dict[str, Tensor] | None = None) -> None:
    """Rewrite the adapter in `folder` so that PEFT alone loads the model that was trained; nothing for any other model.

    Where the adapters cannot be one (DoRA, modules trained whole below, other kinds than LoRA), the base with those
    below merged in is written beside it, to `base/`, and named in its config.

    Args:
        model: the `model` node, to load what is below.
        tokenizer: of the model.
        began: what `start` returned before training.
    """
    below = base_of(folder)
    if below is None or (began is None and base_of(below) is None):
        return
    if (whole := _stacked(folder, began)) is not None:
        save_file(whole.state, folder / WEIGHTS, metadata={"format": "pt"})
    elif base_of(below) is not None:
        from rlhf_recipes.models.policy import load_policy
        from rlhf_recipes.models.reward_model import load_reward_model
        from rlhf_recipes.runs.resolve import is_reward_model

        load, base = load_reward_model if is_reward_model(below) else load_policy, folder.parent / "base"
        load(OmegaConf.merge(model, {"quantization": None}), below, tokenizer).save_pretrained(base)
        tokenizer.save_pretrained(base)
        whole = _read(folder)
        whole.config |= {"base_model_name_or_path": str(base), "revision": None}
        print(f"{folder} and the adapter in {below} cannot be one adapter: it stands on {base}, with the other merged")
    else:
        return
    (folder / CONFIG).write_text(json.dumps(whole.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read(folder: str | Path) -> Adapter:
    config = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    return Adapter(config, load_file(Path(folder) / WEIGHTS))


def _stacked(folder: str | Path, began: dict[str, Tensor] | None = None) -> Adapter | None:
    """The adapter in `folder` and all below it as one on the model at the bottom; None where they cannot be one."""
    if not (Path(folder) / WEIGHTS).is_file():
        return None
    top = _read(folder)
    if not _summable(top) or (began is None and moves_base(SimpleNamespace(**top.config))):
        return None
    terms, adapters = [_factors(top)], [top]
    if began is not None:  # the base was W0 - s B0 A0 in training and is W0 for whoever loads it
        terms.append({name: (a, -b) for name, (a, b) in _factors(Adapter(top.config, began)).items()})
    if base_of(top.config["base_model_name_or_path"]) is not None:
        below = _stacked(top.config["base_model_name_or_path"])
        if below is None or not _adds_to(top, below):
            return None
        terms.insert(0, _factors(below))
        adapters.insert(0, below)
    factors = _concatenated(terms)
    if factors is None or len(terms) == 1:
        return None if factors is None else top
    rank = max(a.shape[0] for a, _ in factors.values())
    config = top.config | {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    config |= {key: adapters[0].config.get(key) for key in ("base_model_name_or_path", "revision")}
    config["init_lora_weights"] = True  # the weights are read, and the base stays as it is
    if _places(adapters[0].config) != _places(top.config):
        targets = sorted({name for name, _ in factors})
        config |= dict.fromkeys(_WHERE) | {"target_modules": targets}
    state = {n: t for adapter in adapters for n, t in adapter.state.items() if not _FACTOR.match(n)}
    for (name, kind), (a, b) in factors.items():
        place, ending = f"{_PREFIX}{name}.{kind}", "" if "embedding" in kind else ".weight"
        empty = rank - a.shape[0]  # a layer that fewer adapters train has zeros for the others
        state[f"{place}A{ending}"] = torch.cat([a, a.new_zeros(empty, *a.shape[1:])]).contiguous()
        state[f"{place}B{ending}"] = torch.cat([b, b.new_zeros(b.shape[0], empty, *b.shape[2:])], 1).contiguous()
    return Adapter(config, state)


def _adds_to(top: Adapter, below: Adapter) -> bool:
    """Whether what `below` trained is still there under `top`, apart from modules that `top` has trained whole."""
    whole, under = (set(adapter.config.get("modules_to_save") or []) for adapter in (top, below))
    layers = [name for name, _ in _factors(below)]
    if top.config["task_type"] != below.config["task_type"] and any("lm_head" in name for name in layers):
        return False  # another head has taken its place
    return under <= whole and not any(whole & set(name.split(".")) for name in layers)


def _summable(adapter: Adapter) -> bool:
    """Whether an adapter is a sum of B A and nothing else."""
    from peft import LoraConfig

    plain = json.loads(json.dumps(LoraConfig().to_dict()))
    own = {key: value for key, value in adapter.config.items() if key not in (*_SUMMABLE, *_WHERE)}
    return all(value == plain.get(key) or not (value or plain.get(key)) for key, value in own.items())


def _factors(adapter: Adapter) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """{(module, lora_ or lora_embedding_): (A (r, …), B (out, r, …) with its scaling folded in)}, in float32."""
    from peft.utils.other import get_pattern_key

    config, pairs, factors = adapter.config, {}, {}
    for name, tensor in adapter.state.items():
        if match := _FACTOR.match(name):
            pairs.setdefault((match[1].removeprefix(_PREFIX), match[2]), {})[match[3]] = tensor.float()
    alphas = config.get("alpha_pattern") or {}
    for (name, kind), pair in pairs.items():
        rank, alpha = pair["A"].shape[0], alphas.get(get_pattern_key(alphas, name), config["lora_alpha"])
        factors[name, kind] = pair["A"], pair["B"] * (alpha / (rank**0.5 if config.get("use_rslora") else rank))
    return factors


def _concatenated(terms: list[dict]) -> dict[tuple[str, str], tuple[Tensor, Tensor]] | None:
    """The sum of the terms, a module at a time; None where a module has other shapes in one than in another."""
    factors = {}
    for key in {key: None for term in terms for key in term}:
        pairs = [term[key] for term in terms if key in term]
        if len({(a.shape[1:], b.shape[:1], b.shape[2:]) for a, b in pairs}) > 1:
            return None
        factors[key] = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)
    return factors


def _places(config: dict) -> list:
    """Which layers a config trains, to compare."""
    return [sorted(value) if isinstance(value := config.get(key), list) else value for key in _WHERE]
