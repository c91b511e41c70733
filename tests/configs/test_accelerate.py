"""The launch files of conf/accelerate: accelerate reads each, and refuses nothing in it."""

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from rlhf_recipes.config.paths import CONF, headline

FILES = sorted((CONF / "accelerate").glob("*.yaml"))


def test_all_five_are_there():
    assert [file.stem for file in FILES] == ["cpu2", "ddp", "fsdp", "zero2", "zero3"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_it(file):
    config = load_config_from_file(str(file))
    assert config.num_processes == 2
    text = file.read_text(encoding="utf-8")
    assert headline(file)
    assert f"--config_file conf/accelerate/{file.name}" in text


def test_zero_stages_differ():
    stages = {f.stem: load_config_from_file(str(f)).deepspeed_config.get("zero_stage") for f in FILES}
    assert stages == {"cpu2": None, "ddp": None, "fsdp": None, "zero2": 2, "zero3": 3}
