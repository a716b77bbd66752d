"""``backend=torchtune``: LoRA fine-tunes with torchtune, on this machine or a cluster."""
