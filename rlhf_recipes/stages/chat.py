"""Talk with any stage's model in the terminal, or with two side by side; `prompt=` asks once."""

import sys
from contextlib import redirect_stdout

from omegaconf import DictConfig

from rlhf_recipes import finished
from rlhf_recipes.artifacts import StageRun
from rlhf_recipes.chat import sampling
from rlhf_recipes.errors import UserError


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns nothing: a talk leaves no stage behind, only what `/save` writes."""
    settings = sampling.of_config(cfg)
    places = [cfg.chat.models] if isinstance(cfg.chat.models, str) else list(cfg.chat.models or [None])
    chosen = [finished.find(run, place, "chat.models") for place in places]
    for found in chosen:
        if finished.kind(found.path) == "reward":
            raise UserError(
                f"{found.name} is a reward model: it scores, it does not write; try stage=score reward=model"
            )
    with redirect_stdout(sys.stderr):  # whatever loading says is not part of an answer
        from transformers.utils.logging import disable_progress_bar  # torch: only when all else is right

        from rlhf_recipes.chat import speaker, terminal
        from rlhf_recipes.chat.session import Session

        if not sys.stderr.isatty():
            disable_progress_bar()
        names = _apart([found.name for found in chosen])
        speakers = [speaker.load(cfg, found, name) for found, name in zip(chosen, names, strict=True)]
    session = Session(speakers, settings)
    if cfg.prompt is not None:
        terminal.once(session, cfg.prompt)
        return {}
    for one in speakers:
        template = one.template.name.replace("\n", "\\n")
        terminal.note(f"{one.name}: {one.found.path}, template {template}")
    terminal.note("/help lists the commands")
    terminal.talk(session)
    return {}


def _apart(names: list[str]) -> list[str]:
    """Names that differ: the same model twice gets a number."""
    return [f"{name}#{names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]
