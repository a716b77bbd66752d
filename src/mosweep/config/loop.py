"""The group ``loop`` of a trial's configuration: fine-tuning in rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from mosweep.core.errors import ConfigError
from mosweep.core.fingerprint import unkeyed
from mosweep.core.schema import between

__all__ = ["EvalOps", "Loop"]


@dataclass(frozen=True)
class EvalOps:
    """The section ``loop.evalops``: an EvalOps service that receives each round when it ends.

    The key is read from ``EVALOPS_API_KEY``. If the service does not answer, the loop warns and
    continues. At its end, a launch spends up to five seconds on unreported rounds, and waits up to
    ``timeout_s`` for a pending response.
    """

    url: str | None = None
    """Address of the service; null: rounds are not reported."""
    suite: str | None = None
    """Id of the test suite that the test runs belong to."""
    tries: int = field(default=3, metadata=between(ge=1, le=10))
    """Attempts per request before reporting pauses."""
    timeout_s: float = field(default=10.0, metadata=between(gt=0, le=300))
    """Seconds that one request may take."""

    def __post_init__(self) -> None:
        if self.url is not None and not _is_address(self.url):
            raise ConfigError(
                "url",
                self.url,
                "expected an address such as https://evalops.dev, or https://HOST:PORT/PATH",
            )
        if self.url is not None and self.suite is None:
            raise ConfigError("suite", None, "loop.evalops.url needs the id of a test suite")


def _is_address(url: str) -> bool:
    """Whether requests can be sent to paths below ``url``."""
    try:
        parts = urlsplit(url)
        known = bool((parts.hostname or "").encode("idna")) and parts.port != 0
    except ValueError:  # Invalid brackets, an invalid port, or an invalid name.
        return False
    plain = url.isascii() and url.isprintable() and not set(url) & set(" ?#")
    return known and plain and parts.scheme in ("http", "https")


@dataclass(frozen=True)
class Loop:
    """The group ``loop``: fine-tuning in rounds, each evaluated, until one is good enough.

    The learning rate of round k peaks at ``lr · lr_decay^(k-1)``, not below ``min_lr``. Over the
    whole run it warms up and falls as a cosine (``stages.loop.schedule``).
    """

    enabled: bool = False
    """Train in rounds."""
    task: str | None = None
    """The evaluation that is watched; null: that of ``primary_metric``, else the trial's task."""
    metric: str | None = None
    """The metric that is watched; null: that of ``primary_metric``, else the only one."""
    threshold: float = field(default=0.8, metadata=between(ge=0, le=1))
    """The score that ends the loop. If no round reaches it, the trial fails."""
    max_rounds: int = field(default=3, metadata=between(ge=1, le=100))
    """Maximum number of rounds."""
    steps_per_round: int = field(default=100, metadata=between(ge=1))
    """Optimizer steps in a round."""
    max_steps: int | None = field(default=None, metadata=between(ge=1))
    """Length of the whole run in optimizer steps; null: ``max_rounds · steps_per_round``."""
    lr_decay: float = field(default=0.8, metadata=between(gt=0, le=1))
    """Factor by which the peak learning rate falls from round to round."""
    min_lr: float = field(default=0.0, metadata=between(ge=0))
    """The learning rate that the run ends with, and the lowest peak."""
    warmup_steps: int = field(default=0, metadata=between(ge=0))
    """Steps in which the learning rate rises to its peak, once per run."""
    use_recommended_lr: bool = False
    """Use tinker-cookbook's learning rate for the model. Do not combine it with a given rate."""
    batch_size: int | None = field(default=None, metadata=between(ge=1))
    """Samples in one optimizer step; null: ``optim.batch_size``, else as the recipe says."""
    max_seq_length: int | None = field(default=None, metadata=between(ge=1))
    """Tokens after which a sample is truncated; null: as the recipe says."""
    renderer: str | None = None
    """The renderer of tinker-cookbook that formats chats; null: the model's."""
    hard_examples: Literal["off", "boost", "mine"] | bool = "off"
    """How the next round uses examples of groups in which evaluation samples failed: like all
    others (``off``), more often (``boost``), or as its only examples (``mine``).
    """
    hard_factor: float = field(default=3.0, metadata=between(ge=1))
    """With ``boost``: weight of an example whose group failed completely."""
    hard_by: Sequence[str] | None = None
    """Keys of the samples' metadata that form groups; null: ``topic``, ``task`` and what scorers
    record.
    """
    evalops: EvalOps = field(default=EvalOps(), metadata=unkeyed)
    """An EvalOps service that receives the rounds."""

    def __post_init__(self) -> None:
        if self.hard_examples is False:  # YAML reads an unquoted off as false.
            object.__setattr__(self, "hard_examples", "off")
        if self.hard_examples is True:
            raise ConfigError("hard_examples", "true", "valid: off, boost, mine")
        if self.hard_factor != 3.0 and self.hard_examples != "boost":
            raise ConfigError("hard_factor", self.hard_factor, "needs loop.hard_examples=boost")
        if self.hard_by is not None and self.hard_examples == "off":
            raise ConfigError(
                "hard_by", list(self.hard_by), "needs loop.hard_examples=boost or mine"
            )
        if self.hard_by is not None and not self.hard_by:
            raise ConfigError(
                "hard_by", "[]", "is empty; use null for topic, task and what scorers record"
            )
        if self.warmup_steps >= self.total_steps:
            length = (
                "loop.max_steps" if self.max_steps else "loop.max_rounds · loop.steps_per_round"
            )
            raise ConfigError(
                "warmup_steps",
                self.warmup_steps,
                f"must be less than the run's {self.total_steps} steps ({length})",
            )

    @property
    def total_steps(self) -> int:
        """The optimizer steps of the whole run, which the learning rate's schedule covers."""
        return self.max_steps or self.max_rounds * self.steps_per_round

    @property
    def rounds(self) -> int:
        """The maximum number of rounds. ``max_steps`` may allow fewer than ``max_rounds``."""
        return min(self.max_rounds, math.ceil(self.total_steps / self.steps_per_round))
