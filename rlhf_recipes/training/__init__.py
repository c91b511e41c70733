"""What every trainer shares: arguments, fit, progress, callbacks and the controllers of beta.

PPO, GRPO and RLOO call events that transformers' Trainer lacks, each with (args, state, control, ...):
    on_update(metrics={...})                 after every update, whatever is logged: what it measured by TRL's names,
                                             `episode` (episodes so far) and `objective/kl` (nats a response)
    on_samples(samples=[rows])               answers to held-out prompts
    on_rollout(metrics={...}, trainer=...)   PPO: what a rollout measured, before an update learns from it
    on_experience(tokens=[rows])             PPO: one training answer token by token
"""
