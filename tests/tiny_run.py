"""What makes a run of the embedded domain tiny: hidden 32, two layers, a few hundred rows."""

STEPS = [
    "trainer.max_steps=4",
    "trainer.per_device_train_batch_size=8",
    "trainer.gradient_accumulation_steps=1",
    "trainer.gradient_checkpointing=false",
    "trainer.logging_steps=1",
    "trainer.save_steps=2",
]
SMALL = [
    "model.init.hidden_size=32",
    "model.init.intermediate_size=64",
    "model.init.num_hidden_layers=2",
    "model.init.num_attention_heads=4",
    "model.init.num_key_value_heads=4",
    "model.tokenizer_init.vocab_size=512",
    "data.corpus.limit=120",
    "data.demos.limit=160",
    "data.preferences.limit=160",
    "data.prompts.limit=200",
]
