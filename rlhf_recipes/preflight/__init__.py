"""Before the hours are spent: what a stage will hold and write, and whether this machine has room for it."""
