"""Row mappers: one pure function a format, found by its name in FORMATS.

A mapper's positional parameters are the columns it reads (those without a default must be there), its keyword-only
parameters are `data.<kind>.options`, and its return annotation says what it gives (rows.py). A row it cannot use
raises Drop. To add a format, write such a function and list it here; a function of your own file works as
`data.<kind>.format=./mine.py:function`.
"""

from rlhf_recipes.data.formats import instructions, maths, preferences, sql, texts, trees

FORMATS = {
    mapper.__name__: mapper
    for mapper in (
        *(instructions.alpaca, instructions.messages, instructions.prompt_completion, instructions.question_answer),
        *(instructions.self_instruct, instructions.sharegpt, instructions.instruction_response),
        *(instructions.prompt_response, instructions.orca),
        *(maths.dapo, maths.gsm8k, maths.openmath),
        *(preferences.alpaca_pair, preferences.hh, preferences.preference, preferences.question_pair),
        *(preferences.ranked, preferences.shp, preferences.unpaired, preferences.kto),
        *(sql.nl2sql, sql.wikisql),
        *(texts.continuation, texts.prompt, texts.text),
        trees.oasst1,
    )
}
