"""Whether anything listens at the address of a model.

Inspect repeats a refused connection without end, and says nothing of it in the terminal.
"""

from __future__ import annotations

import os
import socket
import time
from urllib.parse import urlsplit

from mosweep.core.errors import UserError

__all__ = ["await_endpoint"]

#: Seconds that a server that refuses connections gets to start.
PATIENCE_S = 5.0


def await_endpoint(model: str, base_url: str | None, patience_s: float = PATIENCE_S) -> None:
    """Raise ``UserError`` if the server of ``model`` still refuses connections after a while.

    Without ``base_url`` its address is in the environment, as in ``OPENAI_BASE_URL``, or it is the
    provider's own, which is not asked.
    """
    provider, _, rest = model.partition("/")
    if provider == "openai-api":
        provider = rest.partition("/")[0]
    variable = f"{provider.upper().replace('-', '_')}_BASE_URL"
    address = base_url or os.environ.get(variable)
    if not address:
        return
    deadline = time.monotonic() + patience_s
    while _refuses(address):
        if time.monotonic() > deadline:
            setting = "inspect.model_base_url" if base_url else variable
            raise UserError(
                f"{model}: {address} refuses connections; start the server there, or change "
                f"{setting}"
            )
        time.sleep(0.5)


def _refuses(address: str) -> bool:
    from urllib.request import getproxies, proxy_bypass

    url = urlsplit(address)
    if url.scheme in getproxies() and not proxy_bypass(url.hostname or ""):
        return False
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        with socket.create_connection((url.hostname or "", port), timeout=5):
            return False
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):  # Behind a proxy, or not known here: Inspect says what it is.
        return False
