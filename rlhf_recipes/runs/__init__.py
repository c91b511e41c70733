"""What a run leaves behind, how a later command finds it, and how a stopped run goes on. No torch."""
