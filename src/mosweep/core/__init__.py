"""Types, keys, store, claims, journal: what everything else stands on. Imports nothing else of
mosweep.
"""
