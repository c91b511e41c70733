"""PPO refuses to have its parameters shared out, however that is asked for, and says what to do instead."""

from types import SimpleNamespace

import pytest

from rlhf_recipes.errors import UserError
from rlhf_recipes.ppo.guards import check_launch


@pytest.mark.parametrize(("stage", "refused"), [(2, False), (3, True)])
def test_zero_3_is_refused_and_zero_2_is_not(stage, refused):
    args = SimpleNamespace(fsdp=None, deepspeed_plugin=SimpleNamespace(zero_stage=stage))
    if not refused:
        return check_launch(args)
    with pytest.raises(UserError, match=r"ZeRO-3.*ddp\.yaml"):
        check_launch(args)


def test_fsdp_is_refused_by_the_trainers_field_and_by_the_launch_file(monkeypatch, make):
    args = SimpleNamespace(fsdp=None, deepspeed_plugin=None)
    check_launch(args)
    with pytest.raises(UserError, match="FSDP"):
        check_launch(SimpleNamespace(fsdp=True, deepspeed_plugin=None))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="FSDP"):
        make()
