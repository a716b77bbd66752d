"""Models as files: generated tiny base models, their tokenizer, and LoRA adapters."""
