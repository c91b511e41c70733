"""Where a prompt ends and its answer begins: trained ids = the prompt's ids at inference + the answer's + one end."""

import copy
import logging
import os
import random
import re
import unicodedata
from pathlib import Path

import pytest
import trl

from rlhf_recipes import data
from rlhf_recipes.data.examples import Limits, example, tokenise
from rlhf_recipes.data.formats.rows import Drop
from rlhf_recipes.data.templates import TABLE
from rlhf_recipes.engine.prompts import completion_ids, prompt_ids
from rlhf_recipes.engine.stops import turn_end
from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation.likelihood import encode_demo

# ---- tokenizers: two that are made here, three real ones ----

WORDS = "Review : a warm and funny film . Sentiment : positive negative The sofa , mostly . It is Paris . 2 + 2 = 4\n\n"


def byte_level():
    from rlhf_recipes.models.tokenizer import train_bpe

    return train_bpe([WORDS] * 9, vocab_size=420)


def sentence_piece(closes: bool = False):
    """Llama's kind: a space before the first word, bytes for what it does not know, BOS and, where asked, EOS."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(pieces)
    special = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    made.train_from_iterator([WORDS.replace("\n", "")] * 9, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if closes else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **names)


REAL = {"qwen2": "tokenizers/qwen2", "gpt2": "tokenizers/gpt2", "stories260K": "models/stories260K"}


def load(name: str):
    if name not in REAL:
        return byte_level() if name == "byte_level" else sentence_piece(closes=name == "adds_eos")
    from transformers import AutoTokenizer

    if "RLHF_RECIPES_REAL_DATA" not in os.environ:
        pytest.skip(f"RLHF_RECIPES_REAL_DATA is unset: no tokenizer of {name} here")
    return AutoTokenizer.from_pretrained(Path(os.environ["RLHF_RECIPES_REAL_DATA"]) / REAL[name])


# ---- rows that a boundary could break ----

PIECES = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    " \n",
    "\r\n",
    "苹果",
    "日本語。",
    "🎉",
    "👩‍👩‍👧",
    "7",
    "12345",
    "3.14",
    "...",
    "?!",
]
PIECES += [
    "(",
    '"',
    "'s",
    "the",
    " the",
    "Hello",
    "émigré",
    ":",
    "### Response:",
    "a\u0301",
    "\u200b",
    "_",
    "{x}",
    "<b>",
]
BUNDLED = ("qwen2_5", "qwen3", "qwen3_5_think", "llama3", "gemma", "gemma3", "phi3", "gptoss", "cohere", "glm4moe")


def text(draw: random.Random) -> str:
    return "".join(draw.choice(PIECES) for _ in range(draw.randrange(6)))


def rows_of(template: str, draw: random.Random, count: int) -> list[dict]:
    """`count` rendered demonstrations that the loader does not drop as empty."""
    rows = []
    while len(rows) < count:
        asked = text(draw)
        if template == "chat" and draw.random() < 0.3:
            turns = ("user", text(draw)), ("assistant", text(draw) + "."), ("user", asked + "?")
            asked = [{"role": role, "content": content} for role, content in turns]
        try:
            rows.append(example({"prompt": asked, "completion": text(draw)}, {}, "demos", template).row)
        except Drop:
            continue
    return rows


def spelled(ids: list[int], tokenizer) -> str:
    """The text of ids to the letter, the space that Llama's kind writes before it included."""
    if "▁" not in "".join(tokenizer.convert_ids_to_tokens(tokenizer("a b")["input_ids"])):
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    raw = b""
    for piece in tokenizer.convert_ids_to_tokens(ids):
        byte = re.fullmatch(r"<0x(..)>", piece)
        raw += bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
    return raw.decode(errors="replace")


def normal(words: str, name: str) -> str:
    """As the tokenizer reads it: Qwen's composes letters and their accents."""
    return unicodedata.normalize("NFC", words) if name == "qwen2" else words


def closer(words: str) -> str:
    """Without the space that Llama's kind writes behind special tokens."""
    return words.replace("|> ", "|>").replace("_turn> ", "_turn>")


def split(row, tokenizer) -> tuple[list[int], list[int]]:
    """(masked, trained) ids of a tokenised demonstration, which has no trained token before a masked one."""
    ids, mask = row.columns["input_ids"], row.columns["completion_mask"]
    start = mask.index(1)
    assert mask == [0] * start + [1] * (len(ids) - start)
    return ids[:start], ids[start:]


@pytest.mark.parametrize("name", ["byte_level", "sentence_piece", "adds_eos", *REAL])
def test_texts_are_trained_from_the_ids_that_inference_begins_from(name):
    """700 rows a template of ours: 2,100 a tokenizer."""
    tokenizer, draw = load(name), random.Random(1)
    eos = tokenizer.eos_token_id
    for template in TABLE:
        rows = rows_of(template, draw, 700)
        for row, made in zip(rows, tokenise(rows, "demos", tokenizer, Limits()), strict=True):
            masked, trained = split(made, tokenizer)
            own = tokenizer(row["prompt"])["input_ids"]
            assert masked == (own[:-1] if name == "adds_eos" else own)
            assert trained.count(eos) == 1 and trained[-1] == eos
            assert spelled(trained[:-1], tokenizer) == normal(row["completion"], name)
            assert encode_demo(tokenizer, row["prompt"], row["completion"]) == (masked, trained)
            if name in ("byte_level", "qwen2", "gpt2"):
                assert trained[:-1] == tokenizer(row["completion"])["input_ids"]


@pytest.mark.parametrize("name", ["byte_level", "sentence_piece", *REAL])
def test_dialogues_are_trained_from_the_ids_that_inference_begins_from(name):
    """150 rows for each of ten chat templates that TRL ships, 1,500 a tokenizer. An answer ends where its turn does."""
    folder = Path(trl.__file__).parent / "chat_templates"
    ends = set()
    for bundled in BUNDLED:
        tokenizer, draw = load(name), random.Random(2)
        tokenizer.chat_template = (folder / f"{bundled}.jinja").read_text(encoding="utf-8")
        marks = re.findall(r"<[|][^<>{}' ]+[|]>|<(?:start|end)_of_turn>", tokenizer.chat_template)
        tokenizer.add_special_tokens({"additional_special_tokens": list(dict.fromkeys(marks))})
        if tokenizer.bos_token is None:
            tokenizer.bos_token = tokenizer.eos_token
        end = turn_end(tokenizer) or tokenizer.eos_token_id
        ends.add(tokenizer.convert_ids_to_tokens(end))
        rows = rows_of("chat", draw, 150)
        for row, made in zip(rows, tokenise(rows, "demos", tokenizer, Limits()), strict=True):
            assert made.reason is None, (bundled, made.reason, made.detail)
            masked, trained = split(made, tokenizer)
            assert masked == tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
            assert masked == prompt_ids([row["prompt"]], tokenizer)[0]
            assert trained.count(end) == 1 and trained[-1] == end
            asked = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
            words = spelled(trained[:-1], tokenizer)
            assert words.endswith(normal(row["completion"][0]["content"].strip(), name))
            assert closer(normal(whole, name)).startswith(closer(normal(asked, name) + words))
    assert len(ends) > 4  # the templates are not all closed alike


def test_a_text_that_ends_with_eos_gets_no_second_one_and_an_empty_prompt_is_begun_by_the_answer():
    tokenizer = sentence_piece()
    [ids] = completion_ids(["It is"], [" Paris .</s>"], tokenizer)
    assert ids.count(2) == 1 and ids == completion_ids(["It is"], [" Paris ."], tokenizer)[0]
    assert encode_demo(byte_level(), "", "film")[0] == byte_level()("film")["input_ids"][:1]


def test_documents_of_a_tokenizer_that_closes_them_end_once(local, write):
    for tokenizer in (sentence_piece(), sentence_piece(closes=True)):
        rows = data.load(local(corpus={"path": write([{"text": "a warm film"}])}), "corpus", tokenizer=tokenizer).train
        assert rows[0]["input_ids"] == [1, *tokenizer("a warm film", add_special_tokens=False)["input_ids"], 2]


# ---- what the trainers train ----

PROMPT = "Review : a warm and funny film . Sentiment : "


@pytest.fixture(scope="module")
def tokenizer():
    made = byte_level()
    whole = made(f"{PROMPT}positive")["input_ids"]
    assert whole[: len(made(PROMPT)["input_ids"])] != made(PROMPT)["input_ids"]  # as one text they share a token
    return made


@pytest.fixture(scope="module")
def llama(tokenizer):
    from transformers import LlamaConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1, **sizes)


@pytest.fixture
def rows(local, write, tokenizer, caplog):
    """rows(kind, …) -> a split of four pairs whose prompts end with a space. TRL says nothing of a mismatch."""
    made = [{"prompt": PROMPT, "chosen": "positive", "rejected": "negative"}] * 4
    node = local(preferences={"path": write(made)})
    with caplog.at_level(logging.WARNING, "trl"):
        yield lambda kind, **how: data.load(node, kind, tokenizer=tokenizer, **how).train
    assert "Mismatch" not in caplog.text


def batch(kind, config, model, rows, tokenizer, tmp_path, **settings) -> dict:
    """The first rows as the trainer's model sees them."""
    reference = {"ref_model": copy.deepcopy(model)} if config in (trl.DPOConfig, trl.KTOConfig) else {}
    args = config(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, **settings)
    trainer = kind(model, args=args, train_dataset=rows, processing_class=tokenizer, **reference)
    return {name: value.tolist() for name, value in next(iter(trainer.get_train_dataloader())).items()}


@pytest.mark.parametrize("workers", [None, 2])
def test_sft_trains_the_first_token_of_an_answer(rows, llama, tokenizer, tmp_path, workers):
    from transformers import LlamaForCausalLM

    made = batch(
        *(trl.SFTTrainer, trl.SFTConfig, LlamaForCausalLM(llama), rows("demos"), tokenizer, tmp_path),
        dataset_num_proc=workers,
    )
    prompt, answer = tokenizer(PROMPT)["input_ids"], tokenizer("positive")["input_ids"]
    assert made["input_ids"][0] == [*prompt, *answer, tokenizer.eos_token_id]
    assert made["labels"][0] == [*[-100] * len(prompt), *answer, tokenizer.eos_token_id]


def test_sft_trains_whole_rows_where_asked_and_packs_the_same_ids(rows, llama, tokenizer, tmp_path):
    from transformers import LlamaForCausalLM

    sft = (trl.SFTTrainer, trl.SFTConfig, LlamaForCausalLM(llama), rows("demos"), tokenizer, tmp_path)
    one = [*tokenizer(PROMPT)["input_ids"], *tokenizer("positive")["input_ids"], tokenizer.eos_token_id]
    assert batch(*sft, completion_only_loss=False)["labels"][0] == one
    packed = batch(*sft, packing=True, packing_strategy="wrapped", max_length=2 * len(one))
    assert packed["input_ids"][0] == one * 2
    assert sum(label != -100 for label in packed["labels"][0]) == 2 * (1 + len(tokenizer("positive")["input_ids"]))


@pytest.mark.parametrize("settings", [{}, {"precompute_ref_log_probs": True}])
def test_dpo_compares_answers_that_differ(rows, llama, tokenizer, tmp_path, settings):
    from transformers import LlamaForCausalLM

    from rlhf_recipes.training.pairwise import DPOTrainer

    pairs = rows("preferences", max_length=99)
    made = batch(DPOTrainer, trl.DPOConfig, LlamaForCausalLM(llama), pairs, tokenizer, tmp_path, **settings)
    for side, answer in ((0, "positive"), (4, "negative")):
        trained = [t for t, on in zip(made["input_ids"][side], made["completion_mask"][side], strict=True) if on]
        assert trained == [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
    assert ("ref_chosen_logps" in made) == bool(settings)


def test_kto_pairs_each_prompt_with_the_answer_before_it(rows, llama, tokenizer, tmp_path):
    from transformers import LlamaForCausalLM

    from rlhf_recipes.training.pairwise import KTOTrainer

    kto = (KTOTrainer, trl.KTOConfig, LlamaForCausalLM(llama), rows("unpaired", max_length=99), tokenizer, tmp_path)
    made = batch(*kto, per_device_train_batch_size=4)

    def trained(row: int, prefix: str = "") -> list[int]:
        ids, mask = made[f"{prefix}input_ids"][row], made[f"{prefix}completion_mask"][row]
        return [token for token, on in zip(ids, mask, strict=True) if on]

    answers = [[*tokenizer(answer)["input_ids"], tokenizer.eos_token_id] for answer in ("positive", "negative")]
    assert [trained(0), trained(1)] == answers
    assert [trained(1, "KL_"), trained(0, "KL_")] == answers  # the row before, and for the first one the batch's last


def test_a_reward_is_read_from_the_ids_that_dpo_trains(rows, llama, tokenizer, tmp_path):
    from transformers import LlamaForSequenceClassification

    from rlhf_recipes.stages.reward import scored
    from rlhf_recipes.training.pairwise import RewardTrainer

    pairs, model = rows("preferences"), LlamaForSequenceClassification(llama)
    made = batch(RewardTrainer, trl.RewardConfig, model, pairs, tokenizer, tmp_path, dataset_num_proc=2)
    one = [*tokenizer(PROMPT)["input_ids"], *tokenizer("positive")["input_ids"], tokenizer.eos_token_id]
    assert made["input_ids"][0][: len(one)] == one
    import torch

    score = model(torch.tensor([one])).logits.item()
    assert scored(model, pairs)[0]["score_chosen"] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("kind", ["demos", "preferences"])
def test_rows_that_are_too_long_keep_their_end_where_asked(rows, kind):
    width = len(rows("demos")[0]["input_ids"]) - 3
    with pytest.raises(UserError, match="is left to train on"):
        rows(kind, max_length=width if kind == "preferences" else 3)
    assert len(rows(kind, max_length=3, keep_end=True)) == 4


# ---- templates whose prompt changes when an answer follows ----


def test_a_template_that_renders_another_prompt_once_an_answer_follows_is_named(local, write, tokenizer):
    """Mistral's shows the system prompt in the last turn, if that is the user's: it is gone once an answer follows."""
    mistral = copy.deepcopy(tokenizer)
    mistral.chat_template = (
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST] "
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
        "{{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    made = [{"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Stone."}] * 2
    node = local(template="chat", preferences={"path": write(made)})
    for kind in ("demos", "preferences", "unpaired"):
        assert len(data.load(node, kind, tokenizer=mistral).train)
        with pytest.raises(UserError, match=r"another prompt once its answer follows \(line 1, line 2: '.*Be a pirate"):
            data.load(node | {"system": "Be a pirate."}, kind, tokenizer=mistral)


def test_a_thought_that_only_the_generation_prompt_opens_is_refused(tokenizer):
    r1 = copy.deepcopy(tokenizer)
    r1.chat_template = (Path(trl.__file__).parent / "chat_templates" / "deepseekv3.jinja").read_text(encoding="utf-8")
    [made] = tokenise(
        [example({"prompt": "2 + 2?", "completion": "4"}, {}, "demos", "chat").row], "demos", r1, Limits()
    )
    assert "renders another prompt" in made.reason and "<think>" in made.detail


def test_the_line_break_after_a_turn_is_not_trained_and_eos_closes_a_template_that_closes_nothing(tokenizer):
    ours = copy.deepcopy(tokenizer)
    ours.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    turn, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "film"}
    for close, expected in (("<|im_end|>\n", "film<|im_end|>"), ("\n", f"film\n{tokenizer.eos_token}")):
        ours.chat_template = "{% for m in messages %}{{ m.role }}:{{ m.content }}" + repr(close)[1:-1].join(
            ("{{ '", "' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}")
        )
        assert ours.decode(completion_ids([[turn]], [[answer]], ours)[0]) == expected


def test_an_assistant_only_loss_that_would_change_nothing_is_refused():
    from omegaconf import OmegaConf

    from rlhf_recipes.stages.sft import check

    def settings(template: str, **trainer):
        return OmegaConf.create({"data": {"template": template}, "trainer": {"assistant_only_loss": True, **trainer}})

    check(settings("chat", completion_only_loss=False), None)
    for wrong in (settings("plain", completion_only_loss=False), settings("chat")):
        with pytest.raises(UserError, match="expected"):
            check(wrong, None)
