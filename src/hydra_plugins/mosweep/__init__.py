"""mosweep's Hydra plug-ins. Hydra imports them at every start of every Hydra application, so they
import nothing heavy.
"""
