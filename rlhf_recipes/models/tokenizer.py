"""The policy's tokenizer: loaded and checked, or trained on a corpus for a model that starts from nothing."""

from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf_recipes.errors import UserError
from rlhf_recipes.models.adapters import base_of
from rlhf_recipes.models.pretrained import from_hub

SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>", "unk_token": "<|unk|>"}


def load_tokenizer(model: DictConfig, path: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer with pad, eos and, where asked for, a chat template.

    Args:
        model: the `model` node; tokenizer, chat_template, pad_token and eos_token override what lies at `path`.
        path: a model folder, an adapter folder or a hub id.

    Raises:
        UserError: no EOS; or pad is EOS, which would mask every EOS out of the loss (trl-lib issue 3750); or no such
            file of a chat template.
    """
    place = model.tokenizer or tokenizer_place(path)
    tokenizer = from_hub(AutoTokenizer, place, revision=model.revision, trust_remote_code=model.trust_remote_code)
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


def tokenizer_place(path: str) -> str:
    """Where the tokenizer of the model at `path` lies: an adapter saved without one has that of its base."""
    alone = not any((Path(path) / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))
    base = base_of(path) if alone else None
    return path if base is None else tokenizer_place(base)


def train_bpe(texts: Iterable[str], vocab_size: int, min_frequency: int = 2) -> PreTrainedTokenizerFast:
    """Sennrich et al. 2016 on bytes, so that any text can be written; pad, bos, eos and unk distinct.

    Args:
        texts: the corpus.
        vocab_size: entries, the 256 bytes and 4 special tokens included.
        min_frequency: how often a pair must occur to be merged.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **SPECIAL)


def _chat_template(given: str) -> str:
    """A template as it stands, or what the file of that name holds. Every template has a brace."""
    if "{" in given:  # asked for as a file, a text this long would be an OSError
        return given
    if not Path(given).is_file():
        raise UserError(f"model.chat_template={given}: no such file; expected a .jinja file, or the template itself")
    return Path(given).read_text(encoding="utf-8")
