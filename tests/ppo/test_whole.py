"""Each setting of ours changes what it says, and nothing that it should not."""

import copy
import doctest
import json
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from tiny_world import count_w1, history
from transformers import TrainerCallback

from rlhf_recipes.errors import UserError
from rlhf_recipes.ppo import experience, plan
from rlhf_recipes.ppo import trainer as ppo_trainer
from rlhf_recipes.ppo.core import logprobs_from_logits
from rlhf_recipes.rewards import Part, RewardFunctions
from rlhf_recipes.rewards.model import ModelReward
from rlhf_recipes.runs import checkpoints
from rlhf_recipes.training.samples import SamplesFile

LORA = LoraConfig(r=2, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"])


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained(make, **config):
    trainer = make(**config)
    trainer.train()
    return trainer


def first(trainer, metric):
    return history(trainer, metric)[0]


# ---- invariances ----


@pytest.mark.parametrize(("joined", "forwards"), [(0, 8), (3, 3), (100, 1)])
def test_batch_of_eight_is_eight_batches_of_one(make, monkeypatch, joined, forwards):
    one = trained(make, per_device_train_batch_size=8, gradient_accumulation_steps=1, max_grad_norm=1.0)
    eight = make(per_device_train_batch_size=1, gradient_accumulation_steps=8, max_grad_norm=1.0)
    calls = []
    monkeypatch.setattr(plan, "JOINED_BYTES", joined * eight.plan.row_bytes(9))  # the longest rows here
    eight.actor_critic.register_forward_hook(lambda module, *_: calls.append(1) if module.training else None)
    eight.train()
    assert len(calls) == pytest.approx(2 * forwards, abs=1), "two epochs of one minibatch"
    torch.testing.assert_close(weights(one.actor_critic), weights(eight.actor_critic), atol=1e-5, rtol=1e-4)
    for metric in ("loss/policy_avg", "loss/value_avg", "policy/approxkl_avg", "val/ratio", "policy/entropy_avg"):
        assert first(one, metric) == pytest.approx(first(eight, metric), abs=1e-5), metric


def test_forwards_are_joined_alike_in_every_process(monkeypatch):
    monkeypatch.setattr(plan, "JOINED_BYTES", 4000)
    lengths = torch.randint(2, 60, (48,), generator=torch.Generator().manual_seed(0))
    sizes = {"batch_size": 48, "mini_batch_size": 24, "micro_batch_size": 2, "micro_batches": 6, "steps": 4}
    both = []
    for rank in range(2):
        one = plan.Plan(**sizes, updates=1, epochs=2, world=2, rank=rank, row_bytes=lambda n: 10 * n)
        both.append(list(one.forwards(lengths, torch.Generator().manual_seed(1))))
    assert len(both[0]) == 4 and torch.equal(torch.cat([m for m, _ in both[0][:2]]).sort().values, torch.arange(48))
    for (minibatch, mine), (same, others) in zip(*both, strict=True):
        assert torch.equal(minibatch, same) and len(mine) == len(others) < 6
        assert torch.equal(torch.cat(mine + others).sort().values, minibatch.sort().values)
        assert all(len(rows) == 2 or len(rows) * lengths[rows].max() * 10 <= 4000 for rows in mine + others)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_the_rollout_forward_batch_changes_nothing(make, size):
    one = trained(make, local_rollout_forward_batch_size=5)
    other = trained(make, local_rollout_forward_batch_size=size)
    torch.testing.assert_close(weights(one.actor_critic), weights(other.actor_critic), atol=1e-5, rtol=1e-4)


def test_left_padding_in_the_data_changes_nothing(make, prompts, tokenizer):
    ids = [tokenizer(p)["input_ids"] for p in prompts["prompt"]]
    plain = Dataset.from_dict({"input_ids": ids})
    padded = Dataset.from_dict(
        {"input_ids": [[0] * 7 + i for i in ids], "attention_mask": [[0] * 7 + [1] * len(i) for i in ids]}
    )
    assert torch.equal(*(weights(trained(make, data=d).actor_critic) for d in (plain, padded)))


def test_row_order_changes_nothing(make):
    """The same prompts with the same random numbers, in another order: each row says and earns what it did."""
    order = [5, 2, 7, 0, 6, 1, 3, 4]
    runs = []
    for reordered in (False, True):
        trainer = make(max_grad_norm=1.0, total_episodes=24, missing_eos_penalty=0.5)
        played, play = [], trainer._experience_of

        def other(rows, uniforms, play=play, played=played, reordered=reordered):
            places = order if reordered else range(8)
            exp, measured = play([rows[i] for i in places], uniforms[list(places)])
            played.append(exp)
            return exp, measured

        trainer._experience_of = other
        trainer.train()
        runs.append((trainer, played))
    (one, plain), (two, shuffled) = runs
    for a, b in zip(plain, shuffled, strict=True):
        assert torch.equal(a.sequences.completion_ids[order], b.sequences.completion_ids)
        for name in ("scores", "logprobs", "kl", "values", "rewards", "advantages", "returns"):
            torch.testing.assert_close(getattr(a, name)[order], getattr(b, name), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights(one.actor_critic), weights(two.actor_critic), atol=1e-5, rtol=0)
    for metric in ("loss/policy_avg", "loss/value_avg", "policy/entropy_avg", "objective/kl", "objective/scores"):
        assert history(one, metric) == pytest.approx(history(two, metric), abs=1e-5), metric


@pytest.mark.parametrize("adapter", [None, LORA])
@pytest.mark.parametrize("estimator", ["k1", "k3", "full"])
def test_before_any_step_ratio_is_one_and_kl_is_zero(make, adapter, estimator):
    trainer = trained(make, learning_rate=0.0, kl_estimator=estimator, trainer={"peft_config": adapter})
    assert first(trainer, "val/ratio") == pytest.approx(1.0, abs=1e-5)
    assert abs(first(trainer, "objective/kl")) < 1e-5 and first(trainer, "policy/approxkl_avg") < 1e-10


def test_what_was_sampled_is_what_the_ratio_is_computed_under(make, models):
    """The engine's log-probabilities, with temperature, against the model's own logits."""
    trainer = make(temperature=0.6)
    rows = trainer.prompts.rows(0)
    exp, _ = _play(trainer, rows)
    for row in range(8):
        prompt = exp.sequences.prompt_ids[row][exp.sequences.prompt_mask[row]]
        answer = exp.sequences.completion_ids[row][exp.sequences.mask[row]]
        logits = models["policy"](torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1] / 0.6
        want = logprobs_from_logits(logits, answer)
        torch.testing.assert_close(exp.logprobs[row][: len(answer)], want, atol=1e-5, rtol=1e-4)


def _play(trainer, rows):
    uniforms = torch.rand(8, trainer.args.response_length, generator=torch.Generator().manual_seed(0))
    return trainer._experience_of(rows, uniforms)


# ---- KL ----


def test_full_kl_is_what_k1_estimates(make, models):
    ref = copy.deepcopy(models["policy"])
    with torch.no_grad():
        for p in ref.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    means = {}
    for kind in ("full", "k1"):
        trainer = make(kl_estimator=kind, trainer={"ref_model": copy.deepcopy(ref)}, per_device_train_batch_size=512)
        uniforms = torch.rand(512, 6, generator=torch.Generator().manual_seed(0))
        exp, _ = trainer._experience_of(trainer.prompts.rows(0), uniforms)
        means[kind] = exp.kl.sum(1).mean().item()
        assert kind == "k1" or exp.kl.min() >= -1e-6
    assert means["full"] == pytest.approx(means["k1"], rel=0.25) and means["full"] > 0.01


def test_target_kl_stops_the_epochs_of_an_update(make):
    config = {"num_ppo_epochs": 5, "num_mini_batches": 2, "learning_rate": 0.01, "total_episodes": 16}
    free, held = trained(make, **config), trained(make, target_kl=1e-4, **config)
    assert history(free, "ppo/optimizer_steps") == [10, 10]
    assert history(held, "ppo/optimizer_steps") == [2, 2], "the first epoch already moved further than that"
    assert not torch.equal(weights(free.actor_critic), weights(held.actor_critic))
    assert held.state.global_step == 20 and first(held, "policy/grad_norm") > 0


# ---- rewards ----


def test_weights_none_and_names(make):
    def maybe(prompts, completions, **kwargs):
        return [None if i % 2 else 4.0 for i in range(len(prompts))]

    trainer = trained(make, reward={"words": count_w1, "maybe": maybe}, reward_weights=[2.0, 0.5])
    words = first(trainer, "reward/words")
    assert first(trainer, "reward/maybe") == 4.0
    assert first(trainer, "objective/scores") == pytest.approx(2 * words + 0.5 * 2.0, abs=1e-5)
    with pytest.raises(UserError, match="reward_weights"):
        make(reward=[count_w1], reward_weights=[1.0, 2.0])


def test_scores_on_a_scale():
    assert doctest.testmod(experience).failed == 0
    running = experience.ScoreScale("running")
    running([1.0, 3.0, float("nan")])
    assert running([5.0, 7.0])[0] == pytest.approx((5 - 4) / 5**0.5)  # 1, 3, 5, 7: mean 4, variance 5
    assert experience.ScoreScale("running")([2.0, 2.0]) == [0.0, 0.0]


def test_reference_scale_clip_and_length_penalty(make):
    trainer = trained(make, reward_normalize="reference", total_episodes=16)
    assert first(trainer, "objective/scores") == pytest.approx(0.0, abs=1e-5)
    assert first(trainer, "objective/scores_std") == pytest.approx(1.0, abs=1e-4)
    assert first(trainer, "objective/raw_scores") == pytest.approx(first(trainer, "reward/count_w1"), abs=1e-5)
    assert trainer.scale.count == 8, "later rollouts do not move it"
    plain = trained(make)
    short = trained(make, length_penalty=0.5)
    taken = first(plain, "objective/scores") - first(short, "objective/scores")
    assert taken == pytest.approx(0.5 * first(plain, "completions/mean_length"), abs=1e-4)
    assert abs(first(trained(make, reward_clip=0.01), "objective/scores")) <= 0.01


def test_combined_reward_functions_are_taken_as_they_are(make):
    def one(prompts, completions, **columns):
        trls = {"completion_ids", "trainer_state", "log_metric", "log_extra"}
        assert set(columns) == {"answer", "prompt_ids", "finished", *trls}
        return [1.0] * len(prompts)

    def never(prompts):
        return [None] * len(prompts)

    trainer = trained(make, reward=RewardFunctions({"a": Part(one, 2.0), "b": never}))
    assert first(trainer, "objective/scores") == 2.0 and first(trainer, "reward/a") == 1.0


def test_a_reward_model_with_another_tokenizer_reads_text(make, models, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["extra"])
    models["reward"].resize_token_embeddings(len(other), mean_resizing=False)
    from_ids = ModelReward(models["reward"], tokenizer, shared=True)
    from_text = ModelReward(models["reward"], other)
    ids = {"prompt_ids": [[4, 5], [6]], "completion_ids": [[7, 2], [8, 9]]}
    texts = (["w0 w1", "w2"], [" w3", " w4 w5"])
    assert from_text(*texts) == pytest.approx(from_ids(*texts, **ids), abs=1e-6)
    trainer = trained(make, reward=models["reward"], trainer={"reward_processing_classes": other})
    assert trainer.rewards.parts["LlamaForSequenceClassification"].function.tokenizer is other


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the defaults of a machine without an accelerator")
def test_a_script_on_a_cpu_needs_no_setting_for_it(tmp_path):
    from rlhf_recipes.ppo import PPOConfig

    args = PPOConfig(output_dir=str(tmp_path))
    assert (args.use_cpu, args.bf16) == (True, False)
    assert PPOConfig(output_dir=str(tmp_path), bf16=True).bf16


def test_a_classifier_says_which_label_is_the_reward(tokenizer):
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=44, dim=16, hidden_dim=16, n_layers=1, n_heads=2, pad_token_id=0)
    config.id2label = {0: "NEGATIVE", 1: "POSITIVE"}
    model = DistilBertForSequenceClassification(config)
    with pytest.raises(UserError, match="2 labels"):
        ModelReward(model, tokenizer)
    with pytest.raises(UserError, match="no label"):
        ModelReward(model, tokenizer, label="GOOD")
    scores = ModelReward(model, tokenizer, label="POSITIVE")(["w1", "w2 w3"], [" w4", " w5"])
    logits = model(input_ids=torch.tensor([[5, 8, 2]])).logits[0]
    assert scores[0] == pytest.approx(logits[1].item(), abs=1e-5)


def test_messages_go_through_the_chat_template(make, tokenizer):
    talking = copy.deepcopy(tokenizer)
    talking.chat_template = (
        "{% for m in messages %}{{ m['role'][:0] }}{{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}w9{% endif %}"
    )
    seen = []

    def reward(prompts, completions, **kwargs):
        seen.append((prompts[0], completions[0]))
        return [0.0] * len(prompts)

    data = Dataset.from_dict({"prompt": [[{"role": "user", "content": "w3 w4"}]] * 8})
    trainer = trained(make, tokenizer=talking, data=data, reward=reward)
    assert seen[0][0] == [{"role": "user", "content": "w3 w4"}] and seen[0][1][0]["role"] == "assistant"
    exp, _ = _play(trainer, trainer.prompts.rows(0))
    assert exp.sequences.prompt_ids[0].tolist()[-3:] == [7, 8, 13]


# ---- objective ----


def test_entropy_bonus_raises_entropy(make):
    config = {"num_ppo_epochs": 8, "learning_rate": 3e-3, "total_episodes": 24}
    plain, spread = (trained(make, entropy_coef=c, **config) for c in (0.0, 1.0))
    assert history(spread, "policy/entropy_avg")[-1] > history(plain, "policy/entropy_avg")[-1] + 0.05


@pytest.mark.parametrize("config", [{"vf_coef": 0.5}, {"cliprange_value": 0.001}, {"cliprange": 0.001}, {"lam": 0.5}])
def test_trls_coefficients_are_read(make, config):
    assert not torch.equal(weights(trained(make).actor_critic), weights(trained(make, **config).actor_critic))


def test_actor_and_critic_have_their_own_rates(make, models):
    still = trained(make, learning_rate=0.0, value_learning_rate=0.01).actor_critic
    assert torch.equal(weights(still.policy), weights(models["policy"]))
    assert not torch.equal(weights(still.value_model), weights(models["value"]))
    other = trained(make, learning_rate=0.01, value_learning_rate=0.0).actor_critic
    assert torch.equal(weights(other.value_model), weights(models["value"]))
    assert not torch.equal(weights(other.policy), weights(models["policy"]))


@pytest.mark.parametrize("critic", [None, 0.01])
def test_adams_epsilon_and_the_decay_reach_the_optimizer(make, critic):
    config = {"adam_epsilon": 1e-3, "adam_beta2": 0.95, "weight_decay": 0.25, "value_learning_rate": critic}
    trainer = trained(make, **config)
    groups = trainer.optimizer.param_groups
    assert {(g["eps"], g["betas"]) for g in groups} == {(1e-3, (0.9, 0.95))}
    rates = {id(p): (g["weight_decay"], g["lr"]) for g in groups for p in g["params"]}
    for name, p in trainer.actor_critic.named_parameters():
        own = 1e-3 if critic is None or name.startswith("policy.") else critic
        assert rates[id(p)] == (0.0 if "norm" in name else 0.25, own), name
    plain = trained(make, **config | {"adam_epsilon": 1e-8})
    assert not torch.equal(weights(plain.actor_critic), weights(trainer.actor_critic))


@pytest.mark.parametrize("shared", [False, True])
def test_critic_only_updates_first(make, models, shared):
    more = {"value_model": None} if shared else {}
    config = {"trainer": more, "total_episodes": 16}
    early = trained(make, value_warmup_updates=2, weight_decay=0.1, **config)
    assert torch.equal(weights(early.actor_critic.policy), weights(models["policy"]))
    assert first(early, "loss/value_avg") > 0 and not history(early, "loss/policy_avg")
    later = trained(make, value_warmup_updates=1, **config)
    assert not torch.equal(weights(later.actor_critic.policy), weights(models["policy"]))


def test_a_value_head_on_the_shared_backbone_learns(make):
    trainer = trained(make, trainer={"value_model": None}, total_episodes=80, learning_rate=0.01)
    losses = history(trainer, "loss/value_avg")
    assert losses[-1] < losses[0] and trainer.actor_critic.value_head.weight.abs().sum() > 0


def test_the_pretraining_mix_is_a_language_model_loss(make, models):
    corpus = Dataset.from_dict({"text": ["w1 w2 w3 w4", "w5 w6", "w7 w8 w9"]})
    trainer = make(ptx_coef=1.0, trainer={"ptx_dataset": corpus})
    ids = torch.tensor([[4, 5, 6, 7], [8, 9, -1, -1]])
    got = trainer.actor_critic(_one_sequence(), 1, None, 0.0, ids)["corpus_loss"].item()
    labels = ids.masked_fill(ids < 0, -100)
    out = models["policy"](ids.clamp(min=0), attention_mask=(ids >= 0).long(), labels=labels)
    assert got == pytest.approx(out.loss.item() * 4, rel=1e-4)  # four tokens have one before them
    config = {"total_episodes": 80, "learning_rate": 3e-3}
    mixed = trained(make, ptx_coef=5.0, trainer={"ptx_dataset": corpus}, **config)
    plain = trained(make, **config)
    lm = [t.actor_critic(_one_sequence(), 1, None, 0.0, ids)["corpus_loss"].item() for t in (mixed, plain)]
    assert lm[0] < lm[1] - 1 and lm[0] < got
    with pytest.raises(UserError, match="ptx_dataset"):
        make(ptx_coef=1.0)


def test_the_corpus_is_cut_at_the_context(make):
    corpus = Dataset.from_dict({"text": [" ".join(["w1"] * 200), "w2 w3"]})
    trainer = make(ptx_coef=1.0, trainer={"ptx_dataset": corpus})
    assert sorted(len(row["input_ids"]) for row in trainer.ptx.stream.dataset) == [2, 64]


def _one_sequence():
    from rlhf_recipes.engine.sequences import Sequences

    one = torch.ones(1, 1, dtype=torch.bool)
    return Sequences(torch.tensor([[4]]), one, torch.tensor([[5]]), one)


def test_the_rate_moves_once_an_update(make):
    trainer = trained(make, lr_scheduler_type="linear", total_episodes=32, num_mini_batches=2, warmup_steps=1)
    assert history(trainer, "lr") == pytest.approx([0.0, 1e-3, 2e-3 / 3, 1e-3 / 3])


def test_steps_count_updates(make):
    trainer = make(total_episodes=80, num_mini_batches=4, save_strategy="steps", save_steps=0.25, logging_steps=2)
    assert (trainer.args.max_steps, trainer.args.save_steps, trainer.args.logging_steps) == (80, 24, 16)
    trainer = trained(make, max_steps=4, logging_steps=2)
    assert history(trainer, "episode") == [16, 32]


@pytest.mark.parametrize("logging", [{"logging_steps": 3}, {"logging_strategy": "no"}])
def test_callbacks_hear_of_every_update_whatever_is_logged(make, logging):
    class Hears(TrainerCallback):
        def __init__(self):
            self.updates = []

        def on_update(self, args, state, control, metrics, **kwargs):
            self.updates.append(metrics)

    hears = Hears()
    make(total_episodes=32, trainer={"callbacks": [hears]}, **logging).train()
    assert [metrics["episode"] for metrics in hears.updates] == [8, 16, 24, 32]
    assert all({"objective/kl", "objective/scores", "loss/policy_avg"} <= set(metrics) for metrics in hears.updates)


def test_instructgpts_table_fits_the_config(make, prompts):
    trainer = make(
        per_device_train_batch_size=16,
        gradient_accumulation_steps=32,
        num_mini_batches=8,
        num_ppo_epochs=4,
        learning_rate=1.5e-5,
        value_learning_rate=5e-6,
        total_episodes=1024,
        max_grad_norm=1.0,
        kl_coef=0.02,
    )
    plan = trainer.plan
    assert (plan.batch_size, plan.mini_batch_size, plan.steps, plan.updates) == (512, 64, 32, 2)
    assert (plan.micro_batch_size, plan.micro_batches) == (16, 4)
    with pytest.raises(UserError, match="does not divide"):
        make(num_mini_batches=3)


# ---- generation ----


def lengths(trainer):
    exp, _ = _play(trainer, trainer.prompts.rows(0))
    return exp


def test_min_length_holds_and_keeps_the_ratio(make):
    trainer = make(min_length=4, learning_rate=0.0)
    assert lengths(trainer).lengths.min() >= 5 > lengths(make()).lengths.min()
    trainer.train()
    assert first(trainer, "val/ratio") == pytest.approx(1.0, abs=1e-5)


def test_top_k_one_is_greedy_and_top_p_narrows(make):
    greedy = lengths(make(top_k=1)).sequences
    assert torch.equal(greedy.completion_ids, lengths(make(top_p=1e-9)).sequences.completion_ids)
    assert not torch.equal(greedy.completion_ids, lengths(make()).sequences.completion_ids)


@pytest.mark.parametrize("cut", [{"top_k": 3}, {"top_p": 0.6}, {"top_k": 9, "top_p": 0.8, "min_length": 3}])
@pytest.mark.parametrize("estimator", ["k1", "full"])
def test_a_cut_tail_is_cut_in_the_ratio_and_in_the_kl_too(make, models, cut, estimator):
    """The probabilities of what is kept sum to 1: against the model's own logits, and at rate 0 nothing moves."""
    trainer = make(learning_rate=0.0, kl_estimator=estimator, entropy_coef=0.1, **cut)
    exp = lengths(trainer)
    kept = exp.sequences.kept
    assert (kept.counts > 0).equal(exp.mask) and int(kept.counts.sum()) == len(kept.ids)
    row = int(exp.lengths.argmax())
    answer = exp.sequences.completion_ids[row, : exp.lengths[row]]
    prompt = exp.sequences.prompt_ids[row][exp.sequences.prompt_mask[row]]
    logits = models["policy"](torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1] / 0.7
    logits[: cut.get("min_length", 0), 2] = -torch.inf
    sets = kept[[row]].ids.split(kept.counts[row, : len(answer)].tolist())
    for z, ids, token, logp in zip(logits, sets, answer, exp.logprobs[row], strict=False):
        likely = z.topk(cut.get("top_k", 44)).values.softmax(-1)
        size = min(len(likely), 1 + int((likely.cumsum(-1) < cut.get("top_p", 2)).sum()))
        assert token in ids and set(ids.tolist()) == set(z.topk(size).indices.tolist())
        torch.testing.assert_close(logp, z[token] - z[ids].logsumexp(-1), atol=1e-5, rtol=1e-4)
    trainer.train()
    assert first(trainer, "val/ratio") == pytest.approx(1.0, abs=1e-5)
    assert first(trainer, "policy/approxkl_avg") < 1e-10 and abs(first(trainer, "objective/kl")) < 1e-5


def test_a_cut_tail_trains_alike_in_any_batch(make):
    cut = {"top_k": 5, "top_p": 0.9, "max_grad_norm": 1.0}
    one = trained(make, per_device_train_batch_size=8, local_rollout_forward_batch_size=8, **cut)
    many = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "local_rollout_forward_batch_size": 3}
    torch.testing.assert_close(
        weights(one.actor_critic), weights(trained(make, **many, **cut).actor_critic), atol=1e-5, rtol=1e-4
    )
    whole = trained(make, max_grad_norm=1.0)
    assert not torch.allclose(weights(one.actor_critic), weights(whole.actor_critic), atol=1e-5)


def test_a_stop_string_ends_an_answer(make):
    plain = lengths(make(stop_token=None))
    word = 10
    exp = lengths(make(stop_token=None, stop_strings=["w6"]))
    ends = (plain.sequences.completion_ids == word).any(1)
    assert ends.any() and torch.equal(exp.finished, ends)
    last = exp.sequences.completion_ids[ends].gather(1, exp.lengths[ends][:, None] - 1)
    assert (last == word).all()


def test_without_a_stop_token_answers_fill_the_length(make):
    exp = lengths(make(stop_token=None))
    assert exp.lengths.tolist() == [6] * 8 and not exp.finished.any()


# ---- models ----


def test_lora_trains_the_adapter_alone_and_is_saved_alone(make, models, tmp_path):
    lora = LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["q_proj"])  # and PEFT saves the head: `score`
    more = {"peft_config": LORA, "value_peft_config": lora}
    trainer = trained(make, trainer=more, total_episodes=16, learning_rate=0.01)
    critic, before = trainer.actor_critic.value_model, models["value"].state_dict()
    base = {n: p for n, p in critic.named_parameters() if "lora_" not in n and "modules_to_save" not in n}
    assert len(base) == len(before) and not any(p.requires_grad for p in base.values())
    for name, p in base.items():
        name = name.removeprefix("base_model.model.").replace("base_layer.", "").replace("original_module.", "")
        assert torch.equal(p, before[name]), name
    learned = {n: p for n, p in critic.named_parameters() if "lora_B" in n or "modules_to_save" in n}
    assert len(learned) == 3 and all(p.requires_grad for p in learned.values())
    assert all(p.abs().sum() > 0 for p in learned.values()), "B begins at 0"
    head = next(p for n, p in learned.items() if "modules_to_save" in n)
    assert not torch.equal(head, before["score.weight"])
    assert trainer.ref_model is None and abs(history(trainer, "objective/kl")[1]) > 1e-6
    base = trainer.actor_critic.policy.get_base_model().model.embed_tokens.weight
    assert torch.equal(base, models["policy"].model.embed_tokens.weight)
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()


def test_tied_embeddings_and_other_heads(make, models):
    """GPT-2 ties its head, a soft cap makes the head more than a matrix, OPT calls dropout as a function: all train,
    with the same arithmetic."""
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        OPTConfig,
        OPTForCausalLM,
    )

    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=44, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2))
    shape = {"vocab_size": 44, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    capped = Gemma2ForCausalLM(
        Gemma2Config(**shape, num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=2.0)
    )
    wide = {"vocab_size": 44, "hidden_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 1}
    opt = OPTForCausalLM(OPTConfig(**wide, num_attention_heads=2, dropout=0.3, attention_dropout=0.3))
    for model, linear in ((gpt2, True), (capped, False), (opt, True)):
        for more in ({}, {"value_model": None}):
            trainer = trained(make, model=copy.deepcopy(model), trainer=more, learning_rate=0.0, kl_estimator="full")
            assert trainer.actor_critic.linear_head is linear
            assert first(trainer, "val/ratio") == pytest.approx(1.0, abs=1e-4)
            assert abs(first(trainer, "objective/kl")) < 1e-4


def test_activation_checkpointing_changes_memory_not_results(make):
    one, other = trained(make), trained(make, activation_checkpointing=True)
    torch.testing.assert_close(weights(one.actor_critic), weights(other.actor_critic), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["k1", "full"])
def test_a_policy_with_bfloat16_weights(make, models, estimator):
    narrow = models["policy"].to(torch.bfloat16)
    still = trained(make, model=copy.deepcopy(narrow), learning_rate=0.0, kl_estimator=estimator)
    assert first(still, "val/ratio") == pytest.approx(1.0, abs=1e-5) and first(still, "policy/approxkl_avg") < 1e-10
    assert abs(first(still, "objective/kl")) < 1e-5
    config = {"learning_rate": 0.01, "kl_estimator": estimator, "max_grad_norm": 1.0}
    moved = trained(make, model=copy.deepcopy(narrow), **config)
    assert {p.dtype for p in moved.actor_critic.policy.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in moved.actor_critic.value_model.parameters()} == {torch.float32}
    after = weights(moved.actor_critic.policy)
    assert after.isfinite().all() and not torch.equal(after, weights(narrow))


# ---- guards ----


@pytest.mark.parametrize(
    "config",
    [
        {"temperature": 0},
        {"num_ppo_epochs": 0},
        {"top_p": 0},
        {"min_length": 9},
        {"kl_estimator": "k4"},
        {"stop_token": "x"},
    ],
)
def test_settings_that_make_no_sense_are_refused(make, config):
    with pytest.raises(UserError):
        make(**config)


def test_a_nan_score_names_its_row(make):
    def reward(prompts, completions, **kwargs):
        return [float("nan")] + [1.0] * (len(prompts) - 1)

    with pytest.raises(UserError, match=r"reward 'reward' returned nan.*sample 0: prompt 'w"):
        trained(make, reward=reward)
    trainer = trained(make, reward=reward, on_nonfinite="skip")
    assert first(trainer, "objective/scores") == 1.0 and weights(trainer.actor_critic).isfinite().all()


class Poison(TrainerCallback):
    """A gradient that is not finite, in the second optimizer step."""

    def __init__(self):
        self.model = None

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == 1:
            parameter = model.policy.model.layers[0].mlp.up_proj.weight
            parameter.register_hook(lambda g: g * float("nan"))


def test_a_nan_gradient_stops_before_the_weights(make):
    config = {"trainer": {"callbacks": [Poison()]}, "num_mini_batches": 2, "max_grad_norm": 1.0}
    trainer = make(**config)
    with pytest.raises(UserError, match=r"gradient norm is nan on rows \[(\d, ){3}\d\] \(first: .*w\d"):
        trainer.train()
    assert weights(trainer.actor_critic).isfinite().all() and trainer.state.global_step == 1
    skipping = trained(make, on_nonfinite="skip", **config)
    assert weights(skipping.actor_critic).isfinite().all() and skipping.state.global_step == 4


def test_a_loss_that_is_not_finite_names_its_rows(make, monkeypatch):
    plain = ppo_trainer.ppo_loss

    def infinite(model, exp, batch, *rest):
        loss, out, terms = plain(model, exp, batch, *rest)
        return (loss * float("inf") if batch.step == 1 else loss), out, terms

    monkeypatch.setattr(ppo_trainer, "ppo_loss", infinite)
    trainer = make(num_mini_batches=2)
    with pytest.raises(UserError, match=r"step 1: the loss is (inf|-inf|nan) on rows \[(\d, ){3}\d\] \(first: .*w\d"):
        trainer.train()
    assert weights(trainer.actor_critic).isfinite().all() and trainer.state.global_step == 1


@pytest.mark.parametrize(("bad", "no_score"), [({3}, math.nan), ({3}, None), (set(range(8)), None)])
def test_an_answer_without_a_score_teaches_nothing(make, monkeypatch, bad, no_score):
    """Neither by its loss, nor by the entropy bonus, nor by the whitening: the same weights whatever it says."""

    def score(prompts, completions, **columns):
        return [no_score if i in bad else float(len(c)) for i, c in enumerate(completions)]

    def after(spoil):
        plain = ppo_trainer.make_experience

        def spoiled(played, args):
            rows = sorted(bad)
            if spoil:
                played.sequences.completion_ids[rows] = 7
                played.kl[rows] += 5.0
                played.values[rows] -= 3.0
            return plain(played, args)

        monkeypatch.setattr(ppo_trainer, "make_experience", spoiled)
        skip = "stop" if no_score is None else "skip"
        config = {"on_nonfinite": skip, "entropy_coef": 0.5, "num_mini_batches": 2, "whiten_rewards": True}
        trainer = make(reward=score, **config)
        trainer.train()
        monkeypatch.setattr(ppo_trainer, "make_experience", plain)
        return trainer

    one, other = after(False), after(True)
    assert torch.equal(weights(one.actor_critic), weights(other.actor_critic))
    moved = not torch.equal(weights(one.actor_critic.policy), weights(make().actor_critic.policy))
    assert moved is (len(bad) == 1)
    assert first(one, "objective/left_out") == len(bad)
    if len(bad) == 1:
        assert first(one, "objective/kl") == first(other, "objective/kl")


def test_what_reward_functions_log_is_found_as_in_grpo(make, prompts):
    """TRL's log_metric among the metrics of an update, its log_extra in the tables of held-out answers."""
    steps = []

    async def reward(prompts, completions, completion_ids, trainer_state, log_metric, log_extra, **columns):
        steps.append(trainer_state.global_step)
        tokens = [float(len(ids)) for ids in completion_ids]
        log_metric("mine/mean_tokens", sum(tokens) / len(tokens))
        log_extra("mine_tokens", tokens)
        return tokens

    trainer = trained(make, reward=reward, total_episodes=16, trainer={"eval_dataset": prompts.select(range(4))})
    assert steps[:1] + steps[-1:] == [0, trainer.plan.steps], "the state of the trainer, at each of two rollouts"
    assert history(trainer, "mine/mean_tokens") == history(trainer, "completions/mean_length")
    assert all(row["mine_tokens"] == row["length"] for row in trainer.generate_completions())
    assert "eval_mine_tokens" not in trainer.evaluate()


def test_a_checkpoint_with_the_former_name_of_the_rewards_resumes(make, tmp_path):
    class Counting:
        calls = 0

        def __call__(self, prompts, completions, **columns):
            self.calls += 1
            return [1.0] * len(completions)

        def state_dict(self):
            return {"calls": self.calls}

        def load_state_dict(self, state):
            self.calls = state["calls"]

    trained(make, reward=Counting(), output_dir=str(tmp_path), total_episodes=16, save_strategy="steps", save_steps=1)
    folder = sorted(tmp_path.glob("checkpoint-*"))[0]
    state = torch.load(folder / checkpoints.STATE_FILE, weights_only=True)
    state["signal"] = {name: {"calls": 40} for name in state.pop("rewards")}
    torch.save(state, folder / checkpoints.STATE_FILE)
    again = Counting()
    make(reward=again, output_dir=str(tmp_path), total_episodes=16)._load_ppo_state(folder)
    assert again.calls == 40


# ---- learning ----


def test_it_learns_to_say_the_rewarded_word(make):
    config = {"total_episodes": 16 * 25, "per_device_train_batch_size": 16, "num_ppo_epochs": 4, "kl_coef": 0.0}
    trainer = trained(make, learning_rate=0.01, num_mini_batches=2, max_grad_norm=1.0, **config)
    scores = history(trainer, "objective/scores")
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 1.5, scores


# ---- watching ----


def test_every_update_is_one_line_with_all_names(make):
    trainer = trained(make, total_episodes=24)
    names = ["eps", "objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward"]
    names += ["objective/scores", "policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg", "loss/value_avg"]
    names += ["val/clipfrac_avg", "policy/entropy_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens", "lr"]
    names += ["episode", "objective/kl_coef", "val/explained_variance", "policy/grad_norm", "completions/mean_length"]
    names += ["completions/eos_rate", "time/rollout", "time/score", "time/optimise", "tokens_per_second"]
    rows = [row for row in trainer.state.log_history if "episode" in row]
    assert len(rows) == 3 and all(name in row for row in rows for name in names)
    assert [row["epoch"] for row in rows] == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_averages_are_over_tokens(make, monkeypatch):
    """Every statistic of the steps, against the policy's and the critic's own forwards on one row at a time."""
    monkeypatch.setattr(plan, "JOINED_BYTES", 0)
    ragged = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4, "num_mini_batches": 2}
    trainer = make(**ragged, total_episodes=12, learning_rate=0.01, cliprange=0.1, cliprange_value=0.1)
    steps = {}
    plain = ppo_trainer.ppo_loss

    def record(model, exp, batch, *rest):
        for row in batch.rows.tolist():
            tokens, values = steps.setdefault(batch.step, ([], []))
            with torch.no_grad():
                tokens.extend(token_statistics(trainer, exp, row))
                values.extend(value_statistics(trainer, exp, row))
        return plain(model, exp, batch, *rest)

    monkeypatch.setattr(ppo_trainer, "ppo_loss", record)
    trainer.train()
    sizes = [len(tokens) for tokens, _ in steps.values()]
    assert sorted(steps) == [0, 1, 2, 3] and len(set(sizes)) > 1, "steps of unlike size, or weights do not matter"
    names = (("policy/approxkl_avg", "val/ratio", "policy/clipfrac_avg", "loss/policy_avg", "policy/entropy_avg"),)
    names += (("loss/value_avg", "val/clipfrac_avg"),)
    for i, group in enumerate(names):
        for k, name in enumerate(group):
            means = [sum(entry[k] for entry in step[i]) / len(step[i]) for step in steps.values()]
            assert first(trainer, name) == pytest.approx(sum(means) / 4, abs=1e-5), name
    assert first(trainer, "policy/clipfrac_avg") > 0 and first(trainer, "val/clipfrac_avg") > 0


def _row(exp, row):
    prompt = exp.sequences.prompt_ids[row][exp.sequences.prompt_mask[row]]
    return prompt, exp.sequences.completion_ids[row][exp.sequences.mask[row]]


def token_statistics(trainer, exp, row):
    """approxkl, ratio, clipped, loss and entropy of each token of a row."""
    prompt, answer = _row(exp, row)
    logits = trainer.actor_critic.policy(torch.cat([prompt, answer])[None]).logits[0, len(prompt) - 1 : -1] / 0.7
    logp, eps = logits.log_softmax(-1), trainer.args.cliprange
    for t, token in enumerate(answer.tolist()):
        old, a = exp.logprobs[row, t].item(), exp.advantages[row, t].item()
        new = logp[t, token].item()
        ratio = math.exp(new - old)
        near = min(max(ratio, 1 - eps), 1 + eps)
        entropy = -(logp[t].exp() * logp[t]).sum().item()
        yield 0.5 * (new - old) ** 2, ratio, float(-a * near > -a * ratio), max(-a * ratio, -a * near), entropy


def value_statistics(trainer, exp, row):
    """Loss and clipped of each step of a row that has a value: its tokens, and the one after where there is room."""
    prompt, answer = _row(exp, row)
    critic, eps = trainer.actor_critic.value_model, trainer.args.cliprange_value
    values = critic.score(critic.model(torch.cat([prompt, answer])[None])[0])[0, len(prompt) - 1 :, 0].tolist()
    for t in range(min(len(answer) + 1, trainer.args.response_length)):
        old, target = exp.values[row, t].item(), exp.returns[row, t].item()
        near = min(max(values[t], old - eps), old + eps)
        plain, cut = (values[t] - target) ** 2, (near - target) ** 2
        yield 0.5 * max(plain, cut), float(cut > plain)


def test_samples_reach_the_file(make, prompts, tmp_path):
    file = tmp_path / "samples.jsonl"
    more = {"eval_dataset": prompts.select(range(5)), "callbacks": [SamplesFile(file)]}
    trainer = trained(make, trainer=more, total_episodes=32, num_sample_generations=2, per_device_eval_batch_size=3)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 2 * 3 and {row["step"] for row in rows} == {2, 6}
    assert all({"prompt", "completion", "score", "kl", "reward/count_w1"} <= set(row) for row in rows)
    assert len(trainer.generate_completions()) == 5


def test_one_answer_token_by_token(make, tokenizer):
    exp = lengths(make(kl_coef=0.5))
    row = int(exp.lengths.argmin())
    table = exp.token_rows(row, tokenizer)
    assert len(table) == exp.lengths[row] + 1 and table[-1]["token"] == ""
    assert table[-1]["reward"] == pytest.approx(exp.scores[row].item())


def test_early_stopping_on_the_held_out_score_keeps_the_best(make, prompts):
    """A reward that turns against the policy after its second update: updates 3 and 4 are worse, the second is kept."""
    told = []

    def reward(prompts, completions, **kwargs):
        told.append(len(prompts))
        return [1.0 if told.count(4) == 2 else 0.0] * len(prompts)

    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_score", "greater_is_better": True}
    held_out = {"eval_dataset": prompts.select(range(4))}
    config = {"total_episodes": 400, "early_stopping_patience": 2} | best
    trainer = trained(make, trainer=held_out, reward=reward, **config | evaluation)
    assert history(trainer, "eval_score") == [0.0, 1.0, 0.0, 0.0]
    assert trainer.state.global_step == 8 and trainer.state.best_model_checkpoint.endswith("out/checkpoint-4")
    saved = load_file(Path(trainer.state.best_model_checkpoint) / "model.safetensors")
    for name, value in trainer.actor_critic.policy.state_dict().items():
        assert name not in saved or torch.equal(value, saved[name]), name
    with pytest.raises(UserError, match="eval_strategy"):
        make(early_stopping_patience=2)
    with pytest.raises(UserError, match="held-out"):
        make(**config | evaluation)
