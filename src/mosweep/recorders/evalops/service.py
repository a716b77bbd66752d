"""The requests to EvalOps: ``POST URL/api/v1/test-runs/`` with a bearer key.

This module must not know sweeps. The end of a launch waits for a pending answer, but for no retry.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from mosweep.config.loop import EvalOps
from mosweep.core.errors import MosweepError, UserError
from mosweep.core.providers import retry_after

__all__ = ["KEY", "Refused", "Service", "api_key"]

#: Environment variable with the key.
KEY = "EVALOPS_API_KEY"
#: The pause before the first retry, in seconds.
FIRST_S = 0.25
#: The longest pause, in seconds.
LONGEST_S = 10.0
#: Seconds in which the end of a launch still starts requests.
GRACE_S = 5.0
#: The longest time for recording an answer, in seconds.
NOTING_S = 1.0
#: Statuses from 400 to 499 that are not about the test run. All others refuse it.
NOT_ABOUT_THE_RUN = (401, 403, 408, 429)


class Refused(MosweepError):
    """EvalOps does not accept this test run."""


class Service:
    """Requests to EvalOps, until the launch ends."""

    def __init__(self, options: EvalOps) -> None:
        self.options = options
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._asked_at = -math.inf
        self._ends_at = math.inf

    def end(self) -> None:
        """The launch ends: start no requests after ``GRACE_S``, and skip pauses beyond it."""
        self._ends_at = time.monotonic() + GRACE_S
        self._ending.set()

    def seconds_left(self) -> float:
        """How long the answer to the last request, including its recording, may still take."""
        with self._lock:
            due = self._asked_at + self.options.timeout_s + NOTING_S
        return max(0.0, due - time.monotonic())

    def post(self, body: Mapping[str, Any]) -> str | None:
        """Create a test run and return its id, if the answer has one.

        Raises ``Refused`` if EvalOps does not accept it, and ``MosweepError`` if it cannot be
        reached after all retries.
        """
        url = f"{str(self.options.url).rstrip('/')}/api/v1/test-runs/"
        headers = {
            "Authorization": f"Bearer {api_key()}",
            "Content-Type": "application/json",
            "User-Agent": "mosweep",
        }
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirects)
        problem = "the launch ended first"
        for attempt in range(1, self.options.tries + 1):
            if not self._may_begin():
                break
            pause = random.uniform(0.5, 1.0) * min(FIRST_S * 2 ** (attempt - 1), LONGEST_S)
            try:
                with opener.open(request, timeout=self.options.timeout_s) as answer:
                    return _id(answer.read())
            except urllib.error.HTTPError as error:
                problem = f"{url} answers {error.code} {error.reason}"
                if 400 <= error.code < 500 and error.code not in NOT_ABOUT_THE_RUN:
                    raise Refused(problem) from None
                if error.code < 500 and error.code not in (408, 429):
                    raise MosweepError(problem) from None
                headers_in = {name.lower(): value for name, value in error.headers.items()}
                pause = max(pause, min(retry_after(headers_in) or 0.0, LONGEST_S))
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                problem = f"{url}: {str(reason) or type(error).__name__}"
            problem += f" (attempt {attempt} of {self.options.tries})"
            if attempt < self.options.tries:
                self._sleep(pause)
        raise MosweepError(problem)

    def _may_begin(self) -> bool:
        """Whether a request may start. If so, the end of the launch waits for its answer."""
        with self._lock:
            now = time.monotonic()
            if now < self._ends_at:
                self._asked_at = now
            return now < self._ends_at

    def _sleep(self, seconds: float) -> None:
        """Sleep, unless no request may start afterwards."""
        until = time.monotonic() + seconds
        if self._ending.wait(seconds) and until < self._ends_at:
            time.sleep(max(0.0, until - time.monotonic()))


def api_key() -> str:
    """The API key. Raises ``UserError`` if it is missing, or cannot be sent in a header."""
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise UserError(f"loop.evalops.url needs a key in the environment variable {KEY}")
    # A later error would show the key.
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the key in the environment variable {KEY} has invalid characters")
    return key


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirects: the key is for one address, and a ``GET`` creates no test run."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """A redirect is an error."""


def _id(answer: bytes) -> str | None:
    """The id of the test run, if the answer has one."""
    try:
        parsed = json.loads(answer)
    except ValueError:
        return None
    data = parsed.get("data", parsed) if isinstance(parsed, dict) else {}
    known = data.get("id") if isinstance(data, dict) else None
    return None if known is None else str(known)
