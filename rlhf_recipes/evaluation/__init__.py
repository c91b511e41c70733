"""What a trained model is worth: answers, scores, divergence, perplexity, and who wins against whom.

Read in this order: `plan` (what was asked), `statistics` and `text` (no torch), `measure` and `likelihood`
(one model), `measured`, `summary` and `compare` (several), `benchmarks` (lm-evaluation-harness).
"""
