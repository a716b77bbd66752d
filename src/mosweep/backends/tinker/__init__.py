"""``backend=tinker``: LoRA fine-tunes with Tinker or a server with the same protocol."""
