"""What Hydra composed, checked: the schema, the names of TRL's fields, paths and sweeps. No torch."""
