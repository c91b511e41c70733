"""The wheel carries conf/ and recipes/, and works from an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rlhf_recipes.config.paths import CONF, RECIPES, options

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(ROOT)]
    subprocess.run(pip, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_every_yaml_is_in_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for folder, where in ((CONF, "conf"), (RECIPES, "recipes")):
        for option in options(folder):
            assert f"rlhf_recipes/{where}/{option}.yaml" in names
    assert {f"rlhf_recipes/report/{file}" for file in ("page.html", "page.css", "chart.svg", "blocks.md")} <= set(names)
    assert "rlhf_recipes/rewards/sqlite_worker.py" in names


def test_it_composes_from_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)

    def run(*args):
        command = [sys.executable, "-m", "rlhf_recipes", *args]
        env = os.environ | {"PYTHONPATH": str(site)}
        return subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True)

    assert "recipes=" in run("--help").stdout
    done = run("recipes=instructgpt/ppo", "model=qwen0.5b", "--cfg", "job")
    assert "value_learning_rate: ${tenfold_with_lora:5.0e-6}" in done.stdout, done.stderr
    wrong = run("stage=ppo", "trainer.vf_coeff=0.2")
    assert (wrong.returncode, "did you mean vf_coef?" in wrong.stderr) == (2, True)
    assert not list(empty.iterdir())


def test_the_console_script_is_the_same_program(wheel, tmp_path):
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True)

    def run(*args):
        env = os.environ | {"PYTHONPATH": str(site)}
        return subprocess.run(
            [site / "bin" / "rlhf-recipes", *args], cwd=tmp_path, env=env, capture_output=True, text=True
        )

    assert run("--version").stdout.startswith("rlhf-recipes ")
    wrong = run("stage=sft", "trainer.lerning_rate=1")
    assert (wrong.returncode, "did you mean learning_rate?" in wrong.stderr) == (2, True), wrong.stderr
