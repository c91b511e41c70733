"""A model's dimensions from its config alone: AutoConfig, and a model on the meta device. No weight is read."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.hub import reach_hub


@dataclass(frozen=True)
class Shape:
    """What the memory of a decoder depends on. Widths are elements a token.

    Args:
        layers, hidden, heads, kv_heads, head_dim, vocab, inner: as in the config (`inner` is the MLP's width).
        gated: the MLP multiplies two projections (SwiGLU).
        activation: width, in `inner`s, that autograd keeps of an ungated MLP's activation function and its result.
        norms: widths, in elements, of the norms of one layer; fused_norms: they are nn.LayerNorm.
        parameters: elements of the whole model; embedding: those of the input embedding.
        head: the model ends in an lm_head; tied: that is the embedding.
        adapter: elements of an adapter and the trained heads beside it; None where every weight is trained.
        ranks: of an adapter, summed over the matrices of one layer.
        dropout, attention_dropout: the pretrained network has some.
        dtype: the config's own, e.g. bfloat16.
        context: tokens it reads at once; None where the config does not say.
        name: of the model's class.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    inner: int
    gated: bool
    activation: int
    norms: tuple[int, ...]
    fused_norms: bool
    parameters: int
    embedding: int
    head: bool
    tied: bool
    adapter: int | None = None
    ranks: int = 0
    dropout: bool = False
    attention_dropout: bool = False
    dtype: str = "float32"
    context: int | None = None
    name: str = ""

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def trained(self) -> int:
        """Elements with a gradient."""
        return self.parameters if self.adapter is None else self.adapter


_KNOWN: dict[str, Shape] = {}  # building a large model takes a tenth of a second even on the meta device


def shape_of(model: DictConfig, path: str | None, *, scalar_head: bool = False, peft=None) -> Shape:
    """The shape of the model at `path`.

    Args:
        model: the `model` node.
        path: a model folder, an adapter folder or a hub id, as StageRun.resolve found it; None: `model.init`.
        scalar_head: a sequence classifier with one label instead of a language model.
        peft: a PEFT config to put on it, or None.

    Raises:
        UserError: the config cannot be read, or is not a decoder's.
    """
    place = path if path is None else base_of(path)
    key = json.dumps([place, OmegaConf.to_container(model, resolve=True), scalar_head, repr(peft)], default=str)
    if key not in _KNOWN:
        _KNOWN[key] = _measure(model, _config(model, place), scalar_head, peft)
    return _KNOWN[key]


def base_of(path: str) -> str:
    """The folder or hub id whose config counts: an adapter's base, for adapters are merged when they are loaded."""
    adapter = Path(path) / "adapter_config.json"
    if adapter.is_file():
        return base_of(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    return path


def _config(model: DictConfig, place: str | None):
    from transformers import AutoConfig

    if place is None:
        fields = OmegaConf.to_container(model.init) | {"vocab_size": model.tokenizer_init.vocab_size}
        return AutoConfig.for_model(fields.pop("model_type"), **fields)
    reach_hub(place)
    try:
        return AutoConfig.from_pretrained(place, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={place}: no config to read: {str(error).strip().splitlines()[0]}") from error


def _measure(model: DictConfig, config, scalar_head: bool, peft) -> Shape:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.modeling_utils import set_zero3_state

    cls = AutoModelForSequenceClassification if scalar_head else AutoModelForCausalLM
    if scalar_head:
        config.num_labels = 1
    try:
        with torch.device("meta"), set_zero3_state():  # under ZeRO-3 it would meet with processes that do not estimate
            network = cls.from_config(config, trust_remote_code=model.trust_remote_code)
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise UserError(f"model_type={config.model_type} cannot be built as {cls.__name__}: {first}") from error
    text = config.get_text_config()
    layers, hidden, heads = int(text.num_hidden_layers), int(text.hidden_size), _widest(text, "num_attention_heads")
    if not heads:
        raise UserError(f"model_type={config.model_type} names no attention heads; its memory is not known")
    named = (_widest(text, key) for key in ("intermediate_size", "ffn_dim", "n_inner"))
    inner = next(filter(None, named), 4 * hidden)
    embedding = network.get_input_embeddings().weight
    head = None if scalar_head else network.get_output_embeddings()
    shape = Shape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_widest(text, "num_key_value_heads") or heads,
        head_dim=_widest(text, "head_dim") or hidden // heads,
        vocab=embedding.shape[0],
        inner=inner,
        **_block(network, layers, hidden, inner),
        parameters=sum(p.numel() for p in network.parameters()),
        embedding=embedding.numel(),
        head=head is not None,
        tied=head is not None and head.weight is embedding,
        dropout=any(getattr(text, key, 0) for key in ("dropout", "resid_pdrop", "hidden_dropout")),
        attention_dropout=any(getattr(text, key, 0) for key in ("attention_dropout", "attn_pdrop")),
        dtype=str(getattr(config, "dtype", None) or "float32").removeprefix("torch."),
        context=getattr(text, "max_position_embeddings", None),
        name=type(network).__name__,
    )
    if peft is None:
        return shape
    from peft import get_peft_model

    wrapped = get_peft_model(network, peft, low_cpu_mem_usage=True)
    trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    first = [p.shape for name, p in _layers(wrapped, layers)[0].named_parameters() if "lora_A" in name]
    return replace(shape, adapter=trained, ranks=sum(min(sides) for sides in first))  # of shape (r, in)


def _widest(config, key: str) -> int | None:
    """A width from a config, None where it has none; the largest where layers differ (Gemma 3n, Gemma 4)."""
    found = [getattr(layer, key, None) for layer in getattr(config, "per_layer_config", None) or [config]]
    widths = [width for one in found for width in (one if isinstance(one, list | tuple) else [one]) if width]
    return max(map(int, widths), default=None)


def _layers(network, count: int):
    """The decoder's layers."""
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(f"{type(network).__name__} is not a stack of {count} layers; its memory is not known")


def _block(network, layers: int, hidden: int, inner: int) -> dict:
    """What one layer is made of: its MLP, its activation function, its norms."""
    from torch import nn

    block = _layers(network, layers)[0]
    modules = list(block.modules())
    matrices = [p for p in block.parameters() if p.dim() == 2]
    # twice hidden -> inner, or once to 2 x inner, is a gate beside its value; nn.Linear is (out, in), Conv1D (in, out)
    rises = sum(max(p.shape) // inner for p in matrices if hidden in p.shape and max(p.shape) in (inner, 2 * inner))
    norms = [m for m in modules if type(m).__name__.endswith("Norm") and getattr(m, "weight", None) is not None]
    widths = [int(m.weight.numel()) for m in norms]
    names = {type(m).__name__ for m in modules}
    if "ReLU" in names:
        activation = 1  # keeps its result only, which is the next matrix's input
    elif names & {"NewGELUActivation", "FastGELUActivation"}:
        activation = 5  # written out: x, tanh, x / 2, 1 + tanh, result
    else:
        activation = 2  # one kernel: its input and its result
    return {
        "gated": rises >= 3,
        "activation": activation,
        "norms": tuple(widths),
        "fused_norms": any(isinstance(m, nn.LayerNorm) for m in norms),
    }
