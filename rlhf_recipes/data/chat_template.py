"""The chat template that users speak to a finished model with: in `stage=chat`, in what is exported, and in preflight.

A stage's model is prompted as its rows were written (`data.template` of its config.yaml); any other model with its
tokenizer's chat template, where it has one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from rlhf_recipes.data.templates import TABLE, Template
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.resolve import ModelSource

PATTERNS = {"plain": "{prompt}", "embedded": "User: {prompt}\nAssistant:"}
NAMES = ("auto", "chat", "plain", "alpaca", "hh", "embedded")


@dataclass(frozen=True)
class ChatTemplate:
    """A name for the screen, and the Jinja text; None stands for the tokenizer's own template."""

    name: str
    jinja: str | None

    @property
    def single_turn(self) -> bool:
        """Whether the rows were single questions, so that the model has never seen earlier turns."""
        return self.name == "embedded"

    def with_bos(self, tokenizer) -> str:
        """The Jinja text with a BOS first, where the tokenizer puts one before every text it encodes."""
        ids = tokenizer("x")["input_ids"]
        begins = tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
        return "{{ bos_token }}" + self.jinja if begins else self.jinja


def choose(setting: str, model: ModelSource, has_own: bool, data: dict | None = None) -> ChatTemplate:
    """The template to speak to a model with.

    Args:
        setting: chat.template: one of NAMES, a pattern with {prompt} in it, or a Jinja file.
        model: where the model lies, and the config of the stage that made it.
        has_own: whether its tokenizer has a chat template.
        data: the shell's `data` node, for a model that no stage made and that has no chat template.

    Raises:
        UserError: there is no such template, or `chat` was asked of a tokenizer without one.
    """
    if setting == "chat" and not has_own:
        raise UserError(f"chat.template=chat: the tokenizer of {model.name} has no chat template; give another")
    name = setting
    if setting == "auto":
        name = _trained_with(model) or ("chat" if has_own else _of_data(data or {}))
        name = "plain" if name == "chat" and not has_own else name
    if name == "chat":
        return ChatTemplate("chat", None)
    if name in PATTERNS or "{prompt}" in name:
        return ChatTemplate(name, _from_pattern(PATTERNS.get(name, name.replace("\\n", "\n"))).jinja())
    if name in TABLE:
        return ChatTemplate(name, TABLE[name].jinja())
    if Path(name).is_file():
        return ChatTemplate(Path(name).name, Path(name).read_text(encoding="utf-8"))
    raise UserError(
        f"chat.template={name}: expected one of {', '.join(NAMES)}, a pattern such as 'Q: {{prompt}}\\nA:', or a Jinja "
        "file"
    )


def _trained_with(model: ModelSource) -> str | None:
    if not model.config.get("data"):
        return None
    name = _of_data(model.config["data"])
    return "{prompt}\n\n" if name == "plain" and _ends_with_blank_line(model) else name


def _of_data(data: dict) -> str:
    """`embedded` for the embedded domain, whose rows carry their own marks; else data.template."""
    kinds = [data.get(kind) for kind in ("demos", "preferences", "prompts", "corpus")]
    if any(kind.get("path") == "embedded" for kind in kinds if isinstance(kind, dict)):
        return "embedded"
    return data.get("template") or "plain"


def _ends_with_blank_line(model: ModelSource) -> bool:
    """Under `plain` a row of turns ends with a blank line and a string does not: the run's samples show which it was.

    The model's own stage is asked first, then any other stage of the run.
    """
    others = sorted(model.run.glob("*/samples.jsonl"))
    for file in (model.folder / "samples.jsonl", *others):
        if file.is_file():
            with file.open(encoding="utf-8") as lines:
                prompt = json.loads(next(lines, "{}")).get("prompt")
            if isinstance(prompt, str):
                return prompt.endswith("\n\n")
    return False


def _from_pattern(pattern: str) -> Template:
    """A user turn as the pattern says. An answer follows a mark such as `Assistant:` with a space, else as it is."""
    before, _, after = pattern.partition("{prompt}")
    marked = bool(after) and not after[-1].isspace()
    end = "\n" if marked else "\n\n"
    lead = " " if marked else ""
    return Template(user=(before, after), assistant=(lead, end), system=("", end), lead=lead)
