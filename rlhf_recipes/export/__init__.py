"""From a stage's model to a folder that needs this package no more: weights, tokenizer, stop tokens, model card.

Read in this order: `place` and `hub` (no torch), `merge`, `write`, `card`.
"""
