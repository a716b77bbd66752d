"""The documents of a bundle: read-me, citation, installed distributions and provenance."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from mosweep.core.store import Record
from mosweep.sweep.folder import Sweep

__all__ = ["README", "citation", "environment", "provenance"]

README = """# {title}

A sweep run with mosweep {version}, packed with everything behind its numbers. You can check it on
any machine that has mosweep:

    mosweep verify {name}.tar.gz

## What verification shows

That the parts of this bundle are consistent:

- Every file is the one that `MANIFEST.json` lists. None is missing, and none was added.
- Every record in `store/records` has its own digest, and the digest of its files and facts.
- Every stage's key follows from what defines it: its configuration, its code and the keys of its
  inputs. Every trial's id follows from its stages, and every launch's file name from its trials
  and stages. Every trial's `config.yaml` is the one that was launched.
- Means and accuracies are those of the samples in `samples.jsonl`. Other metrics, such as standard
  errors, are taken as recorded.

Weights and data sets may have been left out. Their SHA-256 is in the records, so you can compare a
copy from elsewhere.

## What it cannot show

That the numbers were measured. A bundle in which somebody has rewritten scores, samples, records
and manifest consistently still verifies: the digests only show that the parts match one another.
So compare two lines of `mosweep verify` with what the authors published elsewhere, such as in a
paper, a preregistration or a repository:

- `archive` is the SHA-256 of the whole file. If it is the same, nothing has changed since.
- `design` is the hash of what is in `sweep/` (`sha256sum` of its files, sorted by path, and
  `sha256sum` of that). If it was published before the results were known, these are all the trials
  that were planned.

To show more, run the sweep again: `sweep/experiment.yaml` has the command, `provenance.json` and
`environment.txt` have the versions.

Records and launches contain folder names and the host name of the machine that they ran on.
"""


def environment() -> bytes:
    """The installed distributions, as ``pip freeze`` lists them."""
    from importlib.metadata import distributions

    installed = {
        f"{distribution.name}=={distribution.version}"
        for distribution in distributions()
        if distribution.name
    }
    python = ".".join(map(str, sys.version_info[:3]))
    return "\n".join(
        [
            f"# Python {python}; installed where this bundle was packed",
            *sorted(installed, key=str.lower),
            "",
        ]
    ).encode()


def provenance(sweep: Sweep, records: Collection[Record]) -> dict[str, Any]:
    """Command, git, platform and versions of each launch, and versions that stages ran with."""
    launches = {
        launch.file: {
            "command": launch.design.get("command"),
            **launch.design.get("provenance", {}),
        }
        for launch in sweep.launches
    }
    used = Counter(json.dumps(record.data.get("versions", {})) for record in records)
    stages = [
        {"stages": count, "versions": json.loads(versions)}
        for versions, count in sorted(used.items())
    ]
    return {"launches": launches, "stages": stages}


def citation(
    title: str,
    name: str,
    design: str,
    records: Collection[Record],
    authors: Sequence[str],
) -> str:
    """A file in Citation File Format 1.2.0, which requires at least one author."""
    import yaml

    last = max((float(record.data.get("finished", 0)) for record in records), default=0.0)
    content = {
        "cff-version": "1.2.0",
        "type": "dataset",
        "message": "If you use these results, please cite them.",
        "title": title,
        "authors": [_author(author) for author in authors] or [{"name": f"The authors of {name}"}],
        "version": design[:12],
        "identifiers": [
            {
                "type": "other",
                "value": f"sha256:{design}",
                "description": "the hash of the frozen design",
            }
        ],
        **({"date-released": time.strftime("%Y-%m-%d", time.gmtime(last))} if last else {}),
    }
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    return text


def _author(text: str) -> dict[str, str]:
    """``Lovelace, Ada`` is a person. A name without a comma may be a group."""
    family, comma, given = (part.strip() for part in text.partition(","))
    return {"family-names": family, "given-names": given} if comma else {"name": family}
