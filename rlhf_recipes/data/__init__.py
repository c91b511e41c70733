"""Domains: rows of a kind (corpus, demos, preferences, prompts) from a file, a folder, the hub or the generator.

`check` is quick and needs no torch; `load` gives `datasets.Dataset`s ready for TRL's trainers.
"""

from rlhf_recipes.data.formats.rows import KINDS
from rlhf_recipes.data.loading import Split, check, load

__all__ = ["KINDS", "Split", "check", "load"]
