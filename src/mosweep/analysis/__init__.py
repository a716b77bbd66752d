"""Contrasts, scores, effects and their statistics; contamination. Prints nothing."""
