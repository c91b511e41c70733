"""A reward model reads the tokens that stage=reward trains on: its scores are those of transformers on ids by hand."""

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from rlhf_recipes.rewards.model import ModelReward, as_reward_functions

CHATML = (
    "{% for m in messages %}{{ '<|im_start|> ' + m.role + ' ' + m.content + ' <|im_end|> <nl> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|> assistant ' }}{% endif %}"
)
TOKENS = [
    "<pad>",
    "<eos>",
    "<|im_start|>",
    "<|im_end|>",
    "<nl>",
    "user",
    "assistant",
    "what",
    "now",
    "one",
    "two",
    "<unk>",
]


@pytest.fixture
def tokenizer():
    """Words and a ChatML template, whose turn end is not EOS; <nl> is the line break after a turn."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(TOKENS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = CHATML
    return made


def classifier(size, **config):
    torch.manual_seed(1)
    shape = {"vocab_size": size, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.5}
    return GPT2ForSequenceClassification(GPT2Config(**shape, num_labels=1, **config)).eval()


def by_hand(model, *rows):
    """Scores of rows one by one, by the model's own forward: without padding it reads the last token that is no pad."""
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits.item() for row in rows]


ASKED = [{"role": "user", "content": "what now"}]
ASKED_IDS = [2, 5, 7, 8, 3, 4, 2, 6]  # <|im_start|> user what now <|im_end|> <nl> <|im_start|> assistant
ONE_TWO = [{"role": "assistant", "content": "one two"}]


@pytest.mark.parametrize(
    "sampled", [[9, 10, 3], [9, 10, 1], [9, 10, 0], [9, 10]], ids=["turn", "eos", "pad", "cut off"]
)
def test_an_answer_to_messages_ends_at_the_turn_end(tokenizer, sampled):
    model = classifier(12, pad_token_id=0)
    expected = by_hand(model, [*ASKED_IDS, 9, 10, 3])
    reward = as_reward_functions(model, None, None, tokenizer, True, "cpu", messages=True).parts
    [of_policy] = [part.function for part in reward.values()]
    given = {"prompt_ids": [ASKED_IDS], "completion_ids": [sampled], "finished": [False]}
    assert of_policy([ASKED], [ONE_TWO], **given) == pytest.approx(expected)
    assert of_policy([ASKED], [ONE_TWO], completion_ids=[sampled]) == pytest.approx(expected)  # as GRPO gives them
    own = ModelReward(model, tokenizer)
    assert own([ASKED], [ONE_TWO], **given | {"completion_ids": [[7, 7, 7]]}) == pytest.approx(expected)


def test_an_answer_that_was_cut_off_stays_open_where_append_eos_is_off(tokenizer):
    model = classifier(12, pad_token_id=0)
    ended, cut = by_hand(model, [*ASKED_IDS, 9, 10, 3], [*ASKED_IDS, 9, 10])
    for shared in (True, False):
        reward = ModelReward(model, tokenizer, shared=shared, append_eos=False)
        ids = {"prompt_ids": [ASKED_IDS] * 2, "completion_ids": [[9, 10, 3], [9, 10]], "finished": [True, False]}
        assert reward([ASKED] * 2, [ONE_TWO] * 2, **ids) == pytest.approx([ended, cut])


def test_an_unknown_word_at_the_end_is_part_of_the_answer(tokenizer):
    model = classifier(12, pad_token_id=0)
    reward = ModelReward(model, tokenizer, shared=True)
    score = reward(["what now"], ["one <unk>"], prompt_ids=[[7, 8]], completion_ids=[[9, 11]])
    assert score == pytest.approx(by_hand(model, [7, 8, 9, 11, 1]))


def test_a_text_ends_with_eos(tokenizer):
    model = classifier(12, pad_token_id=0)
    expected = by_hand(model, [7, 8, 9, 10, 1], [7, 9, 1])
    for shared in (True, False):
        reward = ModelReward(model, tokenizer, shared=shared)
        ids = {"prompt_ids": [[7, 8], [7]], "completion_ids": [[9, 10, 1], [9, 3]]}
        assert reward(["what now", "what"], ["one two", "one"], **ids) == pytest.approx(expected)


@pytest.mark.parametrize("pad", [1, 3], ids=["pad is eos", "pad is the turn end"])
def test_a_model_whose_pad_ends_answers_is_read_before_it(tokenizer, pad):
    """As transformers' forward reads it: the last token that is not pad."""
    model = classifier(12, pad_token_id=pad)
    rows = [[*ASKED_IDS, 9, 10, 3], [*ASKED_IDS, 9, 3]]
    answers = [ONE_TWO, [{"role": "assistant", "content": "one"}]]
    for shared in (True, False):
        reward = ModelReward(model, tokenizer, shared=shared)
        ids = {"prompt_ids": [ASKED_IDS] * 2, "completion_ids": [row[8:] for row in rows]}
        assert reward([ASKED] * 2, answers, **ids) == pytest.approx(by_hand(model, *rows))


@pytest.mark.real
@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_real_tokenizers(name):
    root = os.environ.get("RLHF_RECIPES_REAL_DATA")
    if not root:
        pytest.skip("RLHF_RECIPES_REAL_DATA is not set")
    tokenizer = AutoTokenizer.from_pretrained(Path(root) / "tokenizers" / name)
    model = classifier(len(tokenizer), pad_token_id=tokenizer.convert_tokens_to_ids("!"))
    reward = ModelReward(model, tokenizer)
    if name == "gpt2":  # as one text the two line breaks of prompt and answer would be one token, 628
        ids = [2061, 783, 30, 198, 198, 40313, 13, 50256]  # What| now|?|\n|\n|Paris|.|<|endoftext|>
        assert reward(["What now?\n"], ["\nParis."]) == pytest.approx(by_hand(model, ids))
        return
    prompt = [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hi"}]
    answer = [{"role": "assistant", "content": "Yes"}]
    turn, end, line = 151644, 151645, 198
    ids = [turn, 8948, line, 3430, 13, end, line, turn, 872, line, 13048, end, line, turn, 77091, line, 9454, end]
    assert reward([prompt], [answer]) == pytest.approx(by_hand(model, ids))
