"""Base models and adapters as files: the generated tiny models, their tokenizer, LoRA merging."""
