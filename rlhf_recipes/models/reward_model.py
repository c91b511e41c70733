"""Models that score: reward models with one scalar head, and classifiers with any number of labels."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_recipes.errors import UserError
from rlhf_recipes.models.adapters import base_of
from rlhf_recipes.models.pretrained import fit_vocabulary, from_hub, pretrained
from rlhf_recipes.models.tokenizer import tokenizer_place
from rlhf_recipes.runs.resolve import is_reward_model


def load_reward_model(
    model: DictConfig, path: str, tokenizer: PreTrainedTokenizerBase, *, frozen: bool = False, seed: int = 0
) -> PreTrainedModel:
    """A model with a scalar head on the last token, r(x, y) of Ouyang et al. 2022 section 3.5.

    A head that is not at `path` starts from N(0, 1 / (hidden + 1)), seeded, as Stiennon et al. 2020 do.
    """
    torch.manual_seed(seed)
    loaded = pretrained(AutoModelForSequenceClassification, model, path, tokenizer, frozen, num_labels=1)
    head = getattr(loaded, "score", None)
    if head is not None and Path(path).exists() and not is_reward_model(path):  # a hub id is believed to have one
        torch.nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)
        if head.bias is not None:  # a constant added to every score moves no preference
            torch.nn.init.zeros_(head.bias)
    return fit_vocabulary(loaded, tokenizer)


def scorer_tokenizer(model: DictConfig, path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a finished reward model or classifier, as it is: nothing learns from it, nothing is padded."""
    place = tokenizer_place(path)
    return from_hub(AutoTokenizer, place, revision=model.revision, trust_remote_code=model.trust_remote_code)


def load_classifier(model: DictConfig, path: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A finished reward model or classifier, frozen, with however many labels it has.

    Raises:
        UserError: its vocabulary is smaller than its tokenizer's.
    """
    labels = {"num_labels": 1} if base_of(path) is not None else {}  # an adapter does not say
    loaded = pretrained(AutoModelForSequenceClassification, model, path, tokenizer, True, **labels)
    if (size := loaded.get_input_embeddings().num_embeddings) < len(tokenizer):
        raise UserError(
            f"the reward model has a vocabulary of {size}, the tokenizer in {path} one of {len(tokenizer)}: it was "
            "made for another tokenizer; expected the one that it was trained with"
        )
    # its forward reads the last token that is not pad: a pad of its own, or none, decides where it was trained to read
    if loaded.config.pad_token_id is None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        loaded.config.pad_token_id = tokenizer.pad_token_id
    return loaded.eval()
