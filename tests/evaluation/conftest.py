"""A word-level tokenizer and a Llama of a few thousand random weights: no download, no training."""

import pytest

_SIMPLE = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat"]
WORDS = [*_SIMPLE, "red", "big", "small", "and", "then", "slept", "away", "home"]


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    made.chat_template = (
        "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    )
    return made


@pytest.fixture(scope="session")
def make_model(tokenizer):
    def make(seed: int = 0, scale: float = 1.0):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=48,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        model = LlamaForCausalLM(config).eval()
        model.lm_head.weight.data.mul_(20 * scale)  # a distribution that is not flat
        return model

    return make
