"""What a sweep found: contrasts, scores, effects and their statistics. Prints nothing."""
