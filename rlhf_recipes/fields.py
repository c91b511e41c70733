"""The fields of a configuration class, read from its source: `import trl` takes seconds, a typo should not.

`trl.SFTConfig`, `peft.LoraConfig` and our own PPOConfig are found by following import statements from the package's
`__init__`, and their dataclass fields by following base classes; nothing is imported and so nothing is slow.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rlhf_recipes.errors import UserError


@cache
def fields(target: str) -> dict[str, str]:
    """Field names of a dataclass and their annotations as written.

    Args:
        target: dotted path as Hydra's `_target_` has it, e.g. `trl.SFTConfig`.

    Returns:
        {name: annotation}, base classes first.

    Raises:
        UserError: the package is not installed or holds no such class.
    """
    package, _, name = target.rpartition(".")
    found = _find(package, name)
    if found is None:
        raise UserError(f"no class {target} is installed; expected a config class such as trl.SFTConfig in _target_")
    module, node = found
    result: dict[str, str] = {}
    for base in node.bases:
        if isinstance(base, ast.Name) and (parent := _find(module, base.id)):
            result |= _own(parent[1]) if not parent[1].bases else fields(f"{parent[0]}.{parent[1].name}")
    return result | _own(node)


def _own(node: ast.ClassDef) -> dict[str, str]:
    return {
        item.target.id: ast.unparse(item.annotation)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_")
    }


def _find(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """(module, class) that `name` means inside `module`: defined there, or imported from elsewhere."""
    tree = _tree(module)
    if tree is None:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    origin = _absolute(module, node)
                    if origin != module and (found := _find(origin, alias.name)):
                        return found
    return None


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    depth = node.level - (1 if _file(module).name == "__init__.py" else 0)
    return ".".join([*parts[: len(parts) - depth], *([node.module] if node.module else [])])


@cache
def _tree(module: str) -> ast.Module | None:
    file = _file(module)
    return ast.parse(file.read_text(encoding="utf-8")) if file else None


@cache
def _file(module: str) -> Path | None:
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not spec.origin:
        return None
    path = Path(spec.origin).parent.joinpath(*rest)
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((c for c in candidates if c.is_file()), None)


def misfit(annotation: str, value: object) -> str | None:
    """What a field of this annotation expects, where the value plainly is not that; None where it may fit.

    Only the simple types a person mistypes are judged; all else is left to the class itself.

    >>> misfit("float", "abc")
    'a number'
    >>> misfit("int | None", None)
    >>> misfit("Literal['k1', 'k3']", "k2")
    "one of 'k1', 'k3'"
    """
    try:
        node = ast.parse(annotation, mode="eval").body
    except SyntaxError:
        return None
    wants = [_expected(part, value) for part in _union(node)]
    return None if None in wants else " or ".join(dict.fromkeys(w for w in wants if w))


def _union(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return [*_union(node.left), *_union(node.right)]
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Optional", "Union"):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return [*inner, *([ast.Constant(None)] if ast.unparse(node.value) == "Optional" else [])]
    return [node]


def _expected(node: ast.expr, value: object) -> str | None:
    """None where the value may be of this type, else the type in words."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(node, ast.Constant) and node.value is None:
        return None if value is None else "null"
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        allowed = ast.literal_eval(node.slice)
        allowed = allowed if isinstance(allowed, tuple) else (allowed,)
        return None if value in allowed else "one of " + ", ".join(repr(a) for a in allowed)
    if not isinstance(node, ast.Name):
        return None
    match node.id:
        case "bool":
            return None if isinstance(value, bool) else "true or false"
        case "int":
            return None if number and float(value).is_integer() else "a whole number"
        case "float":
            return None if number or _is_number(value) else "a number"
        case "str":
            return None if not isinstance(value, list | dict) else "a text"
        case _:
            return None


def _is_number(value: object) -> bool:
    """YAML 1.1 reads 1e-5 as a text; Hydra's command line reads it as a number. Both are meant as one."""
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
