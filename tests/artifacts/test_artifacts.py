"""The run directory: claimed once, never half-written, never mixed with another config's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.runs.checkpoints import is_whole
from rlhf_recipes.runs.jsonl import read_jsonl, write_json
from rlhf_recipes.runs.provenance import differences, fingerprint, peak_memory
from rlhf_recipes.stages import catalogue


def config(root, **changes):
    base = {
        "stage": "sft",
        "preview": False,
        "seed": 0,
        "run": {"name": "r", "root": str(root), "parent": None, "overwrite": False},
        "inputs": {},
        "model": {"path": None, "init": {"model_type": "llama"}},
        "trainer": {"learning_rate": 1e-3, "save_total_limit": 2},
        "logger": {"report_to": "none"},
    }
    return OmegaConf.merge(base, changes)


def finished(root, run, stage, content="weights"):
    folder = root / run / stage / "model"
    folder.mkdir(parents=True)
    (folder / "model.bin").write_text(content)
    (folder / "config.json").write_text("{}")
    write_json(folder.parent / "summary.json", {"stage": stage, "inputs": {}})
    return folder


def test_an_interrupted_write_leaves_the_old_content(tmp_path):
    target = tmp_path / "summary.json"
    write_json(target, {"a": 1})
    with pytest.raises(TypeError):
        write_json(target, {"a": object()})
    assert json.loads(target.read_text()) == {"a": 1}


def test_inputs_take_the_first_place_that_exists(tmp_path):
    finished(tmp_path, "r", "sft")
    run = StageRun(config(tmp_path, stage="reward", inputs={"policy": ["pretrain", "sft"]}), catalogue())
    run.resolve()
    assert run.inputs["policy"]["stage"] == "sft"


def test_a_parent_run_serves_where_this_one_has_none(tmp_path):
    folder = finished(tmp_path, "old", "sft")
    run = StageRun(config(tmp_path, stage="ppo", inputs={"policy": ["sft"]}, run={"parent": "old"}), catalogue())
    run.resolve()
    assert run.inputs["policy"]["path"] == str(folder)


def test_data_files_are_recorded_beside_the_models_and_are_none(tmp_path):
    folder, rows = finished(tmp_path, "r", "sft"), tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    run = StageRun(
        config(tmp_path, stage="evaluate", inputs={"sft": "sft"}, data={"demos": {"path": str(rows)}}), catalogue()
    )
    run.resolve()
    assert {name: entry["path"] for name, entry in run.inputs.items()} == {"sft": str(folder)}
    assert {entry["path"] for entry in run.made_from.values()} == {str(folder), str(rows)}
    before = run.made_from[f"data:{rows}"]["hash"]
    rows.write_text('{"prompt": "a", "completion": "c"}\n')
    run.resolve()
    assert run.made_from[f"data:{rows}"]["hash"] != before


def test_none_lets_an_input_be_absent(tmp_path):
    run = StageRun(config(tmp_path, stage="evaluate", inputs={"ppo": ["ppo", "none"]}), catalogue())
    run.resolve()
    assert run.inputs == {}


def test_a_missing_stage_names_the_command_that_makes_it(tmp_path):
    run = StageRun(config(tmp_path, stage="ppo", inputs={"policy": ["sft"]}), catalogue())
    with pytest.raises(UserError, match=r"python -m rlhf_recipes stage=sft .*run.name=r"):
        run.resolve()


def test_a_missing_folder_is_not_taken_for_a_hub_id(tmp_path):
    run = StageRun(config(tmp_path, stage="ppo", inputs={"policy": "./nowhere"}), catalogue())
    with pytest.raises(UserError, match=r"\./nowhere: no such folder"):
        run.resolve()


def test_a_finished_stage_is_done_until_its_inputs_change(tmp_path):
    finished(tmp_path, "r", "pretrain", "v1")
    cfg = config(tmp_path, inputs={"policy": ["pretrain"]})

    def claim():
        run = StageRun(cfg, catalogue())
        run.resolve()
        return run, run.open()

    run, state = claim()
    assert state == "fresh"
    run.finish({"eval_loss": 1.0})
    assert claim()[1] == "done"
    (tmp_path / "r" / "pretrain" / "model" / "model.bin").write_text("v2")
    assert claim()[1] == "fresh"


def test_another_config_in_the_same_directory_is_refused_and_named(tmp_path):
    run = StageRun(config(tmp_path), catalogue())
    run.open()
    run.finish({})
    with pytest.raises(UserError, match=r"trainer\.learning_rate: 0\.001 -> 0\.1"):
        StageRun(config(tmp_path, trainer={"learning_rate": 0.1}), catalogue()).open()
    again = config(tmp_path, trainer={"learning_rate": 0.1}, run={"overwrite": True})
    assert StageRun(again, catalogue()).open() == "fresh"


def test_a_run_that_failed_before_its_first_checkpoint_may_change_its_config(tmp_path):
    StageRun(config(tmp_path), catalogue()).open()
    assert StageRun(config(tmp_path, trainer={"learning_rate": 0.1}), catalogue()).open() == "fresh"


def test_settings_that_change_no_result_are_no_difference(tmp_path):
    other = config(tmp_path, run={"name": "x"}, trainer={"save_total_limit": 5}, logger={"report_to": "wandb"})
    assert differences(config(tmp_path), other) == []


def test_a_stage_that_a_later_version_adds_is_no_difference(tmp_path):
    """evaluate has every policy's stage as an optional input: a run made before there was one is still the same run."""
    before, after = ({"inputs": {"sft": ["sft", "none"], **more}} for more in ({}, {"kto": ["kto", "none"]}))
    assert differences(config(tmp_path, **before), config(tmp_path, **after)) == []
    left_out = {"inputs": {"sft": ["none"]}}
    assert differences(config(tmp_path, **before), config(tmp_path, **left_out)) != []


@pytest.mark.parametrize("inputs", ["base", ["base"]])
def test_a_model_made_from_nothing_starts_from_no_model(tmp_path, inputs):
    run = StageRun(config(tmp_path, stage="pretrain", inputs={"policy": inputs}), catalogue())
    run.resolve()
    assert run.inputs == {}


def test_a_stages_own_folder_is_an_input_like_the_model_in_it(tmp_path):
    folder = finished(tmp_path, "other", "sft")
    OmegaConf.save(config(tmp_path), folder.parent / "config.yaml")
    for place in (folder, folder.parent):
        run = StageRun(config(tmp_path, stage="ppo", inputs={"policy": str(place)}), catalogue())
        run.resolve()
        assert run.inputs["policy"] == {"path": str(folder), "hash": fingerprint(folder)}, "a stranger, not this run's"


def test_an_input_that_holds_no_model_is_refused(tmp_path):
    (tmp_path / "hollow").mkdir()
    run = StageRun(config(tmp_path, stage="ppo", inputs={"policy": f"{tmp_path}/hollow"}), catalogue())
    with pytest.raises(UserError, match=r"inputs\.policy=.*holds no model"):
        run.resolve()


def test_a_torn_line_costs_no_other_row(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n{"step": 2, "text": "\xc3\n{"step": 3, "text": "a\xe2\x80\xa8b"}\n7\n{"st')
    assert [row["step"] for row in read_jsonl(file)] == [1, 3]


def checkpoint(folder, step, torn=False):
    import struct

    target = folder / f"checkpoint-{step}"
    target.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    body = struct.pack("<Q", len(header)) + header + b"\0" * (4 if torn else 8)
    (target / "model.safetensors").write_bytes(body)
    (target / "trainer_state.json").write_text("{}")
    return target


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path, capsys):
    run = StageRun(config(tmp_path), catalogue())
    good = checkpoint(run.checkpoints, 9)
    torn = checkpoint(run.checkpoints, 10, torn=True)
    assert is_whole(good)
    assert not is_whole(torn)
    assert run.last_checkpoint() == str(good)
    assert "checkpoint-10 is torn" in capsys.readouterr().err


def test_a_checkpoint_without_its_last_file_is_torn(tmp_path):
    target = checkpoint(tmp_path, 1)
    (target / "trainer_state.json").unlink()
    assert not is_whole(target)


def test_fingerprints_follow_content_and_names(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, name in ((a, "x"), (b, "x")):
        folder.mkdir()
        (folder / name).write_text("same")
    assert fingerprint(a) == fingerprint(b)
    (b / "x").rename(b / "y")
    assert fingerprint(a) != fingerprint(b)


def test_a_small_child_of_a_large_process_has_its_own_peak():
    large = bytearray(500_000_000)
    large[::4096] = b"x" * len(large[::4096])
    ask = "from rlhf_recipes.runs.provenance import peak_memory; print(peak_memory()['peak_rss_mb'])"
    place = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    told = subprocess.run([sys.executable, "-c", ask], env=place, capture_output=True, text=True, check=True).stdout
    assert 10 < float(told) < 400 < peak_memory()["peak_rss_mb"]
    del large
