"""Start the processes of a run on several GPUs or nodes, and stop them together.

``child`` loads this file by path. It must not import mosweep.

torchrun starts the processes on one machine as ``child.py FOLDER rank``. On several nodes of a
Slurm job, srun starts ``child.py FOLDER agent ENDPOINT ID`` on each node, which calls torchrun.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["RankError", "agent", "end_with_parent", "srun", "torchrun", "watch"]

#: The script that the processes run.
CHILD = str(Path(__file__).with_name("child.py"))
PR_SET_PDEATHSIG = 1


def watch(lifeline: int) -> None:
    """Kill this process group when the other end of the pipe ``lifeline`` is closed.

    It is closed when the process that waits for the result ends.
    """

    def listen() -> None:
        os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent, torchrun, ends.

    torchrun starts it in a separate session, so signals to the group do not reach it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class RankError(RuntimeError):
    """One of several processes failed."""


def torchrun(folder: Path, spec: Mapping[str, Any], rendezvous: list[str]) -> None:
    """Run the recipe in ``spec["processes"]`` processes on this machine.

    Raises ``RankError`` with the first process that failed and the reason. If a process was killed,
    or if this process receives a signal, it raises ``SystemExit`` with 128 plus the signal.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        arguments = [
            *rendezvous,
            "--nproc-per-node",
            str(spec["processes"]),
            CHILD,
            str(folder),
            "rank",
        ]
        run(parse_args(arguments))  # type: ignore[no-untyped-call]
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            print(
                f"RankError: rank {rank} was killed (signal {-failure.exitcode}; out of memory?)",
                file=sys.stderr,
            )
            sys.exit(128 - failure.exitcode)
        reason: Any = failure.message  # from ``record``: text or a mapping
        reason = reason["message"] if isinstance(reason, dict) else reason
        raise RankError(f"rank {rank}: {' '.join(str(reason).split())}") from None
    except SignalException as signalled:
        sys.exit(128 + signalled.sigval)


def srun(folder: Path, spec: Mapping[str, Any]) -> None:
    """Run torchrun on every node of this Slurm job. This node is the first, the rendezvous.

    Raises ``SystemExit`` if it fails. The agents print the reason.
    """
    job, nodes = os.environ["SLURM_JOB_ID"], str(spec["nodes"])
    # The port is below the range of Linux's ephemeral ports.
    endpoint = f"{socket.gethostname()}:{20000 + int(job) % 12000}"
    rendezvous_id = f"{job}.{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    flags = ["--ntasks-per-node=1", "--overlap", "--cpu-bind=none", "--kill-on-bad-exit=1"]
    command = [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes}",
        *flags,
        sys.executable,
        CHILD,
        str(folder),
        "agent",
        endpoint,
        rendezvous_id,
    ]
    # srun forwards its input to all agents, and they end when it closes. If srun itself were
    # killed, they would keep running. So it runs in a separate session, without our signals.
    held, lifeline = os.pipe()
    code = subprocess.run(command, stdin=held, start_new_session=True, check=False).returncode
    os.close(lifeline)
    if code:
        sys.exit(code if code > 0 else 128 - code)


def agent(folder: Path, endpoint: str, rendezvous_id: str) -> None:
    """Run this node's processes of a run on several nodes."""
    watch(0)
    spec = json.loads((folder / "run" / "spec.json").read_text())
    rendezvous = [
        "--nnodes",
        str(spec["nodes"]),
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        endpoint,
        "--rdzv-id",
        rendezvous_id,
    ]
    try:
        torchrun(folder, spec, rendezvous)
    except RankError:
        raise
    # The failure of another node causes this error. ``last_error`` ignores indented lines.
    except Exception:
        print(
            textwrap.indent(traceback.format_exc(), f"[{socket.gethostname()}] "), file=sys.stderr
        )
        sys.exit(1)
