"""Ways to fine-tune a model. Each folder holds one complete backend."""
