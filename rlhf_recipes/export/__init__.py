"""From a stage's model to a folder that needs this package no more. Read `place` (no torch), `weights`, `card`."""
