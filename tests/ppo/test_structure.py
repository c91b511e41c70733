"""Who may import whom, read from the sources: TRL's PPO in two lines, arithmetic without libraries, no circles."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import rlhf_recipes

HOUSE = Path(rlhf_recipes.__file__).parent


def imported(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it; for `from a import b` that is `a.b` where b is a module."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if is_ours(name)}
            found |= modules or {node.module}
    return found


def is_ours(name: str) -> bool:
    """Whether a module of this name lies in the house."""
    place = HOUSE.parent.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def reach(file: Path) -> set[str]:
    """All modules that come with a file's import, over those of ours in between."""
    seen, todo = set(), [file]
    while todo:
        for name in imported(todo.pop()) - seen:
            seen.add(name)
            place = HOUSE.parent.joinpath(*name.split("."))
            todo += [f for f in (place.with_suffix(".py"), place / "__init__.py") if is_ours(name) and f.is_file()]
    return seen


def libraries(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in reach(file)}


def test_only_the_class_statement_and_the_config_know_trls_ppo():
    users = {}
    for file in HOUSE.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = [
            (alias.asname or alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trl.experimental.ppo")
            for alias in node.names
        ]
        assert not any(n.startswith("trl.experimental.ppo") for n in imported(file) if not names), file
        if names:
            users[str(file.relative_to(HOUSE))] = names, tree
    assert {file: names for file, (names, _) in users.items()} == {
        "ppo/trainer.py": ["TRLPPOTrainer"],
        "ppo/config.py": ["TRLPPOConfig"],
    }
    for (name,), tree in users.values():
        bases = [b.id for node in tree.body if isinstance(node, ast.ClassDef) for b in node.bases]
        assert bases.count(name) == 1
        skips = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == name]
        assert not skips, "none of its attributes is used; super(TRLPPOTrainer, self) passes over them"


def test_in_ppo_only_those_two_import_trl():
    users = {f.name for f in (HOUSE / "ppo").glob("*.py") if any(n.split(".")[0] == "trl" for n in imported(f))}
    assert users == {"trainer.py", "config.py"}


@pytest.mark.parametrize(("file", "allowed"), [("ppo/core.py", "torch"), ("kl.py", "rlhf_recipes")])
def test_the_arithmetic_needs_no_library(file, allowed):
    assert libraries(HOUSE / file) - sys.stdlib_module_names <= {allowed}


def test_rewards_need_neither_trl_nor_hydra():
    for file in (HOUSE / "rewards").glob("*.py"):
        assert libraries(file).isdisjoint({"trl", "hydra", "omegaconf"}), file


# objective=evaluate... runs a stage after a job's own: the one import that goes back up, inside a function
BACK = ("sweep", "stages")


def unit(name: str) -> str:
    """`rlhf_recipes.ppo.core` -> `ppo`: a folder, or a module beside the folders."""
    return name.split(".")[1] if "." in name else ""


def graph() -> dict[str, set[str]]:
    """Of each unit, those that it imports."""
    edges = {}
    for file in HOUSE.rglob("*.py"):
        own = file.relative_to(HOUSE).parts[0].removesuffix(".py")
        names = {unit(name) for name in imported(file) if name.split(".")[0] == "rlhf_recipes"}
        edges.setdefault(own, set()).update(names - {own, ""})
    return edges


def test_imports_across_packages_go_one_way():
    edges = graph()
    edges[BACK[0]].remove(BACK[1])
    order = list(TopologicalSorter(edges).static_order())  # CycleError where they go round
    assert {"stages", "ppo", "kl"} <= set(order)
    above = {"stages": {"__main__"}, "__main__": set()}
    for name, users in above.items():
        assert {user for user, names in edges.items() if name in names} <= users, name
    for ground in ("errors", "paths", "kl"):
        assert edges[ground] <= {"errors"}, ground
    for middle in ("models", "data", "rewards", "callbacks", "ppo", "reward_models", "grpo"):
        assert edges[middle].isdisjoint({"artifacts", "training", "signal", "preflight", "report"}), middle
    assert edges["report"] <= {"errors"}, "it reads artifacts, not modules"
