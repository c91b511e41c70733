"""What a trained model is worth: answers, scores, divergence, perplexity, and who wins against whom.

Read in this order: `statistics` and `text` (no torch), `measure` and `likelihood` (one model), `compare` (several).
"""
