"""mosweep's Hydra plug-ins.

Every Hydra application imports them when it starts, so they must not import anything heavy.
"""
