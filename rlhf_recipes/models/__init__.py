"""Tokenizer, policy, reward model and value model from a path, an adapter folder or a config."""

import json
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.hub import reach_hub

# A softmax over a vocabulary has subnormal floats, slow ones on a CPU: one in two thousand tripled the time of exp.
# Before any kernel runs: the threads of its pool inherit the setting when they are made.
torch.set_flush_denormal(True)


def load_tokenizer(model: DictConfig, path: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer with pad, eos and, where asked for, a chat template.

    Args:
        model: the `model` node; tokenizer, chat_template, pad_token and eos_token override what lies at `path`.
        path: a model folder, an adapter folder or a hub id.

    Raises:
        UserError: no EOS; or pad is EOS, which would mask every EOS out of the loss (trl-lib issue 3750); or no such
            file of a chat template.
    """
    place = model.tokenizer or path
    tokenizer = _load(AutoTokenizer, place, revision=model.revision, trust_remote_code=model.trust_remote_code)
    if model.eos_token:  # a chat template that ends its turns with another token than the tokenizer's EOS
        if model.eos_token not in tokenizer.get_vocab():
            raise UserError(
                f"model.eos_token={model.eos_token!r} is not in the vocabulary of {place}; expected a token of it"
            )
        tokenizer.eos_token = model.eos_token
    if tokenizer.eos_token is None:
        raise UserError(f"the tokenizer of {place} has no EOS token; a model trained with it would never stop")
    if model.pad_token:
        tokenizer.add_special_tokens({"pad_token": model.pad_token})
    elif tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise UserError(
            f"the tokenizer of {place} pads with its EOS {tokenizer.eos_token!r}: nothing would learn to stop; "
            "give model.pad_token='<|pad|>' (added to the vocabulary if new)"
        )
    if model.chat_template:
        tokenizer.chat_template = _chat_template(model.chat_template)
    return tokenizer


def load_policy(
    model: DictConfig, path: str, tokenizer: PreTrainedTokenizerBase, *, frozen: bool = False
) -> PreTrainedModel:
    """A causal language model; an adapter folder is loaded as its base with the adapter merged in.

    Args:
        model: the `model` node (dtype, attention, quantisation, further from_pretrained keywords).
        path: a model folder, an adapter folder or a hub id.
        tokenizer: embeddings grow to hold its tokens.
        frozen: no gradients will be asked for: it may lie in a smaller dtype, and lies on the GPU where there is one.
    """
    torch.manual_seed(0)  # rows of the embedding that are new here are the same in every run
    loaded = _fit(_pretrained(AutoModelForCausalLM, model, path, tokenizer, frozen), tokenizer)
    return loaded.to("cuda") if frozen and torch.cuda.is_available() and not model.quantization else loaded


def load_reward_model(
    model: DictConfig, path: str, tokenizer: PreTrainedTokenizerBase, *, frozen: bool = False, seed: int = 0
) -> PreTrainedModel:
    """A model with a scalar head on the last token, r(x, y) of Ouyang et al. 2022 section 3.5.

    A head that is not at `path` starts from N(0, 1 / (hidden + 1)), seeded, as Stiennon et al. 2020 do.
    """
    torch.manual_seed(seed)
    loaded = _pretrained(AutoModelForSequenceClassification, model, path, tokenizer, frozen, num_labels=1)
    head = getattr(loaded, "score", None)
    if head is not None and not _has_head(path):
        torch.nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)
        if head.bias is not None:  # a constant added to every score moves no preference
            torch.nn.init.zeros_(head.bias)
    return _fit(loaded, tokenizer)


def scorer_tokenizer(model: DictConfig, path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a finished reward model or classifier, as it is: nothing learns from it, nothing is padded."""
    return _load(AutoTokenizer, path, revision=model.revision, trust_remote_code=model.trust_remote_code)


def load_classifier(model: DictConfig, path: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A finished reward model or classifier, frozen, with however many labels it has.

    Raises:
        UserError: its vocabulary is smaller than its tokenizer's.
    """
    labels = {"num_labels": 1} if (Path(path) / "adapter_config.json").is_file() else {}  # an adapter does not say
    loaded = _pretrained(AutoModelForSequenceClassification, model, path, tokenizer, True, **labels)
    if (size := loaded.get_input_embeddings().num_embeddings) < len(tokenizer):
        raise UserError(
            f"the reward model has a vocabulary of {size}, the tokenizer in {path} one of {len(tokenizer)}: it was "
            "made for another tokenizer; expected the one that it was trained with"
        )
    if tokenizer.pad_token_id is not None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    return loaded.eval()


def init_policy(model: DictConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A model of seeded random weights from `model.init`: a transformers config's fields, `model_type` among them."""
    torch.manual_seed(seed)
    fields = OmegaConf.to_container(model.init)
    config = AutoConfig.for_model(fields.pop("model_type"), vocab_size=len(tokenizer), **fields)
    return _fit(AutoModelForCausalLM.from_config(config), tokenizer)


def plain(model: DictConfig) -> DictConfig:
    """The `model` node without what is the policy's own: for another model, which brings its tokenizer and revision."""
    own = ("tokenizer", "chat_template", "pad_token", "eos_token", "quantization", "revision")
    return OmegaConf.merge(model, dict.fromkeys(own))


def context_length(model: DictConfig, path: str | None) -> int | None:
    """Tokens the model at `path` (None: that of `model.init`) can read at once; None where it does not say."""
    if path is None:
        return model.init.get("max_position_embeddings")
    if (adapter := Path(path) / "adapter_config.json").is_file():
        return context_length(model, json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    config = _load(AutoConfig, path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    return getattr(config, "max_position_embeddings", None)


def room_for_prompt(cfg: DictConfig, path: str, answer: int) -> int | None:
    """Longest prompt, in tokens: what `answer` tokens leave of the context, and at most data.max_prompt_length.

    Raises:
        UserError: the answer alone fills the context.
    """
    context = context_length(cfg.model, path)
    if context is not None and answer >= context:
        raise UserError(
            f"answers of {answer} tokens leave no room for a prompt: the model reads {context}; ask for fewer"
        )
    limits = [cfg.data.get("max_prompt_length"), None if context is None else context - answer]
    return min((n for n in limits if n is not None), default=None)


def parameters(model: torch.nn.Module) -> str:
    """«2.1 M parameters, all trained», for the screen."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    share = "all trained" if trained == total else f"{trained / 1e6:.2f} M trained"
    return f"{total / 1e6:.1f} M parameters, {share}"


def _pretrained(cls, model: DictConfig, path: str, tokenizer, frozen: bool, **more) -> PreTrainedModel:
    adapter = Path(path) / "adapter_config.json"
    if adapter.is_file():
        from peft import PeftConfig, PeftModel

        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        loaded = _pretrained(cls, model, base, tokenizer, frozen, **more)
        if len(tokenizer) > loaded.get_input_embeddings().num_embeddings:
            loaded.resize_token_embeddings(len(tokenizer))
        config = PeftConfig.from_pretrained(path)
        config.task_type = None  # no wrapper of a task's own: an SFT adapter may carry on as a reward model
        loaded = PeftModel.from_pretrained(loaded, path, config=config).merge_and_unload()
        loaded.name_or_path = loaded.config._name_or_path = str(path)  # what a further adapter names as its base
        return loaded
    keywords = OmegaConf.to_container(model.kwargs) | more | {"dtype": _dtype(model, frozen)}
    if model.attn_implementation:
        keywords["attn_implementation"] = model.attn_implementation
    if model.quantization:
        keywords["quantization_config"] = _quantization(model)
    return _load(cls, path, revision=model.revision, trust_remote_code=model.trust_remote_code, **keywords)


def _fit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.pad_token_id = tokenizer.pad_token_id
        # A model may stop on more tokens than the tokenizer's own EOS (Qwen, Llama 3): keep those, and add it.
        stops = generation.eos_token_id
        stops = [] if stops is None else stops if isinstance(stops, list) else [stops]
        if tokenizer.eos_token_id not in stops:
            stops = [tokenizer.eos_token_id, *stops]
        generation.eos_token_id = stops if len(stops) > 1 else stops[0]
    return model


def _dtype(model: DictConfig, frozen: bool) -> str | torch.dtype:
    """Weights trained in full stay float32 (autocast does the rest); frozen ones may be half as large on a GPU."""
    if model.dtype != "auto":
        return getattr(torch, model.dtype, None) or model.dtype
    return "auto" if (frozen or model.quantization) and torch.cuda.is_available() else torch.float32


def _chat_template(given: str) -> str:
    """A template as it stands, or what the file of that name holds. Every template has a brace."""
    if "{" in given:  # asked for as a file, a text this long would be an OSError
        return given
    if not Path(given).is_file():
        raise UserError(f"model.chat_template={given}: no such file; expected a .jinja file, or the template itself")
    return Path(given).read_text(encoding="utf-8")


def _quantization(model: DictConfig):
    if not torch.cuda.is_available():
        raise UserError("peft=qlora keeps the base in 4 bits, which needs a GPU; expected CUDA, use peft=lora here")
    from transformers import BitsAndBytesConfig  # imports bitsandbytes, which prints a notice: only when asked for

    return BitsAndBytesConfig(**OmegaConf.to_container(model.quantization))


def _has_head(path: str) -> bool:
    """Whether what lies at `path` brings a trained scalar head; a hub id is believed to."""
    folder = Path(path)
    if (adapter := folder / "adapter_config.json").is_file():
        return "score" in (json.loads(adapter.read_text(encoding="utf-8")).get("modules_to_save") or [])
    if not (folder / "config.json").is_file():
        return not folder.exists()
    architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    return any("SequenceClassification" in a for a in architectures)


def _load(cls, place: str, **keywords):
    """from_pretrained, with a hub that cannot be reached told at once and in one line."""
    reach_hub(place)
    try:
        return cls.from_pretrained(place, **keywords)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"model.path={place} could not be loaded as {cls.__name__}: {first}") from error
