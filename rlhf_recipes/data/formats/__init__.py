"""Row mappers: one pure function a format, found by its name here.

A mapper's positional parameters are the columns it reads (those without a default must be there), its keyword-only
parameters are `data.<kind>.options`, and its return annotation says what it gives (rows.py). A row it cannot use
raises Drop. To add a format, write such a function and import it here; a function of your own file works as
`data.<kind>.format=./mine.py:function`.
"""

from rlhf_recipes.data.formats.instructions import (
    alpaca,
    messages,
    prompt_completion,
    question_answer,
    self_instruct,
    sharegpt,
)
from rlhf_recipes.data.formats.maths import dapo, gsm8k, openmath
from rlhf_recipes.data.formats.preferences import alpaca_pair, hh, preference, question_pair, ranked, shp
from rlhf_recipes.data.formats.sql import nl2sql, wikisql
from rlhf_recipes.data.formats.texts import continuation, prompt, text
from rlhf_recipes.data.formats.trees import oasst1

__all__ = [
    "alpaca",
    "alpaca_pair",
    "continuation",
    "dapo",
    "gsm8k",
    "hh",
    "messages",
    "nl2sql",
    "oasst1",
    "openmath",
    "preference",
    "prompt",
    "prompt_completion",
    "question_answer",
    "question_pair",
    "ranked",
    "self_instruct",
    "sharegpt",
    "shp",
    "text",
    "wikisql",
]
