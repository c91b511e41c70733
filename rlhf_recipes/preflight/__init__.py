"""Before the hours are spent: what a stage will hold, cut and write, and whether this machine has room for it.

`rehearsal` runs the stage's own code for one step over models without numbers, `remedies` looks for settings that make
it smaller, `check` says it. Called by the stages only.
"""
