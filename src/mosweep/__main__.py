"""``python -m mosweep``."""

from mosweep.cli.main import main

main()
