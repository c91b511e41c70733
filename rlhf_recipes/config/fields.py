"""The fields of a config class such as `trl.SFTConfig`, read from its source: `import trl` takes seconds.

Import statements lead from a package's `__init__` to the class, and its bases to the fields that it inherits. A field
allows a tuple of alternatives: the name of a type ("int", "None", "dict[str, Any]"), or a tuple of values.
"""

import ast
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

from rlhf_recipes.errors import UserError


@cache
def fields(target: str) -> dict[str, tuple]:
    """{field: its alternatives} of a dataclass, base classes first.

    Args:
        target: dotted path as Hydra's `_target_` has it, e.g. `trl.SFTConfig`.

    Raises:
        UserError: the package is not installed or holds no such class.
    """
    module, node = _class(*target.rpartition(".")[::2])
    if node is None:
        raise UserError(f"no class {target} is installed; expected a config class such as trl.SFTConfig in _target_")
    bases = [ast.unparse(base) for base in node.bases]
    result = {k: v for base in bases if _class(module, base)[1] for k, v in fields(f"{module}.{base}").items()}
    own = {ast.unparse(item.target): item.annotation for item in node.body if isinstance(item, ast.AnnAssign)}
    return result | {name: _alternatives(module, what) for name, what in own.items() if not name.startswith("_")}


def _class(module: str, name: str) -> tuple[str, ast.ClassDef | None]:
    """The class that `name` means inside `module`, and the module that defines it."""
    match _names(module).get(name):
        case (origin, original):
            return _class(origin, original)
        case node:
            return module, node


@cache
def _names(module: str) -> dict[str, ast.ClassDef | tuple[str, str]]:
    """A module's classes, and (module, name there) of what it imports."""
    top, *rest = module.split(".")
    spec = find_spec(top)  # find_spec("trl.trainer") would import trl
    file = Path(spec.origin) if spec and spec.origin else Path()
    if rest:
        path = file.parent.joinpath(*rest)
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file() or file.suffix != ".py":
        return {}
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    names = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names if origin != module}
    return names


def _alternatives(module: str, annotation: ast.expr) -> tuple:
    match annotation:
        case ast.BinOp(left, ast.BitOr(), right):
            return _union(module, [left, right])
        case ast.Subscript(ast.Name("Union"), ast.Tuple(parts)):
            return _union(module, parts)
        case ast.Subscript(ast.Name("Optional"), inner):
            return (*_alternatives(module, inner), "None")
        case ast.Subscript(ast.Name("Literal"), allowed):
            values = ast.literal_eval(allowed)
            return (values if isinstance(values, tuple) else (values,),)
        case ast.Name(name) if members := _members(_class(module, name)[1]):
            return (members,)
    return (ast.unparse(annotation),)


def _members(node: ast.ClassDef | None) -> list:
    """The values of an enumeration of constants; none of any other class."""
    if node is None or not any(ast.unparse(base).endswith("Enum") for base in node.bases):
        return []
    values = [item.value for item in node.body if isinstance(item, ast.Assign)]
    return [value.value for value in values if isinstance(value, ast.Constant)]


def _union(module: str, parts: list[ast.expr]) -> tuple:
    """The alternatives of each part; of `SomeEnum | str` only the texts that name a member (a list here)."""
    every = [alternative for part in parts for alternative in _alternatives(module, part)]
    named = any(isinstance(alternative, list) for alternative in every)
    return tuple(alternative for alternative in every if not (named and alternative == "str"))


_TYPES = {
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "int": ("a whole number", lambda value: _TYPES["float"][1](value) and value % 1 == 0),
    "float": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "str": ("a text", lambda value: value is not None and not isinstance(value, list | dict)),
    "None": ("null", lambda value: value is None),
}


def misfit(alternatives: tuple, value: object) -> str | None:
    """What a field expects where the value plainly is none of its alternatives; None where it may be one.

    Only the types that a person mistypes are judged; a field that allows any other is left to its class.

    >>> misfit(("int", "None"), "abc")
    'a whole number or null'
    >>> misfit((("k1", "k3"),), "k2")
    "one of 'k1', 'k3'"
    """
    expected = []
    for alternative in alternatives:
        if isinstance(alternative, list | tuple):
            fits, words = value in alternative, _one_of(alternative, value)
        elif alternative in _TYPES:
            fits, words = _TYPES[alternative][1](value), _TYPES[alternative][0]
        else:
            return None
        if fits:
            return None
        expected.append(words)
    return " or ".join(dict.fromkeys(expected))


def _one_of(values: tuple | list, value: object) -> str:
    """All values, or of a long list the six nearest to the one given."""
    if len(values) <= 12:
        return f"one of {', '.join(map(repr, values))}"
    near = get_close_matches(str(value), map(str, values), n=6, cutoff=0)
    return f"one of {', '.join(map(repr, near))} … ({len(values)} in all)"
