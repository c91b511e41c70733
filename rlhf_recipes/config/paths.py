"""Where conf/ and recipes/ lie: beside the package in a checkout, inside it in a wheel."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
HOUSE = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parent
CONF = HOUSE / "conf"
RECIPES = HOUSE / "recipes"


def options(group: Path) -> list[str]:
    """Names of the YAML files below a folder, without their ending, sorted: `gsm8k/grpo`."""
    return sorted(str(f.relative_to(group).with_suffix("")) for f in group.rglob("*.yaml"))


def headline(file: Path) -> str:
    """The first comment line of a YAML file that says something: what `--help` lists beside its name."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").strip()
        if text and not text.startswith("@package"):
            return text
    return ""
