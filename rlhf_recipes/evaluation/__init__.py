"""What a trained model is worth: answers, scores, divergence, perplexity, and who wins against whom.

Read in this order: `plan` (the settings), `statistics` and `text` (no torch), `answers` and `likelihood` (one model),
`measure` and `compare` (several), `benchmarks` (lm-evaluation-harness).
"""
