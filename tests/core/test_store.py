from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.claims import Owner, this_process
from mosweep.core.errors import ClaimLost, StoreError
from mosweep.core.fingerprint import digest_bytes, fingerprint
from mosweep.core.store import LOG, SMALL, Attempt, DamageWarning, Record, Store
from mosweep.core.work import EVAL, Resources

PAYLOAD = {"kind": "eval", "work": "Test", "version": 1, "config": {"x": 1}, "inputs": {}}
KEY = fingerprint(PAYLOAD)
OTHER = fingerprint({**PAYLOAD, "version": 2})
AT_LIMIT, LARGE = bytes(range(256)) * (SMALL // 256), b"x" * (SMALL + 1)
FILES = {
    "small.txt": b"hello",
    "sub/empty": b"",
    "sub/deep/at.bin": AT_LIMIT,
    "sub/large.bin": LARGE,
}
FACTS = {
    "metrics": {"accuracy": 0.5},
    "name": "naïve \u2028",
    "n": 3,
    "nothing": None,
    "list": [1, 2.5, True],
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def begin(store: Store, key: str = KEY) -> Attempt:
    attempt = store.begin(key)
    assert isinstance(attempt, Attempt)
    return attempt


def publish(
    store: Store, key: str = KEY, files: dict[str, bytes] = FILES, facts: Any = FACTS, **about: Any
) -> Record:
    attempt = begin(store, key)
    for name, content in files.items():
        path = attempt.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return store.publish(attempt, payload=PAYLOAD, facts=facts, **about)


def record_path(store: Store, key: str = KEY) -> Path:
    return store.root / "records" / key[:1] / f"{key}.json"


def record_files(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "records").rglob("*") if path.is_file())


def only_in_quarantine(store: Store) -> Path:
    [place] = (store.root / "quarantine").iterdir()
    return place


# -- round trip ------------------------------------------------------------------------------------


def test_what_was_published_is_read_back(store: Store) -> None:
    assert store.read(KEY) is None
    assert list(store.keys()) == []
    published = publish(store, label="eval:letters", started=1.5)
    found = Store(store.root).read(KEY, thorough=True, whole=True)
    assert found is not None
    assert found.data == published.data == json.loads(json.dumps(published.data))
    assert found.key == KEY
    assert found.facts == FACTS
    assert found.data["payload"] == PAYLOAD
    assert (found.data["label"], found.data["started"]) == ("eval:letters", 1.5)
    assert {name: (found.folder / name).read_bytes() for name in FILES} == FILES
    digests = {file["name"]: file["sha256"] for file in found.data["files"]}
    assert digests == {name: digest_bytes(content) for name, content in FILES.items()}
    artifact = found.artifact
    assert (artifact.key, artifact.kind, artifact.folder, artifact.facts) == (
        KEY,
        EVAL,
        found.folder,
        FACTS,
    )
    assert list(store.keys()) == [KEY]
    assert store.claims.held() == {}, "the claim was given back"
    assert record_files(store) == [f"{KEY}.json"], "no temporary file is left"


def test_the_digest_covers_files_and_facts_and_nothing_else(tmp_path: Path) -> None:
    def digest(name: str, **options: Any) -> str:
        return publish(Store(tmp_path / name), **options).artifact.digest

    same = digest("a")
    assert digest("b", label="else", started=2) == same
    assert digest("c", key=OTHER) == same
    assert digest("d", facts={**FACTS, "n": 4}) != same
    assert digest("e", files={**FILES, "small.txt": b"hellO"}) != same
    assert digest("f", files={**FILES, "more": b""}) != same
    assert (
        digest(
            "g",
            files={
                "renamed.txt" if name == "small.txt" else name: content
                for name, content in FILES.items()
            },
        )
        != same
    )


def test_the_log_is_kept_but_is_no_part_of_the_artifact(store: Store) -> None:
    attempt = begin(store)
    attempt.log.write_text("printed")
    record = store.publish(attempt, payload=PAYLOAD, facts={})
    assert record.data["files"] == []
    assert (record.folder / LOG).read_text() == "printed"
    (record.folder / LOG).write_text("changed")
    assert store.read(KEY, thorough=True) is not None


def test_a_store_can_move(store: Store, tmp_path: Path) -> None:
    publish(store)
    moved = store.root.rename(tmp_path / "elsewhere")
    found = Store(moved).read(KEY, thorough=True)
    assert found is not None
    assert found.folder.is_relative_to(moved)


def test_forget(store: Store) -> None:
    store.forget(KEY)
    record = publish(store)
    other = publish(store, OTHER)
    store.forget(KEY)
    assert store.read(KEY) is None
    assert not record.folder.exists()
    assert store.read(OTHER, thorough=True) is not None
    assert other.folder.exists()
    assert publish(store).facts == FACTS


# -- damage ----------------------------------------------------------------------------------------


def flip(path: Path, at: int = 0, keep_time: bool = False) -> None:
    """Flip one bit."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def truncate(path: Path) -> None:
    status = path.stat()
    os.truncate(path, status.st_size - 1)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def lengthen(path: Path) -> None:
    status = path.stat()
    with open(path, "ab") as file:
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_a_file(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.touch()


FILE_DAMAGE: dict[str, Callable[[Path], object]] = {
    "a small file is missing": lambda folder: (folder / "small.txt").unlink(),
    "a folder is missing": lambda folder: (folder / "sub").rename(folder / "sub2"),
    "a folder became a file": lambda folder: replace_by_a_file(folder / "sub"),
    "a small file is truncated": lambda folder: truncate(folder / "small.txt"),
    "a large file is truncated": lambda folder: truncate(folder / "sub/large.bin"),
    "a large file is longer": lambda folder: lengthen(folder / "sub/large.bin"),
    "an empty file is not": lambda folder: lengthen(folder / "sub/empty"),
    "a bit of a small file": lambda folder: flip(folder / "small.txt", keep_time=True),
    "a bit of the largest small file": lambda folder: flip(
        folder / "sub/deep/at.bin", at=SMALL - 1, keep_time=True
    ),
    "a bit of a large file": lambda folder: flip(folder / "sub/large.bin", at=SMALL),
}


@pytest.mark.parametrize("damage", FILE_DAMAGE.values(), ids=FILE_DAMAGE)
def test_a_damaged_file_is_found_set_aside_and_made_again(
    store: Store, damage: Callable[[Path], object]
) -> None:
    damaged = publish(store).folder
    publish(store, OTHER)
    damage(damaged)
    with pytest.warns(DamageWarning, match="damaged: .*moved to .*quarantine"):
        assert store.read(KEY) is None
    assert list(store.keys()) == [OTHER]
    assert not damaged.exists()
    place = only_in_quarantine(store)
    assert sorted(path.name for path in place.iterdir()) == sorted(["artifact", f"{KEY}.json"]), (
        "kept for inspection"
    )
    assert store.read(KEY) is None, "found once, told once"
    assert publish(store).facts == FACTS
    assert store.read(KEY, thorough=True) is not None
    assert store.read(OTHER, thorough=True) is not None, "other stages are not touched"


def test_a_large_file_with_its_old_time_is_trusted_unless_asked_to_be_thorough(
    store: Store,
) -> None:
    record = publish(store)
    flip(record.folder / "sub/large.bin", keep_time=True)
    assert store.read(KEY) is not None
    with pytest.warns(DamageWarning, match=r"large\.bin was changed after it was published"):
        assert store.read(KEY, thorough=True) is None


def test_a_file_whose_time_alone_moved_is_sound(store: Store) -> None:
    record = publish(store)
    for name in FILES:
        os.utime(record.folder / name, (1, 1))
    assert store.read(KEY) is not None
    assert store.read(KEY, thorough=True) is not None


def edit(text: bytes) -> bytes:
    assert b'"accuracy":0.5' in text
    return text.replace(b'"accuracy":0.5', b'"accuracy":0.9')


def reseal_another_key(text: bytes) -> bytes:
    body = text.split(b"\n")[0].replace(KEY.encode(), OTHER.encode())
    return body + b"\n" + digest_bytes(body).encode() + b"\n"


RECORD_DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "one byte short of its seal": lambda text: text[:-2],
    "half of it": lambda text: text[: len(text) // 2],
    "no seal": lambda text: text.split(b"\n")[0] + b"\n",
    "edited by hand": edit,
    "a flipped bit": lambda text: bytes([text[0] ^ 1]) + text[1:],
    "a flipped bit in the seal": lambda text: text[:-2] + bytes([text[-2] ^ 1]) + text[-1:],
    "not text": lambda text: b"\xff\xfe" * 100,
    "zeros, as after a power failure": lambda text: b"\0" * len(text),
    "the record of another key": reseal_another_key,
}


@pytest.mark.parametrize("damage", RECORD_DAMAGE.values(), ids=RECORD_DAMAGE)
def test_a_damaged_record_is_found_set_aside_and_made_again(
    store: Store, damage: Callable[[bytes], bytes]
) -> None:
    publish(store)
    path = record_path(store)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.warns(DamageWarning, match="record of stage"):
        assert store.read(KEY) is None
    assert list(store.keys()) == []
    assert (only_in_quarantine(store) / path.name).read_bytes() == damaged
    publish(store)
    assert store.read(KEY, thorough=True) is not None


def test_a_copied_record_does_not_cost_the_stage_it_was_copied_from(store: Store) -> None:
    publish(store)
    path = record_path(store, OTHER)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(record_path(store).read_bytes())
    with pytest.warns(DamageWarning, match=f"is that of another stage \\({KEY[:12]}\\)"):
        assert store.read(OTHER) is None
    assert store.read(KEY, thorough=True) is not None


def test_a_damaged_record_can_be_forgotten(store: Store) -> None:
    publish(store)
    record_path(store).write_bytes(b"torn")
    store.forget(KEY)
    assert list(store.keys()) == []
    assert store.read(KEY) is None


# -- facts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts",
    [
        *(
            {"loss": math.nan},
            {"metrics": {"accuracy": math.inf}},
            {"list": [1, -math.inf]},
            {1: 2},
            {"path": Path("/x")},
            {"bytes": b""},
        ),
        *({"bad": "\udc80"}, {"word": Resources()}),
    ],
    ids=str,
)
def test_facts_that_json_cannot_hold_are_refused(store: Store, facts: Any) -> None:
    with pytest.raises(StoreError, match="recorded"):
        publish(store, facts=facts)
    assert store.read(KEY) is None
    assert not (store.root / "records").exists() or record_files(store) == []


def test_the_place_of_a_bad_fact_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match=r"metrics\.accuracy is nan"):
        publish(store, facts={"metrics": {"accuracy": math.nan}})


# -- attempts --------------------------------------------------------------------------------------


def test_of_two_results_the_first_stands(store: Store) -> None:
    first = publish(store, facts={"who": "first"})
    second = publish(store, facts={"who": "second"})
    assert second.facts == {"who": "first"}
    assert second.folder == first.folder
    found = store.read(KEY, thorough=True)
    assert found is not None
    assert found.facts == {"who": "first"}
    assert store.claims.held() == {}
    assert record_files(store) == [f"{KEY}.json"]


def test_a_key_that_is_being_worked_on_cannot_be_begun(store: Store) -> None:
    attempt = begin(store)
    assert store.begin(KEY) == this_process()
    assert store.read(KEY) is None
    store.abandon(attempt)
    assert isinstance(store.begin(KEY), Attempt)


def test_an_abandoned_attempt_leaves_its_log_and_the_next_starts_afresh(store: Store) -> None:
    failed = begin(store)
    failed.log.write_text("Traceback")
    (failed.folder / "half.bin").write_bytes(b"half")
    store.abandon(failed)
    after = begin(store)
    assert after.folder != failed.folder
    assert list(after.folder.iterdir()) == []
    assert failed.log.read_text() == "Traceback"
    with pytest.raises(ClaimLost):
        store.publish(failed, payload=PAYLOAD, facts={"who": "failed"})
    assert store.publish(after, payload=PAYLOAD, facts={"who": "after"}).facts == {"who": "after"}


def test_what_earlier_attempts_left_is_found(store: Store) -> None:
    first = begin(store)
    assert store.previous(first) is None
    (first.folder / "half.bin").write_bytes(b"half")
    store.abandon(first)
    second = begin(store)
    assert store.previous(second) == first.folder
    second.log.write_text("killed before it had begun")
    store.abandon(second)
    third = begin(store)
    assert store.previous(third) == first.folder
    (second.folder / "more.bin").write_bytes(b"more")
    assert store.previous(third) == second.folder


#: Takes the stage over from a living process of this machine, as another machine would after long
#: silence, and maybe publishes.
SUCCESSOR = """
    import sys
    from dataclasses import replace
    from pathlib import Path
    from mosweep.core import claims
    from mosweep.core.store import Attempt, Store
    me = replace(claims.this_process(), machine="another machine")
    claims.this_process = lambda: me
    claims.STALE_S = 0.0
    store, key = Store(Path(sys.argv[1])), sys.argv[2]
    assert isinstance(store.begin(key), claims.Owner)
    attempt = store.begin(key)
    assert isinstance(attempt, Attempt)
    print("begun", flush=True)
    input()
    (attempt.folder / "file").write_text("successor's")
    print(store.publish(attempt, payload={"kind": "eval"}, facts={"who": "successor"})\
.facts["who"], flush=True)
"""


@pytest.mark.parametrize("successor_first", [True, False])
def test_an_owner_that_was_taken_over_publishes_nothing(
    store: Store, spawn: Callable[..., Any], successor_first: bool
) -> None:
    stalled = begin(store)
    (stalled.folder / "file").write_text("stalled")
    successor = spawn(SUCCESSOR, store.root, KEY)
    assert successor.hear() == "begun"
    if successor_first:
        successor.tell()
        assert successor.rest() == ["successor"]
    with pytest.raises(ClaimLost, match="taken over"):
        store.publish(stalled, payload=PAYLOAD, facts={"who": "stalled"})
    if not successor_first:
        assert store.read(KEY) is None
        assert record_files(store) == [], "nothing of the stalled attempt is left among the records"
        successor.tell()
        assert successor.rest() == ["successor"]
    record = store.read(KEY, thorough=True)
    assert record is not None
    assert record.facts == {"who": "successor"}
    assert (record.folder / "file").read_text() == "successor's"
    assert record_files(store) == [f"{KEY}.json"]
    store.abandon(stalled)
    assert store.claims.held() == {}


CRASH = """
    import os, signal, sys
    from pathlib import Path
    from mosweep.core.store import Store
    store, when = Store(Path(sys.argv[1])), sys.argv[3]
    die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    attempt = store.begin(sys.argv[2])
    (attempt.folder / "file").write_text("half")
    if when == "before":
        die()
    real = getattr(os, when)
    setattr(os, when, die)
    store.publish(attempt, payload={"kind": "eval"}, facts={"who": "crashed"})
"""


@pytest.mark.parametrize("when", ["before", "fsync", "link"])
def test_a_crash_before_the_end_leaves_nothing_visible(
    store: Store, spawn: Callable[..., Any], when: str
) -> None:
    assert spawn(CRASH, store.root, KEY, when).status() == -9
    assert store.read(KEY) is None
    assert list(store.keys()) == []
    assert store.claims.owner(KEY) is None
    record = publish(store, facts={"who": "next"})
    assert record.facts == {"who": "next"}
    found = store.read(KEY, thorough=True, whole=True)
    assert found is not None
    assert found.facts == {"who": "next"}
    assert "file" not in {file["name"] for file in found.data["files"]}


def test_many_processes_make_a_stage_once(
    store: Store, spawn: Callable[..., Any], tmp_path: Path
) -> None:
    code = """
        import os, random, sys
        from pathlib import Path
        from mosweep.core.claims import Owner
        from mosweep.core.store import Store
        store, ran, who = Store(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
        todo = [f"{key:064x}" for key in range(15)]
        random.Random(who).shuffle(todo)
        print("ready", flush=True)
        input()
        while todo:
            key = todo.pop(0)
            record = store.read(key)
            if record is None:
                attempt = store.begin(key)
                if isinstance(attempt, Owner):
                    todo.append(key)
                    continue
                if record := store.read(key):  # published between our look and our claim
                    store.abandon(attempt)
                else:
                    with open(ran, "a") as log:
                        log.write(key + chr(10))
                    (attempt.folder / "file").write_text(who)
                    record = store.publish(attempt, payload={"kind": "eval"}, facts={"who": who})
            assert (record.folder / "file").read_text() == record.facts["who"]
    """
    processes = [spawn(code, store.root, tmp_path / "ran", who) for who in range(6)]
    for process in processes:
        process.hear()
    for process in processes:
        process.tell()
    for process in processes:
        process.rest()
    keys = [f"{key:064x}" for key in range(15)]
    assert sorted((tmp_path / "ran").read_text().split()) == keys, "every stage ran exactly once"
    assert list(store.keys()) == keys
    assert all(store.read(key, thorough=True) for key in keys)
    assert store.claims.held() == {}


def test_processes_that_publish_the_same_stage_at_once_agree(
    store: Store, spawn: Callable[..., Any]
) -> None:
    """Even where nobody looks before it begins, one result stands, whole, and all are told that
    one.
    """
    code = """
        import sys
        from pathlib import Path
        from mosweep.core.claims import Owner
        from mosweep.core.store import Store
        store, key, who = Store(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
        print("ready", flush=True)
        input()
        while isinstance(attempt := store.begin(key), Owner):
            pass
        (attempt.folder / "file").write_text(who)
        record = store.publish(attempt, payload={"kind": "eval"}, facts={"who": who})
        print(record.facts["who"], (record.folder / "file").read_text())
    """
    processes = [spawn(code, store.root, KEY, who) for who in range(6)]
    for process in processes:
        process.hear()
    for process in processes:
        process.tell()
    answers = {line for process in processes for line in process.rest()}
    record = store.read(KEY, thorough=True)
    assert record is not None
    assert answers == {f"{record.facts['who']} {record.facts['who']}"}


def test_the_owner_of_a_stage_is_told(store: Store, spawn: Callable[..., Any]) -> None:
    holder = spawn(
        CRASH.replace("die()", "print('begun', flush=True); input()"), store.root, KEY, "before"
    )
    assert holder.hear() == "begun"
    owner = store.begin(KEY)
    assert isinstance(owner, Owner)
    assert owner.pid == holder.pid
