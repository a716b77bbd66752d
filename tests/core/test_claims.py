from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from mosweep.core import claims as module
from mosweep.core.claims import Claim, Claims, Owner, this_process
from mosweep.core.errors import ClaimLost

KEY = "ab" * 32

#: A process that claims keys as it is told: ``acquire KEY`` → ``claim TOKEN`` or ``owner PID``;
#: ``release``; ``check``.
WORKER = """
    import sys
    from pathlib import Path
    from mosweep.core.claims import Claim, Claims
    from mosweep.core.errors import ClaimLost
    claims = Claims(Path(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        verb, _, key = line.strip().partition(" ")
        if verb == "acquire":
            got = claims.acquire(key)
            if isinstance(got, Claim):
                held = got
                print("claim", got.token, flush=True)
            else:
                print("owner", got.pid, flush=True)
        elif verb == "check":
            try:
                held.check()
                print("ours", flush=True)
            except ClaimLost as error:
                print("lost", flush=True)
        elif verb == "release":
            claims.release(held)
            print("released", flush=True)
"""


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path / "claims")


def write_claim(claims: Claims, owner: Owner, token: int = 1) -> Path:
    """A claim as ``owner`` would have left it."""
    claims.folder.mkdir(exist_ok=True)
    path = claims.folder / f"{KEY}.{token}"
    path.write_text(json.dumps(asdict(owner)))
    return path


# -- one process -----------------------------------------------------------------------------------


def test_a_claim_is_held_until_it_is_released(claims: Claims) -> None:
    assert claims.owner(KEY) is None
    assert claims.held() == {}
    claim = claims.acquire(KEY)
    assert isinstance(claim, Claim)
    assert (claim.key, claim.token) == (KEY, 1)
    claim.check()
    assert claims.owner(KEY) == this_process()
    assert claims.held() == {KEY: this_process()}
    assert claims.acquire(KEY) == this_process(), "not even its owner can claim it twice"
    claims.release(claim)
    assert claims.owner(KEY) is None
    with pytest.raises(ClaimLost, match=KEY[:12]):
        claim.check()
    claims.release(claim)
    assert isinstance(claims.acquire(KEY), Claim)


def test_an_abandoned_claim_is_lost_also_when_its_process_claims_anew(claims: Claims) -> None:
    abandoned = claims.acquire(KEY)
    assert isinstance(abandoned, Claim)
    claims.release(abandoned)
    anew = Claims(claims.folder).acquire(KEY)
    assert isinstance(anew, Claim)
    assert (anew.token, anew.path.stat().st_ino) == (abandoned.token, abandoned.card.inode), (
        "they look alike on disk"
    )
    with pytest.raises(ClaimLost):
        abandoned.check()
    claims.release(abandoned)
    anew.check()
    claims.release(anew)
    assert os.listdir(claims.folder) == []


def test_a_claim_that_was_taken_over_is_lost_also_when_its_process_claims_anew(
    claims: Claims, spawn: Callable[..., Any]
) -> None:
    stalled = claims.acquire(KEY)
    assert isinstance(stalled, Claim)
    taker = spawn(TAKER, claims.folder, KEY, "release")
    assert taker.hear() == "claim 2"
    taker.tell()
    assert taker.hear() == "checked"
    anew = claims.acquire(KEY)
    assert isinstance(anew, Claim)
    with pytest.raises(ClaimLost):
        stalled.check()
    claims.release(stalled)
    anew.check()


def test_threads_claim_a_key_once(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread wants the key after we saw that it is free, and before our link."""
    real, others = os.link, []
    with ThreadPoolExecutor(1) as thread:

        def late(source: Path, target: Path) -> None:
            monkeypatch.setattr(os, "link", real)
            others.append(thread.submit(claims.acquire, KEY))
            wait(others, timeout=0.2)
            real(source, target)

        monkeypatch.setattr(os, "link", late)
        assert sorted(type(got).__name__ for got in (claims.acquire(KEY), others[0].result())) == [
            "Claim",
            "Owner",
        ]


def test_keys_are_claimed_one_by_one(claims: Claims) -> None:
    one, other = claims.acquire("a" * 64), claims.acquire("b" * 64)
    assert isinstance(one, Claim)
    assert isinstance(other, Claim)
    claims.release(one)
    other.check()
    assert set(claims.held()) == {"b" * 64}


def test_an_owner_says_who_it_is() -> None:
    assert str(Owner("node1", "m", 7, "s")) == "node1 pid 7"
    assert str(Owner("node1", "m", 7, "s", "123")) == "node1 pid 7 (job 123)"
    assert this_process().pid == os.getpid()


def test_what_nfs_leaves_behind_is_no_claim(claims: Claims) -> None:
    claims.acquire(KEY)
    (claims.folder / ".nfs0000000000a1b2").write_text("{}")
    assert set(claims.held()) == {KEY}


# -- who is dead -----------------------------------------------------------------------------------


def test_a_living_process_of_this_machine_is_never_dead(
    claims: Claims, spawn: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALE_S", 0.0)
    other = spawn(WORKER, claims.folder)
    other.hear()
    other.tell(f"acquire {KEY}")
    assert other.hear() == "claim 1"
    for _ in range(3):
        owner = claims.acquire(KEY)
        assert isinstance(owner, Owner)
        assert owner.pid == other.pid


def test_a_reused_pid_is_another_process(claims: Claims) -> None:
    me = this_process()
    write_claim(claims, me)
    assert claims.acquire(KEY) == me
    write_claim(claims, replace(me, started="1"))
    assert claims.owner(KEY) is None
    claim = claims.acquire(KEY)
    assert isinstance(claim, Claim)
    assert claim.token == 2, "a takeover raises the token"
    assert os.listdir(claims.folder) == [f"{KEY}.2"]


def test_an_owner_that_is_gone_but_not_yet_reaped_is_dead(
    claims: Claims, spawn: Callable[..., Any]
) -> None:
    other = spawn(WORKER, claims.folder)
    other.hear()
    other.tell(f"acquire {KEY}")
    assert other.hear() == "claim 1"
    other.kill(reap=False)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
    claim = claims.acquire(KEY)
    assert isinstance(claim, Claim)
    assert claim.token == 2


def test_an_owner_elsewhere_is_believed_until_it_is_silent_for_long(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = replace(this_process(), machine="elsewhere", host="node7", started="1")
    path = write_claim(claims, elsewhere)
    os.utime(path, (1, 1))  # its clock says 1970: that alone says nothing
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert claims.acquire(KEY) == elsewhere
    now += module.STALE_S - 1
    assert claims.acquire(KEY) == elsewhere
    os.utime(path, (2, 2))  # it renewed its card
    now += module.STALE_S - 1
    assert claims.acquire(KEY) == elsewhere
    now += module.STALE_S - 1
    assert claims.owner(KEY) == elsewhere
    now += 1
    assert claims.owner(KEY) is None
    claim = claims.acquire(KEY)
    assert isinstance(claim, Claim)
    assert claim.token == 2
    claim.check()


def test_a_second_observer_starts_its_own_clock(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = replace(this_process(), machine="elsewhere")
    write_claim(claims, elsewhere)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert claims.owner(KEY) == elsewhere
    now += 2 * module.STALE_S
    assert Claims(claims.folder).owner(KEY) == elsewhere
    assert claims.owner(KEY) is None


def test_a_card_is_renewed_while_its_process_lives(
    claims: Claims, spawn: Callable[..., Any]
) -> None:
    code = """
        import os, sys
        from pathlib import Path
        from mosweep.core import claims as module
        module.RENEW_S = 0.0
        claim = module.Claims(Path(sys.argv[1])).acquire(sys.argv[2])
        os.utime(claim.path, (1, 1))
        while os.stat(claim.path).st_mtime == 1:
            os.sched_yield()
        print("renewed", flush=True)
    """
    assert spawn(code, claims.folder, KEY).rest() == ["renewed"]


def test_the_cards_of_dead_processes_are_removed(claims: Claims, spawn: Callable[..., Any]) -> None:
    cards = claims.folder.with_name("claims.cards")
    dead = spawn(WORKER, claims.folder)
    dead.hear()
    dead.tell(f"acquire {KEY}")
    dead.hear()
    [left] = os.listdir(cards)
    dead.kill()
    after = spawn(WORKER, claims.folder)
    after.hear()
    after.tell("acquire " + "c" * 64)
    after.hear()
    assert left not in os.listdir(cards)
    assert len(os.listdir(cards)) == 1
    after.tell(f"acquire {KEY}")
    assert after.hear() == "claim 2", "the claim itself still names the dead owner"
    assert after.rest() == []
    assert os.listdir(cards) == [], "who ends well takes its card along"


# -- many processes --------------------------------------------------------------------------------


def test_mutual_exclusion(claims: Claims, spawn: Callable[..., Any], tmp_path: Path) -> None:
    code = """
        import os, random, sys
        from pathlib import Path
        from mosweep.core.claims import Claim, Claims
        claims, inside, who = Claims(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
        todo = [f"{key:064x}" for key in range(30)]
        random.Random(who).shuffle(todo)
        print("ready", flush=True)
        input()
        owners = 0
        while todo:
            key = todo.pop(0)
            got = claims.acquire(key)
            if not isinstance(got, Claim):
                owners += 1
                todo.append(key)
                continue
            os.close(os.open(inside / key, os.O_CREAT | os.O_EXCL))  \
# fails if anyone else is inside
            got.check()
            os.sched_yield()
            os.unlink(inside / key)
            claims.release(got)
        print(owners)
    """
    inside = tmp_path / "inside"
    inside.mkdir()
    processes = [spawn(code, claims.folder, inside, who) for who in range(8)]
    for process in processes:
        process.hear()
    for process in processes:
        process.tell()
    contended = sum(int(process.rest()[-1]) for process in processes)
    assert contended > 0, "the processes never met: this test proves nothing"
    assert os.listdir(claims.folder) == []


@pytest.mark.parametrize("attempt", range(3))
def test_a_killed_owner_is_taken_over_exactly_once(
    claims: Claims, spawn: Callable[..., Any], attempt: int
) -> None:
    owner, *takers = [spawn(WORKER, claims.folder) for _ in range(6)]
    for process in (owner, *takers):
        process.hear()
    owner.tell(f"acquire {KEY}")
    assert owner.hear() == "claim 1"
    owner.kill()
    for taker in takers:
        taker.tell(f"acquire {KEY}")
    answers = [taker.hear() for taker in takers]
    [winner] = [taker for taker, answer in zip(takers, answers, strict=True) if answer == "claim 2"]
    assert sorted(answers) == sorted(["claim 2"] + [f"owner {winner.pid}"] * 4)
    winner.tell("check")
    assert winner.hear() == "ours"
    assert os.listdir(claims.folder) == [f"{KEY}.2"]


# -- a stalled owner -------------------------------------------------------------------------------

#: Takes KEY over from owners on this machine, as a process of another machine would that has not
#: heard of them for long.
TAKER = """
    import sys
    from dataclasses import replace
    from pathlib import Path
    from mosweep.core import claims as module
    me = replace(module.this_process(), machine="another machine")
    module.this_process = lambda: me
    module.STALE_S = 0.0
    claims = module.Claims(Path(sys.argv[1]))
    assert isinstance(claims.acquire(sys.argv[2]), module.Owner)
    claim = claims.acquire(sys.argv[2])
    print("claim", claim.token, flush=True)
    input()
    claim.check()
    if sys.argv[3] == "release":
        claims.release(claim)
    print("checked", flush=True)
    input()
"""


def test_a_stalled_owner_learns_that_it_was_taken_over(
    claims: Claims, spawn: Callable[..., Any]
) -> None:
    stalled = claims.acquire(KEY)
    assert isinstance(stalled, Claim)
    taker = spawn(TAKER, claims.folder, KEY, "hold")
    assert taker.hear() == "claim 2"
    with pytest.raises(ClaimLost, match="taken over"):
        stalled.check()
    claims.release(stalled)
    assert os.listdir(claims.folder) == [f"{KEY}.2"], "the new owner's claim is left alone"
    owner = claims.acquire(KEY)
    assert isinstance(owner, Owner)
    assert owner.pid == taker.pid
    taker.tell()
    assert taker.hear() == "checked"


def test_a_claim_is_lost_even_when_the_successor_has_finished(
    claims: Claims, spawn: Callable[..., Any]
) -> None:
    stalled = claims.acquire(KEY)
    assert isinstance(stalled, Claim)
    taker = spawn(TAKER, claims.folder, KEY, "release")
    assert taker.hear() == "claim 2"
    taker.tell()
    assert taker.hear() == "checked"
    assert os.listdir(claims.folder) == []
    other = spawn(WORKER, claims.folder)
    other.hear()
    other.tell(f"acquire {KEY}")
    assert other.hear() == "claim 1", "tokens start again"
    with pytest.raises(ClaimLost):
        stalled.check()
    claims.release(stalled)
    other.tell("check")
    assert other.hear() == "ours"


def test_a_claim_that_shows_up_below_a_higher_token_is_lost(claims: Claims) -> None:
    claim = claims.acquire(KEY)
    assert isinstance(claim, Claim)
    write_claim(claims, replace(this_process(), machine="elsewhere"), token=2)
    with pytest.raises(ClaimLost):
        claim.check()


def test_who_acts_on_what_it_saw_long_ago_steps_back(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our look and our link another process claimed, died and was taken over by one that
    lives.
    """
    living = replace(this_process(), machine="elsewhere")
    real = os.link

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real)
        write_claim(claims, living, token=2)
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    assert claims.acquire(KEY) == living
    assert os.listdir(claims.folder) == [f"{KEY}.2"]
