"""Before the hours are spent: what a stage will load, hold, cut and write, from its config alone.

`shapes` reads dimensions from a model's config, `memory` is arithmetic on them, `phases` says what each stage holds at
each of its moments, `fit` finds settings that make it smaller. Imported by the stages only.
"""
