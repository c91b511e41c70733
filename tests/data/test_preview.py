"""Rows as TRL's trainers see them: what is masked, where EOS stands."""

import pytest

from rlhf_recipes import data
from rlhf_recipes.data import preview

PROMPT = "What is the capital of France ?"


@pytest.fixture(scope="module")
def llama(tokenizer):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )


@pytest.fixture
def pairs(local, write):
    rows = [{"prompt": PROMPT, "chosen": " It is Paris .", "rejected": " What ?"}] * 2
    return local(preferences={"path": write(rows)})


def settings(cls, tmp_path, **more):
    return cls(output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, max_length=64, **more)


def shown(row, tokenizer) -> list[str]:
    """[what is masked, what is trained]"""
    pairs = list(zip(row["input_ids"], row["trained"], strict=True))
    return [tokenizer.decode([t for t, trained in pairs if trained is wanted]) for wanted in (False, True)]


def test_sft_trains_the_answer_and_eos_alone(pairs, llama, tokenizer, tmp_path):
    from transformers import LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = data.load(pairs, "demos", tokenizer=tokenizer, max_length=64)
    args = settings(SFTConfig, tmp_path)
    trainer = SFTTrainer(LlamaForCausalLM(llama), args, train_dataset=rows.train, processing_class=tokenizer)
    made = preview.rows_of(trainer, "demos", 5)
    assert len(made) == 2
    assert shown(made[0], tokenizer) == [PROMPT, f" It is Paris .{tokenizer.eos_token}"]


def test_a_rewards_score_is_read_at_eos_and_dpo_trains_both_answers(pairs, llama, tokenizer, tmp_path):
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification
    from trl import DPOConfig, RewardConfig

    from rlhf_recipes.training.pairwise import DPOTrainer, RewardTrainer

    rows = data.load(pairs, "preferences", tokenizer=tokenizer, max_length=64).train
    args, model = settings(RewardConfig, tmp_path), LlamaForSequenceClassification(llama)
    trainer = RewardTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
    chosen, rejected = preview.rows_of(trainer, "preferences", 1)
    assert chosen["title"] == "1 chosen (the score is read at the marked token)"
    assert shown(chosen, tokenizer) == [f"{PROMPT} It is Paris .", tokenizer.eos_token]
    assert shown(rejected, tokenizer) == [f"{PROMPT} What ?", tokenizer.eos_token]
    args, model = settings(DPOConfig, tmp_path), LlamaForCausalLM(llama)
    trainer = DPOTrainer(model, LlamaForCausalLM(llama), args, train_dataset=rows, processing_class=tokenizer)
    chosen, rejected = preview.rows_of(trainer, "preferences", 1)
    assert shown(rejected, tokenizer) == [PROMPT, f" What ?{tokenizer.eos_token}"]


def test_load_counts_what_trl_would_drop_and_cut(local, write, llama, tokenizer, tmp_path):
    """The trainer keeps as many rows as `load` says it will train, and cuts as many."""
    from transformers import LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": " answer" * i, "completion": " answer" * 20} for i in range(1, 71)]
    split = data.load(local(demos={"path": write(rows)}), "demos", tokenizer=tokenizer, max_length=64)
    trainer = SFTTrainer(
        LlamaForCausalLM(llama),
        settings(SFTConfig, tmp_path),
        train_dataset=split.train,
        processing_class=tokenizer,
    )
    whole = sum(ids[-1] == tokenizer.eos_token_id for ids in trainer.train_dataset["input_ids"])
    assert len(trainer.train_dataset) == len(split.train) == 63
    assert split.counts["cut"] == 63 - whole == 20


def test_prompts_end_where_generation_begins(local, write, tokenizer, chatty):
    node = local(prompts={"path": write([{"prompt": PROMPT}])})
    (row,) = preview.prompt_rows(data.load(node, "prompts").train, tokenizer, 3)
    assert shown(row, tokenizer) == [PROMPT, ""]
    turns = data.load(node | {"template": "chat"}, "prompts", tokenizer=chatty).train
    (row,) = preview.prompt_rows(turns, chatty, 3)
    assert shown(row, chatty) == [f"<user>{PROMPT}<assistant>", ""]


def printed(rows, tokenizer, n, **how) -> str:
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    preview.show(rows, tokenizer, n, Console(file=screen, width=100, **how))
    return screen.getvalue()


def test_show_marks_trained_tokens_lengths_and_eos(tokenizer):
    ids = tokenizer(f"What\n is Paris{tokenizer.eos_token}").input_ids
    trained = [False] * (len(ids) - 2) + [True, True]
    rows = [{"title": "demos 1", "input_ids": ids, "trained": trained}] * 3
    plain = printed(rows, tokenizer, 2)
    assert plain.count("demos 1") == 2
    assert f"{len(ids)} tokens, 2 trained, 1 EOS" in plain
    assert f"What↵\n is⟦ Paris{tokenizer.eos_token}⟧" in plain
    colours = printed(rows, tokenizer, 1, force_terminal=True)
    assert "⟦" not in colours
    assert "\x1b[1;32m Paris\x1b[0m" in colours and "\x1b[2m is\x1b[0m" in colours
    assert f"\x1b[1;37;41m{tokenizer.eos_token}\x1b[0m" in colours
