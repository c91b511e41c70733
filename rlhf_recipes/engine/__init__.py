"""Reading and sampling a causal language model, written once: prompt tokens, generation, log-probabilities."""
