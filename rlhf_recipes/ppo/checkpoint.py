"""Checkpoints that are whole or not there: written aside, listed, and renamed into place in one step."""

import os
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.trainer_utils import rotate_checkpoints

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.checkpoints import seal

STAGING = ".writing"
CRITIC_FILE = "critic.safetensors"


def publish(staged: Path, output_dir: Path, keep: int | None, best: str | None) -> None:
    """List a written checkpoint's files and sizes in it, flush them, rename it into output_dir, and remove old ones.

    Args:
        staged: the folder as it was written.
        keep: checkpoints that stay, None for all; best: the path of one that always stays.
    """
    place = output_dir / staged.name
    seal(staged)
    if place.exists():
        shutil.rmtree(place)
    os.replace(staged, place)
    rotate_checkpoints(output_dir=str(output_dir), save_total_limit=keep, best_model_checkpoint=best)


def _critic(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in module.state_dict().items() if not n.startswith("policy.")}


def save_critic(folder: Path, module: nn.Module) -> None:
    """Write what an ActorCritic holds beside its policy."""
    save_file({n: t.detach().cpu().contiguous() for n, t in _critic(module).items()}, folder / CRITIC_FILE)


def load_critic(folder: Path, module: nn.Module) -> None:
    """Read it back.

    Raises:
        UserError: the checkpoint holds another critic.
    """
    critic = load_file(folder / CRITIC_FILE)
    differs = sorted(set(_critic(module)) ^ set(critic))
    if differs:
        raise UserError(f"{folder} holds another critic (differs in {differs[:3]}); start a new run")
    module.load_state_dict(critic, strict=False)
