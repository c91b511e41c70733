"""How a talk becomes the text a model was trained on, as one Jinja chat template: here, and in what is exported.

A stage's model is spoken to as its rows were written (`data.template` of its config.yaml); any other model with its
tokenizer's chat template, where it has one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from rlhf_recipes.data.templates import ALPACA_NO_INPUT
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.resolve import Found

PATTERNS = {"plain": "{prompt}", "embedded": "User: {prompt}\nAssistant:"}
NAMES = ("auto", "chat", "plain", "alpaca", "hh", "embedded")


@dataclass(frozen=True)
class Template:
    """A name for the screen, and the Jinja text; None is the tokenizer's own."""

    name: str
    jinja: str | None

    @property
    def single(self) -> bool:
        """Whether its rows are questions by themselves, so that a model has never seen what was said before."""
        return self.name == "embedded"


def choose(setting: str, found: Found, has_own: bool, data: dict | None = None) -> Template:
    """The template to speak to a model with.

    Args:
        setting: chat.template: one of NAMES, a pattern with {prompt} in it, or a Jinja file.
        found: the model.
        has_own: whether its tokenizer has a chat template.
        data: the shell's `data` node, for a model that no stage made and that has no chat template.

    Raises:
        UserError: no such template, or `chat` without one.
    """
    if setting == "chat" and not has_own:
        raise UserError(f"chat.template=chat: the tokenizer of {found.name} has no chat template; give another")
    name = setting
    if setting == "auto":
        name = _trained_with(found) or ("chat" if has_own else _of_data(data or {}))
        name = "plain" if name == "chat" and not has_own else name
    if name == "chat":
        return Template("chat", None)
    if name in ("alpaca", "hh"):
        return Template(name, globals()[f"_{name}"]())
    if name in PATTERNS or "{prompt}" in name:
        pattern = PATTERNS.get(name, name.replace("\\n", "\n"))
        return Template(name, _pattern(pattern))
    if Path(name).is_file():
        return Template(Path(name).name, Path(name).read_text(encoding="utf-8"))
    raise UserError(
        f"chat.template={name}: expected one of {', '.join(NAMES)}, a pattern such as 'Q: {{prompt}}\\nA:', or a Jinja "
        "file"
    )


def with_bos(jinja: str, tokenizer) -> str:
    """The template with a BOS before it, where the tokenizer puts one before every text it is given."""
    ids = tokenizer("x")["input_ids"]
    begins = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
    return "{{ bos_token }}" + jinja if begins else jinja


def _trained_with(found: Found) -> str | None:
    if not found.config.get("data"):
        return None
    name = _of_data(found.config["data"])
    return "{prompt}\n\n" if name == "plain" and _ends_blank(found) else name


def _of_data(data: dict) -> str:
    """`embedded` for the embedded domain, whose rows carry their own marks; else data.template."""
    kinds = [data.get(kind) for kind in ("demos", "preferences", "prompts", "corpus")]
    if any(kind.get("path") == "embedded" for kind in kinds if isinstance(kind, dict)):
        return "embedded"
    return data.get("template") or "plain"


def _ends_blank(found: Found) -> bool:
    """Under `plain` a row of turns ends with a blank line and a string does not: a prompt of the run tells which."""
    for stage in (found.stage, "ppo", "grpo", "evaluate"):
        file = found.run / stage / "samples.jsonl"
        if file.is_file():
            with file.open(encoding="utf-8") as lines:
                prompt = json.loads(next(lines, "{}")).get("prompt")
            if isinstance(prompt, str):
                return prompt.endswith("\n\n")
    return False


def _pattern(pattern: str) -> str:
    """Before and after the words; an answer follows a mark such as `Assistant:` with a space, else as it is."""
    before, _, after = pattern.partition("{prompt}")
    marked = bool(after) and not after[-1].isspace()
    answer = "' ' + (message['content'] | trim)" if marked else "message['content']"
    between = "\n" if marked else "\n\n"
    return _loop(
        user=f"{_quoted(before)} + message['content'] + {_quoted(after)}",
        assistant=f"{answer} + {_quoted(between)}",
        system=f"message['content'] + {_quoted(between)}",
    )


def _alpaca() -> str:
    opening, mark, rest = ALPACA_NO_INPUT.partition("### Instruction:")
    before, _, after = rest.partition("{instruction}")
    block = f"{_quoted(mark + before)} + message['content'] + {_quoted(after)}"
    first = f"({_quoted(opening)} if seen.user == 1 else '')"
    said = "message['content'] + '\\n\\n'"
    return _loop(user=f"{first} + {block}", assistant=said, system=said)


def _hh() -> str:
    return (
        _loop(
            user="'\\n\\nHuman: ' + message['content']",
            assistant="'\\n\\nAssistant: ' + (message['content'] | trim)",
            system="'\\n\\n' + message['content']",
        )
        + "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
    )


def _loop(user: str, assistant: str, system: str) -> str:
    return (
        "{% set seen = namespace(user=0) %}{% for message in messages %}"
        "{% if message['role'] == 'user' %}{% set seen.user = seen.user + 1 %}{{ " + user + " }}"
        "{% elif message['role'] == 'assistant' %}{{ " + assistant + " }}"
        "{% else %}{{ " + system + " }}{% endif %}{% endfor %}"
    )


def _quoted(text: str) -> str:
    return json.dumps(text)  # a Jinja literal knows JSON's escapes
