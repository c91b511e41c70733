"""What every trainer shares: arguments, fit, progress, callbacks and the controllers of beta.

PPOTrainer calls three events more than transformers' Trainer does, each with (args, state, control, ...):
    on_rollout(metrics={...}, trainer=...)   what a rollout measured of the weights, before an update learns from it
    on_samples(samples=[rows])               answers to held-out prompts
    on_experience(tokens=[rows])             one training answer token by token
"""
