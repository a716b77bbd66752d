"""What the ``backend=torchtune`` makes of a trial's resources."""

from __future__ import annotations

import json

from tests.conftest import Shell


def test_a_batch_that_the_gpus_cannot_share_is_refused_before_anything_starts(shell: Shell) -> None:
    done = shell("-m", "resources.stages.finetune.gpus=3", "optim.batch_size=32")
    assert done.status == 2
    assert "resources.gpus=3: 3 processes" in done.err
    assert "batch_size=32 evenly; valid: 1, 2, 4, 8, 16, 32" in done.err
    assert len(done.err.splitlines()) == 1
    assert shell.files() == set()


def test_gpus_are_no_part_of_a_key(shell: Shell) -> None:
    def keys(*words: str) -> set[str]:
        return {
            job["key"]
            for job in json.loads(shell("plan", "model=tiny", "lora.rank=4", *words, "--json").out)[
                "jobs"
            ]
        }

    assert keys() == keys("resources.stages.finetune.gpus=4", "resources.stages.finetune.nodes=2")
