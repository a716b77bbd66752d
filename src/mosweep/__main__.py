"""``python -m mosweep``."""

from mosweep.cli import main

main()
