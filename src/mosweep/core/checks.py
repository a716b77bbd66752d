"""The checks that ``doctor`` prints. Each adapter checks its own requirements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Check", "check_libraries", "version_of"]


@dataclass(frozen=True)
class Check:
    """One finding. ``works`` is ``None`` if it only informs."""

    name: str
    works: bool | None
    finding: str


def version_of(distribution: str) -> str | None:
    """The installed version; ``None`` if it is not installed."""
    from importlib import metadata  # Slow to import, and only doctor needs it.

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check_libraries(name: str, distributions: Sequence[str], extra: str) -> Check:
    """Whether the libraries of mosweep's ``extra`` are installed."""
    versions = {distribution: version_of(distribution) for distribution in distributions}
    missing = [distribution for distribution, version in versions.items() if version is None]
    if missing:
        return Check(name, False, f"missing {', '.join(missing)}: pip install 'mosweep[{extra}]'")
    return Check(name, True, ", ".join(f"{name} {version}" for name, version in versions.items()))
