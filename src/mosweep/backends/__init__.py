"""How models are fine-tuned: one folder is one backend, whole."""
