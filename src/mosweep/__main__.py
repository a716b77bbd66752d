"""``python -m mosweep``."""

from mosweep.core.imports import working_directory_last

working_directory_last()  # before the other imports

from mosweep.cli.main import main  # noqa: E402

main()
