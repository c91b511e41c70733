"""PPO's engine draws what transformers' generate would, and stands back where it would not."""

import pytest
import torch
from trl import GRPOTrainer as TRLGRPOTrainer

from rlhf_recipes.engine.sequences import pad_left
from rlhf_recipes.grpo import generation


def length(prompts, completions, **columns):
    return [float(len(c)) for c in completions]


def asked(trainer):
    rows = ["Question 1:", "What is the opposite of hot?", "List two"]
    return trainer._tokenize_prompts(rows)[0]


def test_the_likeliest_answers_are_generates_own(trainer):
    made = trainer(length, max_completion_length=12)
    made.temperature = 1e-4  # the engine all but takes the likeliest token
    prompts = asked(made)
    made.generation_config.temperature = made.generation_kwargs["temperature"] = 1e-4
    assert generation.serves(made, made.model)
    theirs, _ = TRLGRPOTrainer._generate_single_turn(made, prompts, None, {})
    assert made._generate_single_turn(prompts, None, {}) == (theirs, None)


def test_an_answer_ends_with_the_end_token_and_not_before(trainer):
    made = trainer(length, max_completion_length=40)
    eos = made._tokenizer.eos_token_id
    with torch.no_grad():
        made.model.get_output_embeddings().weight[eos] *= 0
        made.model.get_output_embeddings().weight[eos] += made.model.get_output_embeddings().weight.mean(0)
    answers, _ = made._generate_single_turn(asked(made) * 40, None, {})
    ended = [a for a in answers if eos in a]
    assert ended and all(a.index(eos) == len(a) - 1 for a in ended)
    assert all(len(a) == 40 for a in answers if eos not in a)


def test_the_first_token_is_drawn_as_often_as_it_is_likely(trainer):
    made = trainer(length, max_completion_length=1, temperature=1.5, top_k=5)
    prompt = asked(made)[0]
    with torch.no_grad():
        logits = made.model(torch.tensor([prompt])).logits[0, -1] / 1.5
    top = logits.topk(5)
    drawn = torch.tensor(made._generate_single_turn([prompt] * 4000, None, {})[0]).squeeze(1)
    shares = torch.stack([(drawn == token).float().mean() for token in top.indices])
    torch.testing.assert_close(shares, top.values.softmax(0), atol=0.04, rtol=0)
    assert shares.sum() == 1


@pytest.mark.parametrize(
    "fields", [{"generation_kwargs": {"num_beams": 2}}, {"min_p": 0.1}, {"repetition_penalty": 1.2}]
)
def test_other_ways_to_generate_are_left_to_transformers(trainer, fields):
    made = trainer(length, **fields)
    assert not generation.serves(made, made.model)


def test_a_greedy_answer_and_an_adapted_model_are_left_to_transformers(trainer):
    from peft import LoraConfig, get_peft_model

    made = trainer(length)
    made.generation_config.do_sample = False
    assert not generation.serves(made, made.model)
    made.generation_config.do_sample = True
    assert generation.serves(made, made.model)
    assert not generation.serves(made, get_peft_model(made.model, LoraConfig(r=2, task_type="CAUSAL_LM")))


def test_log_probabilities_entropies_and_gradients_are_trls_own(trainer):
    made = trainer(length, temperature=0.8)
    prompts = asked(made)
    ids, mask = pad_left(prompts, made._tokenizer.pad_token_id)
    answers = torch.randint(5, 300, (3, 7))
    real = torch.arange(7) < torch.tensor([[7], [1], [4]])
    args = (torch.cat([ids, answers * real], 1), torch.cat([mask, real], 1).long(), 7)
    results = []
    for cls in (TRLGRPOTrainer, type(made)):
        made.model.zero_grad()
        logps, entropies, _ = cls._get_per_token_logps_and_entropies(made, made.model, *args, compute_entropy=True)
        (logps * real).sum().backward()
        grads = [p.grad.clone() for p in made.model.parameters()]
        results.append((logps.detach() * real, entropies * real, grads))
    torch.testing.assert_close(*results, atol=2e-5, rtol=1e-4)
    assert results[1][0][~real].eq(0).all()


def test_the_engine_is_what_reads_a_small_model(trainer, monkeypatch):
    made = trainer(length)
    monkeypatch.setattr(TRLGRPOTrainer, "_get_per_token_logps_and_entropies", None)
    ids = torch.tensor([asked(made)[0] * 2])
    logps, entropies, _ = made._get_per_token_logps_and_entropies(
        made.model, ids, torch.ones_like(ids), 3, batch_size=1
    )
    assert logps.shape == (1, 3) and entropies is None
