"""The fields of a configuration class, read from its source: `import trl` takes seconds, a typo should not.

`trl.SFTConfig`, `peft.LoraConfig` and our own PPOConfig are found by following import statements from the package's
`__init__`, their dataclass fields by following base classes, and the names an enumeration allows likewise; nothing is
imported and so nothing is slow.
"""

import ast
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rlhf_recipes.errors import UserError

_SIMPLE = ("bool", "int", "float", "str", "dict")
_SHOWN = 12  # of the values that a field allows


@cache
def fields(target: str) -> dict[str, str]:
    """Field names of a dataclass and their annotations as written.

    Args:
        target: dotted path as Hydra's `_target_` has it, e.g. `trl.SFTConfig`.

    Returns:
        {name: annotation}, base classes first. `SomeEnum | str` reads as `Literal[...]` of that enumeration's values.

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
            result |= _own(*parent) if not parent[1].bases else fields(f"{parent[0]}.{parent[1].name}")
    return result | _own(module, node)


def _own(module: str, node: ast.ClassDef) -> dict[str, str]:
    return {
        item.target.id: _spelt_out(module, item.annotation)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_")
    }


def _spelt_out(module: str, annotation: ast.expr) -> str:
    """An annotation as written; but where a text stands for a member of an enumeration, the texts that do."""
    parts = {ast.unparse(part): part for part in _union(annotation)}
    if "str" in parts:
        for name in [n for n, part in parts.items() if isinstance(part, ast.Name) and n not in _SIMPLE]:
            if values := _members(module, name):
                rest = [n for n in parts if n not in ("str", name)]
                return " | ".join([f"Literal[{', '.join(map(repr, values))}]", *rest])
    return ast.unparse(annotation)


def _members(module: str, name: str) -> list[str]:
    """The values of an enumeration of texts; none where the class is anything else."""
    found = _find(module, name)
    if found is None or not any(ast.unparse(base).endswith("Enum") for base in found[1].bases):
        return []
    values = [item.value for item in found[1].body if isinstance(item, ast.Assign)]
    texts = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return texts if len(texts) == len(values) else []


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
        parts = [part for one in inner for part in _union(one)]
        return [*parts, *([ast.Constant(None)] if ast.unparse(node.value) == "Optional" else [])]
    return [node]


def _expected(node: ast.expr, value: object) -> str | None:
    """None where the value may be of this type, else the type in words."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(node, ast.Constant) and node.value is None:
        return None if value is None else "null"
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        allowed = ast.literal_eval(node.slice)
        allowed = allowed if isinstance(allowed, tuple) else (allowed,)
        return None if value in allowed else _one_of(allowed, value)
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


def _one_of(allowed: tuple, value: object) -> str:
    """All that is allowed, or of a long list what is nearest to the value."""
    if len(allowed) > _SHOWN:
        near = get_close_matches(str(value), map(str, allowed), n=_SHOWN // 2, cutoff=0)
        return f"one of {', '.join(map(repr, near))} … ({len(allowed)} in all)"
    return f"one of {', '.join(map(repr, allowed))}"


def _is_number(value: object) -> bool:
    """YAML 1.1 reads 1e-5 as a text; Hydra's command line reads it as a number. Both are meant as one."""
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
