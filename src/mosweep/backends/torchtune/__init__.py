"""``backend=torchtune``: LoRA fine-tunes with torchtune's recipes, on this machine or a cluster."""
