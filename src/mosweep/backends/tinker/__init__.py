"""``backend=tinker``: LoRA fine-tunes with Tinker, or a server that speaks its protocol."""
