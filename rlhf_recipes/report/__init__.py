"""What a run left behind, made readable: tables in the terminal, one HTML page, the same as Markdown. No torch here.

Read in this order: `run` (the artifacts); `content` (all that is said, as `blocks`, from `tables`, `curves`, `trust`
and `provenance`); its two writers, `pages` and `terminal`. `svg` lays charts out. Nothing here knows a stage by name:
titles and order come from the stages' own descriptions, tables and charts follow from the metrics that a stage has.
"""
