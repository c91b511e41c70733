"""What counts as a whole checkpoint, and a folder that is exchanged for another without a moment of neither."""

import json
import os
import zipfile

import pytest

from rlhf_recipes.runs import checkpoints


def trainers(folder):
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    with zipfile.ZipFile(folder / "optimizer.pt", "w") as file:
        file.writestr("data", "x" * 500)
    return folder


def test_a_torn_optimizer_is_seen_without_a_list(tmp_path):
    folder = trainers(tmp_path / "checkpoint-1")
    assert checkpoints.is_whole(folder)
    file = folder / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:-30])
    assert not checkpoints.is_whole(folder)


@pytest.mark.parametrize("name", ["ppo_state.pt", "optimizer.pt", "manifest.json", "trainer_state.json"])
def test_a_listed_checkpoint_misses_any_of_its_files(tmp_path, name):
    folder = trainers(tmp_path / "checkpoint-1")
    (folder / "ppo_state.pt").write_text("state")
    assert not checkpoints.is_whole(folder), "PPO's have a list"
    checkpoints.seal(folder)
    assert checkpoints.is_whole(folder)
    (folder / name).unlink()
    assert not checkpoints.is_whole(folder)


def test_killed_while_a_folder_is_replaced_one_of_the_two_stands(tmp_path, monkeypatch):
    place, new = tmp_path / "best", tmp_path / "new"
    for folder in (place, new):
        folder.mkdir()
        (folder / "name").write_text(json.dumps(folder.name))
    moves, replace = [], os.replace

    def killed(a, b):
        moves.append(a)
        if len(moves) == 2:
            raise KeyboardInterrupt
        replace(a, b)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.replace(new, place)
    assert (checkpoints.standing(place) / "name").read_text() == '"best"'
    checkpoints.replace(new, place)
    assert (checkpoints.standing(place) / "name").read_text() == '"new"'
    assert [p.name for p in tmp_path.iterdir()] == ["best"]
    checkpoints.remove(place)
    assert checkpoints.standing(place) is None
