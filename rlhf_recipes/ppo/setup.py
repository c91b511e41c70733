"""What a PPO run needs made of what it is given: adapters, a quiet network, a corpus."""

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from rlhf_recipes.errors import UserError


def with_adapter(model: nn.Module | None, peft_config):
    """The model wrapped in an adapter, made ready for it where it is quantised; unchanged without a peft_config."""
    if peft_config is None or model is None:
        return model
    from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training

    if isinstance(model, PeftModel):
        raise UserError("the model has an adapter already; merge it first, or give no peft_config")
    if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return get_peft_model(model, peft_config)


def switch_dropout_off(model: nn.Module) -> None:
    """Dropout of the pretrained network would make every ratio noise; an adapter's own stays as its config says."""
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # OPT and others call the function, with a share that they keep as a number
        for key in [k for k, v in vars(module).items() if "drop" in k and isinstance(v, float)]:
            setattr(module, key, 0.0)


def as_corpus(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, context: int | None) -> Dataset:
    """Rows of `input_ids` from rows of `text`, cut at the model's context, at 1,024 tokens where it has none."""
    if "input_ids" in dataset.column_names:
        return dataset
    if "text" not in dataset.column_names:
        raise UserError(f"ptx_dataset needs a column `text` or `input_ids`; it has {dataset.column_names}")
    length = min(tokenizer.model_max_length, context or 1024, 1024)
    return dataset.map(
        lambda row: {"input_ids": tokenizer(row["text"], truncation=True, max_length=length)["input_ids"]},
        remove_columns=dataset.column_names,
    )


def split_groups(optimizer: torch.optim.Optimizer, critic: set[int], rate: float) -> None:
    """Give the parameters whose id is in `critic` groups of their own, with learning rate `rate`."""
    groups = optimizer.param_groups[:]
    optimizer.param_groups.clear()
    for group in groups:
        for is_critic in (False, True):
            params = [p for p in group["params"] if (id(p) in critic) == is_critic]
            optimizer.add_param_group({**group, "params": params, "lr": rate if is_critic else group["lr"]})
