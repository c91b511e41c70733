"""Every example in a docstring of the package runs as it is written."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rlhf_recipes"
EXTRAS = {"symbolic.py": "math_verify", "sql.py": "sqlglot", "sql_tables.py": "sqlglot", "sql_text.py": "sqlglot"}
EXTRAS["text.py"] = "py3langid"
SHOWN = sorted(file for file in PACKAGE.rglob("*.py") if ">>> " in file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", SHOWN, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_examples_of_a_module(file):
    if file.name in EXTRAS:
        pytest.importorskip(EXTRAS[file.name], reason="an extra: pip install 'rlhf-recipes[rewards]'")
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    result = doctest.testmod(importlib.import_module(".".join(p for p in parts if p != "__init__")))
    assert result.attempted > 0
    assert result.failed == 0
