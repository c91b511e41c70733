"""What is done with reward models as a group; a single one is ppo/scoring.py's ModelReward."""
