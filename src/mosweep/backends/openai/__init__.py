"""``backend=openai``: fine-tuning jobs at OpenAI."""
