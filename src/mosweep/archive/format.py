"""The format of a bundle: names, hashes and rules that packing and verifying share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosweep.core import fingerprint
from mosweep.core.errors import MosweepError
from mosweep.core.work import Kind

__all__ = [
    "FORMAT",
    "MANIFEST",
    "UNEXPECTED",
    "Unreadable",
    "design_hash",
    "may_be_left_out",
    "seal_of",
]

#: Version of the bundle format.
FORMAT = 1
#: The file that lists all other files.
MANIFEST = "MANIFEST.json"

#: Exceptions that malformed data raises.
UNEXPECTED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)

_WEIGHTS = frozenset(".safetensors .bin .pt .pth .ckpt .gguf .npz .npy .h5 .msgpack .onnx".split())


class Unreadable(MosweepError):
    """An archive that cannot be read, or is refused."""


def design_hash(digests: Mapping[str, str]) -> str:
    """The hash of a frozen design, from the SHA-256 of each of its files by path.

    It is the SHA-256 of what ``sha256sum`` prints for the files, sorted by path.
    """
    return fingerprint.digest_bytes(
        "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()
    )


def seal_of(manifest: Mapping[str, Any]) -> str:
    """The digest of a manifest, which is stored in its ``seal``."""
    return fingerprint.fingerprint(
        {name: value for name, value in manifest.items() if name != "seal"}
    )


def may_be_left_out(kind: Kind, name: str) -> bool:
    """Whether bundles exclude a file by default: weights and data sets."""
    return kind.leaves == "data" or Path(name).suffix in _WEIGHTS
