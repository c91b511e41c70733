"""PPO refuses launches under which no process can have whole weights, and says which one to take instead."""

from types import SimpleNamespace

import pytest
from processes import fsdp

from rlhf_recipes.errors import UserError
from rlhf_recipes.ppo.guards import check_launch


@pytest.mark.parametrize(("stage", "refused"), [(2, False), (3, True)])
def test_zero_3_is_refused_and_zero_2_is_not(stage, refused):
    args = SimpleNamespace(fsdp=None, deepspeed_plugin=SimpleNamespace(zero_stage=stage))
    if not refused:
        return check_launch(args)
    with pytest.raises(UserError, match=r"ZeRO-3.*fsdp\.yaml"):
        check_launch(args)


@pytest.mark.parametrize(
    ("plugin", "refusal"),
    [
        ({"fsdp_version": 2}, None),
        ({"fsdp_version": 1}, "FSDP2 only"),
        ({"fsdp_version": 2, "cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading: false"),
    ],
)
def test_fsdp_by_the_trainers_field(monkeypatch, plugin, refusal):
    monkeypatch.delenv("FSDP_CPU_RAM_EFFICIENT_LOADING", raising=False)
    args = SimpleNamespace(fsdp=True, fsdp_plugin_args=plugin)
    if refusal is None:
        return check_launch(args)
    with pytest.raises(UserError, match=refusal):
        check_launch(args)


def test_fsdp_by_the_launch_file(monkeypatch, make):
    for name, value in fsdp().items():
        monkeypatch.setenv(name, value)
    check_launch(SimpleNamespace(fsdp=None, fsdp_plugin_args=None))
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="FSDP2 only"):
        make()
