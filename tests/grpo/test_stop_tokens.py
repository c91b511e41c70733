"""Answers of GRPO and RLOO end at every stop token of the engine's rule: lengths, masks and figures follow."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [f"Question {i}:" for i in range(6)]
LENGTH = 12


@pytest.fixture(params=["grpo", "rloo"])
def make(request, policy, tmp_path):
    """make(stops, **fields) -> trainer on a policy whose generation_config names these stop tokens."""
    import trl

    from rlhf_recipes.grpo import GRPOConfig, GRPOTrainer
    from rlhf_recipes.grpo.group_trainer import GroupTrainer

    class RLOOTrainer(GroupTrainer, trl.RLOOTrainer):
        pass

    trainer, config = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, trl.RLOOConfig)}[request.param]

    def build(stops, **fields):
        model = AutoModelForCausalLM.from_pretrained(policy)
        model.generation_config.eos_token_id = stops
        settings = {"per_device_train_batch_size": 6, "num_generations": 2, "beta": 0.0, "bf16": False}
        settings |= {"max_completion_length": LENGTH, "use_cpu": True, "report_to": [], "max_steps": 1}
        return trainer(
            model,
            lambda completions, **columns: [float(i) for i in range(len(completions))],
            config(output_dir=str(tmp_path / "out"), **settings | fields),
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
            processing_class=AutoTokenizer.from_pretrained(policy),
        )

    return build


def by_hand(policy, stops):
    """Greedy answers, a token at a time, with plain torch: up to and with the first stop token."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy).eval(), AutoTokenizer.from_pretrained(policy)
    answers = []
    for prompt in PROMPTS:
        ids, answer = tokenizer(prompt)["input_ids"], []
        while len(answer) < LENGTH and not (answer and answer[-1] in stops):
            with torch.no_grad():
                answer.append(int(model(torch.tensor([ids + answer])).logits[0, -1].argmax()))
        answers.append(answer)
    return answers


@pytest.fixture
def common(policy):
    """A token that ends some of the greedy answers early, not all: no tokenizer's EOS."""
    free = by_hand(policy, [AutoTokenizer.from_pretrained(policy).eos_token_id])
    counts = {token: sum(token in answer[:-1] for answer in free) for answer in free for token in answer[:-1]}
    return next(token for token, n in counts.items() if 0 < n < len(PROMPTS))


def test_answers_end_where_plain_generation_ends_them(make, policy, common):
    from rlhf_recipes.grpo.evaluation import _greedy

    eos = AutoTokenizer.from_pretrained(policy).eos_token_id
    one = make([eos, common])
    one.model.eval()
    with _greedy(one), torch.no_grad():
        ids = one._generate(PROMPTS)[1]
    expected = by_hand(policy, [eos, common])
    assert ids == expected
    assert any(answer[-1] == common for answer in expected)
    cut = sum(answer[-1] not in (eos, common) for answer in expected) / len(expected)
    assert one._metrics["eval"]["completions/clipped_ratio"] == [pytest.approx(cut)]
    ended = [len(answer) for answer in expected if answer[-1] in (eos, common)]
    assert one._metrics["eval"]["completions/mean_terminated_length"] == [pytest.approx(sum(ended) / len(ended))]


def test_only_cut_off_answers_are_masked_in_training(make, policy, common):
    eos = AutoTokenizer.from_pretrained(policy).eos_token_id
    one = make([eos, common], mask_truncated_completions=True)
    script = iter([[[5, common], [5, 6], [common], [5, eos], [6, 6], [eos]]])
    one._generate_single_turn = lambda *a: (next(script), None) if hasattr(one, "loss_type") else next(script)
    one.model.train()
    batch = one._generate_and_score_completions([{"prompt": prompt} for prompt in PROMPTS])
    assert batch["completion_mask"].tolist() == [[1, 1], [0, 0], [1, 0], [1, 1], [0, 0], [1, 0]]


def test_generation_kwargs_name_their_own(make, policy, common):
    one = make([common], generation_kwargs={"eos_token_id": 7})
    assert one.generation_config.eos_token_id == [7]
    assert one._tokenizer.eos_token_id == 7 and common != one._tokenizer.eos_token_id
    assert one.processing_class.eos_token_id not in [one._tokenizer.eos_token_id]


def test_vllm_is_given_the_same_stop_tokens_and_answers_held_out_prompts_greedily(make, policy, common, monkeypatch):
    """With a stand-in for TRL's VLLMGeneration, which is all that TRL asks of vLLM."""
    asked = []

    class Engine:
        def __init__(self, **settings):
            self.generation_kwargs = settings["generation_kwargs"] or {}
            self.temperature, self.top_p, self.top_k, self.min_p = (
                settings[name] for name in ("temperature", "top_p", "top_k", "min_p")
            )

        def sync_weights(self):
            pass

        def generate(self, prompts, images, num_generations, profiler):
            asked.append((self.temperature, num_generations, len(prompts)))
            stop = self.generation_kwargs["stop_token_ids"][-1]
            answers = [[5] * (i % 3) + [stop] for i in range(len(prompts))]
            return prompts, answers, [[[0.0]] * len(answer) for answer in answers], None

    for module in ("grpo_trainer", "rloo_trainer"):
        monkeypatch.setattr(f"trl.trainer.{module}.VLLMGeneration", Engine)
    one = make([common], use_vllm=True)
    one.eval_dataset = Dataset.from_dict({"prompt": PROMPTS})
    metrics = one.evaluate()
    assert asked == [(0.0, 1, 6), (1.0, 2, 8), (1.0, 2, 4)]
    assert metrics["eval_completions/clipped_ratio"] == 0.0
    one.train()
    assert one.state.global_step == 1
    assert one.vllm_generation.temperature == 1.0
