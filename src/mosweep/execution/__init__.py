"""Running a launch: the one path from a plan to recorded results."""
