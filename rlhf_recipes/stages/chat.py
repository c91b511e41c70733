"""Talk with any stage's model in the terminal, or with two side by side; `prompt=` asks once."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Stage

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(name="chat", title="Chat", single_process=True)


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns nothing: a talk leaves no stage behind, only what `/save` writes.

    Raises:
        KeyboardInterrupt: Ctrl-C during the answer to `prompt=`, once what was written until then is on the screen.
    """
    from rlhf_recipes.chat import chosen_models
    from rlhf_recipes.errors import UserError

    if cfg.prompt is not None and not cfg.prompt.strip():
        raise UserError('prompt= is empty; expected a question, as in prompt="What is 3 plus 4?"')
    chosen = chosen_models(cfg, run)
    with redirect_stdout(sys.stderr):  # what loading prints is not part of an answer
        from transformers.utils.logging import disable_progress_bar  # torch: only when all else is right

        from rlhf_recipes.chat.speaker import Speaker
        from rlhf_recipes.chat.terminal import Talk, note

        if not sys.stderr.isatty():
            disable_progress_bar()
        names = _apart([model.name for model in chosen])
        talk = Talk([Speaker(cfg, model, name) for model, name in zip(chosen, names, strict=True)], cfg)
    if cfg.prompt is not None:
        if talk.answer(cfg.prompt)[-1].stopped:
            raise KeyboardInterrupt
        return {}
    for speaker in talk.speakers:
        template = speaker.template.name.replace("\n", "\\n")
        note(f"{speaker.name}: {speaker.source.path}, template {template}")
    note("/help lists the commands")
    talk.run()
    return {}


def _apart(names: list[str]) -> list[str]:
    """Names that differ: the same model twice gets a number."""
    return [f"{name}#{names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]
