import pytest
from tiny_policy import LENGTH, run_stage, save_policy


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def grpo(policy, tmp_path):
    """grpo("trainer.beta=0", …) -> metrics of stage=grpo on the tiny policy, in tmp_path/default/grpo."""

    def run(*overrides):
        reward = () if any(o.startswith("reward=") for o in overrides) else LENGTH
        return run_stage("grpo", f"run.root={tmp_path}", f"inputs.policy={policy}", *reward, *overrides)

    return run


@pytest.fixture
def trainer(policy, tmp_path):
    """trainer(reward, **fields of the config) -> GRPOTrainer on the tiny policy, eight questions as its data."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rlhf_recipes.grpo import GRPOConfig, GRPOTrainer

    def make(reward, eval_settings=None, ref_model=None, **fields):
        settings = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "num_generations": 4,
            "max_completion_length": 6,
            "beta": 0.0,
            "bf16": False,
            "use_cpu": True,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
            "gradient_checkpointing": False,
            "per_device_eval_batch_size": 8,
            "max_steps": 1,
        }
        rows = Dataset.from_dict({"prompt": [f"Question {i}:" for i in range(8)], "number": list(range(8))})
        return GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(policy),
            reward,
            GRPOConfig(**settings | fields),
            eval_settings=eval_settings,
            ref_model=ref_model,
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(policy),
        )

    return make
