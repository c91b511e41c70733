import pytest
from tiny_policy import run_stage, save_policy


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    return save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def dpo(policy, tmp_path):
    """dpo("trainer.beta=0.5", …) -> metrics of stage=dpo on the tiny policy, in tmp_path/default/dpo."""

    def run(*overrides):
        return run_stage("dpo", f"run.root={tmp_path}", f"inputs.policy={policy}", *overrides)

    return run
