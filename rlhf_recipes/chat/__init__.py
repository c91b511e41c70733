"""Talking with a model: how turns become its prompt, how it answers, and the terminal around it.

Read in this order: `template` and `sampling` (no torch), `speaker` (one model), `session`, `terminal`.
"""
