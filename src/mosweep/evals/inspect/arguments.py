"""Task arguments that name files: by content in the key, by absolute path when the task runs.

A relative path is taken from where the command was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosweep.core.digests import content_digest
from mosweep.core.paths import cached_here
from mosweep.core.task_code import edited

__all__ = ["with_digests", "with_paths"]

#: The keys of the mapping that stands for a file in the arguments.
_FILE = frozenset({"file", "sha256"})
#: Ends of names of arguments that hold paths.
_PATH_NAMES = ("path", "file", "dir", "folder", "directory")


def with_digests(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments with ``{"file": name, "sha256": digest}`` for existing files and folders.

    Also the absolute path of each, by digest.
    """
    paths: dict[str, str] = {}

    def keyed(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            return {key: keyed(item, str(key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [keyed(item, name) for item in value]
        path = _existing(value, name) if isinstance(value, str) else None
        if path is None:
            return value
        digest = _content(path)
        paths[digest] = str(path)
        return {"file": path.name, "sha256": digest}

    return {name: keyed(value, name) for name, value in arguments.items()}, paths


def with_paths(arguments: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """The arguments as the task gets them.

    Raises ``StageError`` if a file was edited since the stage was planned.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            if value.keys() == _FILE and (path := paths.get(str(value["sha256"]))):
                return _unchanged(Path(path), str(value["sha256"]))
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return {name: plain(value) for name, value in arguments.items()}


def _unchanged(path: Path, digest: str) -> str:
    if not path.exists() or content_digest(path) != digest:
        raise edited(str(path))
    return str(path)


def _existing(value: str, name: str) -> Path | None:
    """The file or folder that ``value`` names. A bare word counts only where a path is expected."""
    is_path = "/" in value or name.lower().endswith(_PATH_NAMES)
    if not is_path and not Path(value).suffix:
        return None
    try:
        path = Path(value).expanduser().absolute()
        return path if path.is_file() or (is_path and path.is_dir()) else None
    except (OSError, ValueError, RuntimeError):  # Too long, or no path at all.
        return None


_content = cached_here(content_digest)
