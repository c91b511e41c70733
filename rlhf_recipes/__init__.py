"""InstructGPT's three stages and their descendants as Hydra recipes over Hugging Face TRL."""

__version__ = "0.1.0"
