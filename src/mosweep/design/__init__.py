"""From the command line to trials: composition, factors, settings, and the Hydra application around
them.
"""
