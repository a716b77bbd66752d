"""Sweeps and stores carried elsewhere: archives that anyone can verify, and what is done with the
store.
"""
