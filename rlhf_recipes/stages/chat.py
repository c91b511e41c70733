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
    """Returns nothing: a talk leaves no stage behind, only what `/save` writes."""
    from rlhf_recipes.chat import sampling
    from rlhf_recipes.chat.chosen import speakers

    settings = sampling.of_config(cfg)
    chosen = speakers(cfg, run)
    with redirect_stdout(sys.stderr):  # whatever loading says is not part of an answer
        from transformers.utils.logging import disable_progress_bar  # torch: only when all else is right

        from rlhf_recipes.chat import speaker, terminal
        from rlhf_recipes.chat.session import Session
        from rlhf_recipes.preflight import check

        check.brief(cfg, run)
        if not sys.stderr.isatty():
            disable_progress_bar()
        names = _apart([found.name for found in chosen])
        talkers = [speaker.load(cfg, found, name) for found, name in zip(chosen, names, strict=True)]
    session = Session(talkers, settings)
    if cfg.prompt is not None:
        terminal.once(session, cfg.prompt)
        return {}
    for one in talkers:
        template = one.template.name.replace("\n", "\\n")
        terminal.note(f"{one.name}: {one.found.path}, template {template}")
    terminal.note("/help lists the commands")
    terminal.talk(session)
    return {}


def _apart(names: list[str]) -> list[str]:
    """Names that differ: the same model twice gets a number."""
    return [f"{name}#{names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]
