"""Held-out loss, entropy and accuracy of sft and pretrain are means over tokens, whatever the batch."""

import math

import pytest


@pytest.mark.parametrize("size", [1, 2, 4])
def test_held_out_metrics_do_not_depend_on_the_evaluations_batch_size(size, tmp_path):
    import torch
    from datasets import Dataset
    from transformers import GPT2Config, GPT2LMHeadModel
    from trl import SFTConfig

    from rlhf_recipes.models.tokenizer import train_bpe
    from rlhf_recipes.training.language import SFTTrainer

    torch.manual_seed(0)
    tokenizer = train_bpe(["the cat sat on the mat"] * 4, vocab_size=300)
    model = GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=len(tokenizer), initializer_range=1.0)
    ).eval()
    answers = [list(range(4, 4 + n)) for n in (1, 1, 20, 2, 1)]
    rows = [{"input_ids": [5, 6, *a], "labels": [-100, -100, *a]} for a in answers]
    losses, right = [], 0
    for row in rows:  # by hand, one row at a time
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0, 1:-1].log_softmax(-1)
        answer = torch.tensor(row["labels"][2:])
        losses += (-logits.gather(1, answer[:, None])).flatten().tolist()
        right += int((logits.argmax(-1) == answer).sum())
    args = SFTConfig(
        str(tmp_path), per_device_eval_batch_size=size, report_to=[], use_cpu=True, bf16=False, shuffle_dataset=False
    )
    data = Dataset.from_list(rows)
    trainer = SFTTrainer(model=model, args=args, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert math.exp(metrics["eval_loss"]) == pytest.approx(math.exp(sum(losses) / 25), rel=1e-4)
    assert trainer.state.log_history[-1]["eval_loss"] == metrics["eval_loss"]
    assert trainer.state.log_history[-1]["eval_mean_token_accuracy"] == pytest.approx(right / 25)
