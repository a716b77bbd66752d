"""skyrl's Tinker server, run with its own interpreter: ``python api.py --base-model NAME --port N
--workdir DIR``.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--backend-config", default="{}")
    parser.add_argument("--until", type=int)
    given = parser.parse_args()
    if given.until:
        threading.Thread(target=die_with, args=[given.until], daemon=True).start()
    if importlib.util.find_spec("torch") is None:
        # for the engine's process; ours imports neither peft nor torch in earnest
        os.environ["PYTHONPATH"] = str(HERE / "stubs")
        sys.path.insert(0, str(HERE / "stubs"))

    import uvicorn
    import wire
    from skyrl.tinker import api, config

    start = asyncio.create_subprocess_exec

    async def start_engine(*command: str, **options: Any) -> Any:
        """The engine under our own interpreter, with our corrections; skyrl would start it with
        ``uv run``.
        """
        arguments = command[command.index("skyrl.tinker.engine") + 1 :]
        return await start(
            sys.executable,
            str(HERE / "engine.py"),
            *arguments,
            preexec_fn=die_with_parent,
            **options,
        )

    asyncio.create_subprocess_exec = start_engine  # type: ignore[assignment]
    api._get_parent_uv_run_args = lambda *_: []
    wire.install(api)
    options = argparse.ArgumentParser()
    config.add_model(options, config.EngineConfig)
    options.set_defaults(
        backend="jax",
        session_timeout_sec=60,
        session_cleanup_interval_sec=10,
        checkpoints_base=str(given.workdir / "checkpoints"),
        database_url=f"sqlite:///{given.workdir}/tinker.db",
    )
    parsed = vars(
        options.parse_args(
            ["--base-model", given.base_model, "--backend-config", given.backend_config]
        )
    )
    known = config.EngineConfig.model_fields
    api.app.state.engine_config = config.EngineConfig.model_validate(
        {name: value for name, value in parsed.items() if name in known}
    )
    uvicorn.run(api.app, host="127.0.0.1", port=given.port, log_level="warning")


def die_with(process: int) -> None:
    """End when ``process`` has ended, so that tests which were killed leave no server."""
    while Path(f"/proc/{process}").exists():
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def die_with_parent() -> None:
    """Have Linux end this process when the one that started it dies, so that no second engine ever
    works on one database.
    """
    ctypes.CDLL(None).prctl(1, 9)


if __name__ == "__main__":
    main()
