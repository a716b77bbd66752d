"""The one path of a launch."""
