"""Every numbered defect of trl.experimental.ppo 1.12: mended here, and shown on TRL's own trainer where that is cheap.

The numbers are those of the list in docs/explanation/ppo.md. Defect 4, two processes, is in test_two_processes.py; 13,
padding in the averages, in test_golden.py. Of 5, QLoRA's crash needs a GPU and bitsandbytes, so that neither trainer is
shown on it here.
"""

import copy
import logging
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from peft import LoraConfig
from tiny_world import history
from torch.optim.optimizer import register_optimizer_step_post_hook
from trl.trainer.callbacks import SyncRefModelCallback

from rlhf_recipes.engine.sequences import Sequences, pad_left
from rlhf_recipes.errors import UserError
from rlhf_recipes.ppo import core
from rlhf_recipes.rewards.model import ModelReward

trl_ppo = pytest.importorskip("trl.experimental.ppo.ppo_trainer", reason="TRL has no PPOTrainer from 1.13 on")


@contextmanager
def counted_steps():
    steps = []
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    yield steps
    handle.remove()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---- 1, 2: how many optimizer steps ----

SPLIT = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "num_ppo_epochs": 2, "learning_rate": 0.0}


@pytest.mark.parametrize("minibatches", [1, 2, 4])
def test_1_each_minibatch_is_one_step(make, minibatches):
    trainer = make(num_mini_batches=minibatches, **SPLIT)
    with counted_steps() as steps:
        trainer.train()
    assert len(steps) == 2 * minibatches
    assert history(trainer, "val/ratio") == pytest.approx([1.0], abs=1e-5)


def test_1_trl_steps_too_rarely_and_dilutes_its_averages(trl_make):
    trainer = trl_make(num_mini_batches=4, **SPLIT)
    with counted_steps() as steps:
        trainer.train()
    assert len(steps) != 2 * 4
    assert history(trainer, "val/ratio")[0] == pytest.approx(0.25, abs=0.01)


EPISODES = SPLIT | {"total_episodes": 24, "num_ppo_epochs": 1}  # 24 prompts: the third rollout ends the dataset


def test_2_every_update_has_as_many_steps(make):
    with counted_steps() as steps:
        make(**EPISODES).train()
    assert len(steps) == 3


def test_2_trl_stops_accumulating_at_the_last_batch(trl_make):
    with counted_steps() as steps:
        trl_make(**EPISODES).train()
    assert len(steps) != 3


# ---- 3: clipping ----

CLIPPED = {"max_grad_norm": 1e-12, "optim": "sgd", "learning_rate": 0.1}


def test_3_gradients_are_clipped_and_their_norm_logged(make, models):
    trainer = make(**CLIPPED)
    trainer.train()
    torch.testing.assert_close(weights(trainer.actor_critic.policy), weights(models["policy"]), atol=1e-9, rtol=0)
    assert history(trainer, "policy/grad_norm")[0] > 0.1


def test_3_trl_does_not_clip(trl_make, models):
    trainer = trl_make(**CLIPPED)
    trainer.train()
    assert (weights(trainer.model.policy) - weights(models["policy"])).abs().max() > 1e-4


# ---- 5, 7: precision and checkpointing ----


def layer_outputs(policy):
    """Types of the first layer's queries where a gradient is wanted: once a step, twice where they are recomputed."""
    seen = []
    layer = policy.model.layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda m, i, o: seen.append(o.dtype) if torch.is_grad_enabled() else None)
    return seen


def test_5_bf16_and_activation_checkpointing_take_effect(make):
    trainer = make(bf16=True, activation_checkpointing=True)
    seen = layer_outputs(trainer.actor_critic.policy)
    trainer.train()
    assert trainer.accelerator.mixed_precision == "bf16"
    assert seen == [torch.bfloat16] * 4, "two steps, each read twice"


def test_5_trl_ignores_both(trl_make):
    trainer = trl_make(bf16=True, activation_checkpointing=True)
    seen = layer_outputs(trainer.policy_model)
    trainer.train()
    assert trainer.accelerator.mixed_precision == "no"
    assert seen == [torch.float32] * 2


def test_7_bf16_rollout_and_training_agree(make):
    trainer = make(bf16=True, learning_rate=0.0)
    trainer.train()
    assert history(trainer, "policy/approxkl_avg")[0] < 1e-5
    assert abs(history(trainer, "objective/kl")[0]) < 1e-5


def test_7_trl_samples_outside_autocast(trl_make, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(True)
    try:
        trainer = trl_make(learning_rate=0.0)
        trainer.train()
    finally:
        AcceleratorState._reset_state(True)
    assert history(trainer, "policy/approxkl_avg")[0] > 1e-5


# ---- 6: what the model's generation_config holds ----


def penalised(models):
    policy = copy.deepcopy(models["policy"])
    policy.generation_config.repetition_penalty = 1.5
    policy.generation_config.suppress_tokens = [7]
    return policy


def test_6_generation_config_changes_nothing(make, models):
    trainer = make(model=penalised(models), learning_rate=0.0)
    trainer.train()
    assert abs(history(trainer, "objective/kl")[0]) < 1e-5
    assert history(trainer, "val/ratio")[0] == pytest.approx(1.0, abs=1e-5)


def test_6_trl_lets_it_bend_the_ratio(trl_make, models):
    trainer = trl_make(model=penalised(models), learning_rate=0.0)
    trainer.train()
    assert abs(history(trainer, "objective/kl")[0]) > 0.01


# ---- 8: pad is EOS ----


def with_pad_eos(tokenizer):
    same = copy.deepcopy(tokenizer)
    same.pad_token = same.eos_token
    return same


# eight answers: the first two are an EOS and nothing more
SHORT = torch.tensor([[2] + [5] * 5] * 2 + [[5, 6, 7, 8, 2, 9]] * 3 + [[9, 8, 7, 6, 5, 4]] * 3)
ONE_BY_ONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8, "max_grad_norm": 1.0}


def answering(trainer, answers):
    """Our trainer, made to give these answers whatever it is asked."""

    def generate(tokens, uniforms):
        stop = (answers == 2).int()
        mask = stop.cumsum(1) - stop == 0
        seq = Sequences(*pad_left(tokens, 0), answers * mask, mask)
        return seq, trainer.actor_critic.logprobs(seq), (answers == 2).any(1)

    trainer.player.generate = generate
    return trainer


def test_8_pad_may_be_eos(make, tokenizer):
    one, other = make(), make(tokenizer=with_pad_eos(tokenizer))
    one.train()
    other.train()
    for metric in ("loss/policy_avg", "loss/value_avg", "objective/entropy", "completions/eos_rate"):
        assert history(other, metric) == history(one, metric), metric
    assert history(one, "completions/eos_rate")[0] > 0


def test_8_an_answer_may_begin_with_eos(make, tokenizer):
    plain, same = (answering(make(tokenizer=t, **ONE_BY_ONE), SHORT) for t in (tokenizer, with_pad_eos(tokenizer)))
    plain.train()
    same.train()
    for metric in ("loss/policy_avg", "loss/value_avg", "policy/entropy_avg"):
        assert history(same, metric) == history(plain, metric), metric
    assert torch.equal(weights(plain.actor_critic), weights(same.actor_critic)) and weights(same.model).isfinite().all()
    assert history(same, "completions/mean_length")[0] == pytest.approx((2 * 1 + 3 * 5 + 3 * 6) / 8)


def trl_answering(trl_make, tokenizer, monkeypatch):
    """TRL's trainer after an update on the same answers."""
    trainer = trl_make(tokenizer=tokenizer, **ONE_BY_ONE)

    def answer(model, queries, size, pad, config):
        every = torch.cat([queries, SHORT], 1)
        return every, trl_ppo.forward(model, every, pad).logits[:, queries.shape[1] - 1 : -1].detach() / 0.7

    monkeypatch.setattr(trl_ppo, "batch_generation", answer)
    trainer.train()
    return trainer


def test_8_trl_masks_eos_out_and_ends_in_nan(trl_make, tokenizer, monkeypatch):
    plain = trl_answering(trl_make, tokenizer, monkeypatch)
    same = trl_answering(trl_make, with_pad_eos(tokenizer), monkeypatch)
    assert history(plain, "objective/entropy") != pytest.approx(history(same, "objective/entropy"), rel=1e-3)
    assert weights(plain.model).isfinite().all() and not np.isnan(history(plain, "loss/policy_avg")[0])
    assert np.isnan(history(same, "loss/policy_avg")[0])


# ---- 9: few prompts ----


def test_9_a_dataset_smaller_than_a_rollout_comes_round(make, prompts):
    trainer = make(data=prompts.select(range(3)), total_episodes=16)
    seen = [row["prompt"] for update in range(2) for row in trainer.prompts.rows(update)]
    assert len(seen) == 16 and all(4 <= seen.count(p) <= 6 for p in set(seen)) and len(set(seen)) == 3
    trainer.train()
    assert history(trainer, "episode") == [8, 16]


def test_9_trl_asks_an_empty_loader_for_ever(trl_make, prompts):
    trainer = trl_make(data=prompts.select(range(3)))

    class Patience:
        """TRL's own loader, until it has been asked in vain a hundred times."""

        def __init__(self, loader):
            self.loader, self.asked = loader, 0

        def __iter__(self):
            self.asked += 1
            if self.asked > 100:
                raise TimeoutError
            return iter(self.loader)

    trainer.dataloader = Patience(trainer.dataloader)
    with pytest.raises(TimeoutError):
        trainer.train()
    assert not history(trainer, "episode")


# ---- 10: the EOS penalty ----

STOP_AT_5 = {"stop_token": None, "stop_token_id": 5, "learning_rate": 0.0, "response_length": 20, "temperature": 2.0}


def test_10_the_penalty_looks_for_the_real_stop_token(make):
    free, fined = make(**STOP_AT_5), make(**STOP_AT_5, missing_eos_penalty=10.0)
    free.train()
    fined.train()
    ended = history(fined, "completions/eos_rate")[0]
    assert 0 < ended < 1
    loss = history(free, "objective/scores")[0] - history(fined, "objective/scores")[0]
    assert loss == pytest.approx(10.0 * (1 - ended), abs=1e-4)


def test_10_trl_punishes_answers_that_stopped(trl_make, monkeypatch):
    ended = []
    plain = trl_ppo.truncate_response

    def record(stop_token_id, pad_token_id, responses):
        ended.append((responses == stop_token_id).any(1).float().mean().item())
        return plain(stop_token_id, pad_token_id, responses)

    monkeypatch.setattr(trl_ppo, "truncate_response", record)
    free, fined = trl_make(**STOP_AT_5), trl_make(**STOP_AT_5, missing_eos_penalty=10.0)
    free.train()
    fined.train()
    loss = history(free, "objective/scores")[0] - history(fined, "objective/scores")[0]
    assert 0 < ended[0] == ended[1] and abs(loss - 10.0 * (1 - ended[0])) > 0.5


# ---- 11: shuffles ----

SHUFFLED = {"num_mini_batches": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}


def test_11_shuffles_do_not_hang_on_global_state(make):
    results = []
    for seed in (0, 1):
        trainer = make(**SHUFFLED)
        np.random.seed(seed)
        torch.manual_seed(seed)
        trainer.train()
        results.append(weights(trainer.actor_critic))
    assert torch.equal(*results)


def test_11_trl_shuffles_with_numpys_global_state(trl_make):
    results = []
    for seed in (0, 1):
        trainer = trl_make(per_device_train_batch_size=2, gradient_accumulation_steps=4, num_mini_batches=4)
        np.random.seed(seed)
        trainer.train()
        results.append(weights(trainer.model))
    assert not torch.equal(*results)


# ---- 12: padding side and columns ----


def test_12_the_tokenizers_padding_side_does_not_matter(make, tokenizer, monkeypatch):
    one = make()
    one.train()
    monkeypatch.setattr(tokenizer, "padding_side", "right")
    other = make()
    other.train()
    assert history(one, "loss/policy_avg") == history(other, "loss/policy_avg")


def test_12_trl_answers_behind_the_padding(trl_make, tokenizer, monkeypatch):
    asked = []
    plain = trl_ppo.batch_generation
    monkeypatch.setattr(trl_ppo, "batch_generation", lambda m, q, *args: (asked.append(q), plain(m, q, *args))[1])
    left = trl_make()
    left.train()
    monkeypatch.setattr(tokenizer, "padding_side", "right")
    right = trl_make()
    right.train()
    assert (asked[0][:, -1] != 0).all() and (asked[1][:, -1] == 0).any()
    assert history(left, "loss/policy_avg") != pytest.approx(history(right, "loss/policy_avg"), rel=1e-3)


def test_12_rewards_see_every_column(make):
    seen = []

    def reward(prompts, completions, answer, **kwargs):
        seen.extend(zip(prompts, answer, strict=True))
        return [0.0] * len(prompts)

    trainer = make(reward=reward)
    trainer.train()
    rows = trainer.prompts.rows(0)
    assert seen == [(row["prompt"], row["answer"]) for row in rows]


def test_12_a_reward_without_kwargs_gets_only_what_it_names(make):
    make(reward=lambda prompts, completions, answer: [float(len(a)) for a in answer]).train()


def test_12_trl_cannot_carry_a_column(trl_make):
    with pytest.raises(ValueError, match="answer"):
        trl_make(keep=["answer"]).train()


# ---- 14: reward models with another tokenizer ----


def test_14_a_reward_model_that_cannot_read_the_policy_is_refused(make, models):
    models["reward"].resize_token_embeddings(20)
    with pytest.raises(UserError, match="vocabulary of 20"):
        make(reward=models["reward"])


def test_14_trl_finds_out_by_an_index_error(trl_make, models):
    models["reward"].resize_token_embeddings(20)
    with pytest.raises(IndexError):
        trl_make(reward_model=models["reward"]).train()


def test_14_every_answer_reaches_the_reward_model_with_eos(models, tokenizer):
    read = []
    model = ModelReward(models["reward"], tokenizer, shared=True)
    model._read = lambda rows: (read.extend(rows), torch.zeros(len(rows)))[1]
    model(["a", "b"], ["x", "y"], prompt_ids=[[1, 4], [1, 5]], completion_ids=[[6, 2], [6, 7]])
    assert sorted(read) == [[1, 4, 6, 2], [1, 5, 6, 7, 2]]


# ---- 15: rounding and LoRA dropout ----


def test_15_rounding_of_episodes_is_said(make, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = make(total_episodes=9)
    assert trainer.plan.updates == 2 and "16 will be played" in caplog.text


def test_15_trl_rounds_in_silence(trl_make, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = trl_make(total_episodes=9)
        trainer.train()
    assert history(trainer, "episode") == [8, 16] and "episodes" not in caplog.text


DROPPING = LoraConfig(r=2, lora_dropout=0.25, task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"])


def lora_dropout(trainer):
    return {m.p for n, m in trainer.model.named_modules() if isinstance(m, torch.nn.Dropout) and "lora" in n}


def test_15_lora_dropout_stays(make):
    assert lora_dropout(make(trainer={"peft_config": DROPPING})) == {0.25}


def test_15_trl_sets_it_to_zero(trl_make):
    assert lora_dropout(trl_make(trainer={"peft_config": DROPPING, "ref_model": None})) == {0}


# ---- 16: k3 in the reward ----


def test_16_only_k1_in_the_reward_gives_the_gradient_of_the_kl(make, caplog):
    """Exact, five actions: sum_a p_a k(a) grad log p_a against the gradient of KL(p || q)."""
    theta = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64).log().requires_grad_()
    ref = torch.tensor([0.3, 0.1, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    (true,) = torch.autograd.grad((theta.softmax(-1) * (theta.log_softmax(-1) - ref)).sum(), theta)
    cosine = {}
    for kind in ("k1", "k2", "k3"):
        logp = theta.log_softmax(-1)
        reward = core.kl_estimate(logp.detach(), ref, kind)
        (got,) = torch.autograd.grad((logp.exp().detach() * reward * logp).sum(), theta)
        cosine[kind] = torch.cosine_similarity(got, true, dim=0).item()
    assert cosine == pytest.approx({"k1": 1.0, "k2": 0.59, "k3": 0.36}, abs=0.005)
    with caplog.at_level(logging.WARNING):
        make(kl_estimator="k3")
    assert "biased gradient" in caplog.text


def test_16_trl_pays_k3_recommends_it_and_says_nothing(trl_make, caplog, monkeypatch):
    """One token an answer, so that the reward of the update is -beta k3 + score, seen as it is whitened."""
    paid, drawn = [], []
    plain, whiten = trl_ppo.selective_log_softmax, trl_ppo.masked_whiten

    def logprobs(logits, tokens):
        drawn.append(plain(logits, tokens))
        return drawn[-1]

    monkeypatch.setattr(trl_ppo, "selective_log_softmax", logprobs)
    monkeypatch.setattr(trl_ppo, "masked_whiten", lambda x, *a, **k: (paid.append(x.clone()), whiten(x, *a, **k))[1])
    with caplog.at_level(logging.WARNING):
        trainer = trl_make(kl_estimator="k3", kl_coef=0.5, response_length=1, whiten_rewards=True, num_ppo_epochs=1)
        with torch.no_grad():
            for parameter in trainer.ref_model.parameters():
                parameter *= 1.5
        trainer.train()
    penalty = 0.5 * core.kl_estimate(drawn[0], drawn[1], "k3")  # the policy's, the reference's
    scores = history(trainer, "objective/scores")[0]
    assert (paid[0] + penalty).mean().item() == pytest.approx(scores, abs=1e-5) and penalty.mean() > 0.01
    assert "bias" not in caplog.text
    assert "better estimator" in trainer.args.__dataclass_fields__["kl_estimator"].metadata["help"]


# ---- 17: a reference that moves ----


def test_17_the_reference_can_follow_the_policy(make, models):
    trainer = make(sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=1.0, total_episodes=16)
    trainer.train()
    torch.testing.assert_close(weights(trainer.ref_model), weights(trainer.actor_critic.policy))
    half = make(sync_ref_model=True, ref_model_sync_steps=1, ref_model_mixup_alpha=0.5)
    half.train()
    middle = (weights(models["policy"]) + weights(half.actor_critic.policy)) / 2
    torch.testing.assert_close(weights(half.ref_model), middle)


def test_17_trls_own_callback_fails_on_its_trainer(trl_make):
    trainer = trl_make()
    trainer.args.ref_model_sync_steps, trainer.args.ref_model_mixup_alpha = 1, 0.5
    trainer.add_callback(SyncRefModelCallback(trainer.ref_model, trainer.accelerator))
    with pytest.raises(ValueError, match="zip"):
        trainer.train()


# ---- and what the list says of its structure ----


def test_the_saved_model_keeps_its_eos(make, tmp_path):
    trainer = make(stop_token=None)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").generation_config.eos_token_id == 2
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token == "</s>"


def test_trl_saves_a_model_without_eos(trl_make):
    assert trl_make(stop_token=None).policy_model.generation_config.eos_token_id is None


def test_evaluate_works(make, prompts):
    trainer = make(trainer={"eval_dataset": prompts.select(range(5))})
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first == second and abs(first["eval_kl"]) < 1e-5 and first["eval_length"] > 0


def test_callbacks_may_stop_the_run(make):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            control.should_training_stop = True

    trainer = make(trainer={"callbacks": [Stop()]}, total_episodes=80)
    trainer.train()
    assert history(trainer, "episode") == [8]
