"""Bundles: packed from a real sweep, verified with nothing but the archive, and caught when
tampered with.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import itertools
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import DRY, Shell

from mosweep.archive import bundle, reading
from mosweep.archive.format import design_hash, seal_of
from mosweep.archive.metrics import Scores, metric_findings
from mosweep.archive.verdict import Verdict
from mosweep.archive.verify import verify
from mosweep.core.fingerprint import digest_bytes, fingerprint

Files = dict[str, bytes]

SECRET = "sk-proj-0123456789abcdefghij"


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder in which a dry run was swept and bundled, as ``dry.tar.gz``."""
    shell = Shell(tmp_path_factory.mktemp("dry"))
    assert (
        shell("-m", *DRY, "model=tiny,tiny-wide", "lora.rank=4,64", "experiment.name=dry").status
        == 0
    )
    assert shell("bundle", "dry").status == 0
    return shell


@pytest.fixture
def files(dry: Shell) -> Files:
    return unpacked(dry.folder / "dry.tar.gz")


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., Verdict]:
    """Verifies files packed as they are, or with a manifest made anew to fit them."""

    def check(files: Files, *, forged: bool = False) -> Verdict:
        if forged:
            manifest = json.loads(files["MANIFEST.json"])
            design = {
                name.removeprefix("sweep/"): digest_bytes(data)
                for name, data in files.items()
                if name.startswith("sweep/")
            }
            manifest |= {
                "files": {n: described(d) for n, d in files.items() if n != "MANIFEST.json"},
                "design": design_hash(design),
            }
            files = {
                **files,
                "MANIFEST.json": json.dumps({**manifest, "seal": seal_of(manifest)}).encode(),
            }
        bundle._write(tmp_path / "x.tar.gz", "dry", files, {})
        return verify(tmp_path / "x.tar.gz")

    return check


def described(data: bytes) -> dict[str, Any]:
    return {"sha256": digest_bytes(data), "size": len(data)}


def unpacked(path: Path) -> Files:
    with tarfile.open(path) as archive:
        members = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive}
        return {name: member.read() for name, member in members.items() if member}


def one(files: Mapping[str, bytes], pattern: str) -> str:
    return next(name for name in sorted(files) if fnmatch.fnmatch(name, pattern))


def records(files: Files, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in sorted(files):
        if name.startswith("store/records/"):
            record = json.loads(files[name].splitlines()[0])
            if record["kind"] == kind:
                yield name, record


def sealed(record: Mapping[str, Any]) -> bytes:
    """A record that is whole in itself again, as a forger would make it."""
    digests = {file["name"]: file["sha256"] for file in record["files"]}
    body = json.dumps(
        {**record, "artifact_digest": fingerprint({"facts": record["facts"], "files": digests})}
    ).encode()
    return body + b"\n" + digest_bytes(body).encode() + b"\n"


def wrong(verdict: Verdict) -> str:
    return "\n".join(verdict.problems)


def test_bundle_verifies_anywhere_without_a_store(dry: Shell, tmp_path: Path) -> None:
    shutil.copy(dry.folder / "dry.tar.gz", tmp_path / "b.tar.gz")
    before = sorted(tmp_path.rglob("*"))
    shell = Shell(tmp_path)
    done = shell("verify", "b.tar.gz")
    assert (done.status, done.out.splitlines()[0]) == (0, "dry: holds")
    verdict = shell("verify", "b.tar.gz", "--json").json
    assert verdict["holds"]
    assert (verdict["trials"], verdict["stages"], verdict["recomputed"], verdict["unchecked"]) == (
        6,
        10,
        6,
        6,
    )
    assert verdict["archive"] == digest_bytes((tmp_path / "b.tar.gz").read_bytes())
    assert sorted(tmp_path.rglob("*")) == before


def test_bundle_holds_all_that_the_numbers_rest_on(dry: Shell, files: Files) -> None:
    folder = dry.folder / "multirun" / "dry"
    for path in [
        folder / "experiment.yaml",
        *folder.glob("launches/*[0-9a-f].json"),
        *folder.glob("launches/*.stages.jsonl"),
        *folder.glob("*/config.yaml"),
    ]:
        assert files[f"sweep/{path.relative_to(folder)}"] == path.read_bytes()
    store = dry.folder / ".mosweep" / "store"
    for path in [*store.glob("records/*/*.json"), *store.glob("artifacts/*/*/samples.jsonl")]:
        assert files[f"store/{path.relative_to(store)}"] == path.read_bytes()
    assert b"omegaconf==" in files["environment.txt"]
    assert not [
        line for line in files["environment.txt"].splitlines()[1:] if line.count(b"==") != 1
    ]
    provenance = json.loads(files["provenance.json"])
    assert [stages["stages"] for stages in provenance["stages"]] == [10]
    assert "mosweep" in provenance["stages"][0]["versions"]
    manifest = json.loads(files["MANIFEST.json"])
    assert manifest["files"].keys() == files.keys() - {"MANIFEST.json"}
    assert {about["status"] for about in manifest["trials"].values()} == {"succeeded"}
    assert b"cannot show" in files["README.md"]


def test_design_hash_is_that_of_sha256sum(files: Files) -> None:
    paths = sorted(name for name in files if name.startswith("sweep/"))
    text = "".join(
        f"{digest_bytes(files[name])}  {name.removeprefix('sweep/')}\n" for name in paths
    )
    assert json.loads(files["MANIFEST.json"])["design"] == digest_bytes(text.encode())


def test_same_content_gives_the_same_bytes(dry: Shell, tmp_path: Path) -> None:
    first = (dry.folder / "dry.tar.gz").read_bytes()
    assert dry("bundle", "dry", "-o", "again.tar.gz").status == 0
    assert (dry.folder / "again.tar.gz").read_bytes() == first
    shutil.copytree(dry.folder, tmp_path / "moved", symlinks=True)
    assert Shell(tmp_path / "moved")("bundle", "dry", "-o", "moved.tar.gz").status == 0
    assert (tmp_path / "moved" / "moved.tar.gz").read_bytes() == first
    with tarfile.open(dry.folder / "dry.tar.gz") as archive:
        members = archive.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {
        (0, 0, 0, "", "", 0o644)
    }
    assert [m.name for m in members] == sorted(m.name for m in members)


def test_citation_is_valid(dry: Shell, tmp_path: Path) -> None:
    """What the schema of Citation File Format 1.2.0 requires, and nothing that it does not know."""
    out = tmp_path / "b.tar.gz"
    assert (
        dry(
            "bundle",
            "dry",
            "-o",
            str(out),
            "--author",
            "Lovelace, Ada",
            "--author",
            "The capital letters group",
        ).status
        == 0
    )
    cited = yaml.safe_load(unpacked(out)["CITATION.cff"])
    assert cited.keys() == {
        "cff-version",
        "type",
        "message",
        "title",
        "authors",
        "version",
        "identifiers",
        "date-released",
    }
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "dataset")
    assert cited["authors"] == [
        {"family-names": "Lovelace", "given-names": "Ada"},
        {"name": "The capital letters group"},
    ]
    assert isinstance(cited["date-released"], str)
    assert yaml.safe_load(unpacked(dry.folder / "dry.tar.gz")["CITATION.cff"])["authors"] == [
        {"name": "The authors of dry"}
    ]


KINDS = [
    *(
        "README.md",
        "CITATION.cff",
        "environment.txt",
        "provenance.json",
        "sweep/experiment.yaml",
        "sweep/launches/*.json",
    ),
    *(
        "sweep/launches/*.stages.jsonl",
        "sweep/*/config.yaml",
        "store/records/*.json",
        "store/artifacts/*/samples.jsonl",
    ),
]
HOW = ["flipped", "missing", "longer"]


@pytest.mark.parametrize(
    ("pattern", "how"),
    [("MANIFEST.json", "flipped"), ("MANIFEST.json", "missing"), *itertools.product(KINDS, HOW)],
)
def test_every_kind_of_file_is_bound(
    files: Files, check: Callable[..., Verdict], pattern: str, how: str
) -> None:
    name = one(files, pattern)
    data = bytearray(files.pop(name))
    if how == "flipped":
        data[len(data) // 2] ^= 1
    elif how == "longer":
        data += b" "
    if how != "missing":
        files[name] = bytes(data)
    verdict = check(files)
    assert not verdict.holds
    assert name in wrong(verdict)


def test_tampering_shows_on_the_command_line(dry: Shell, files: Files, tmp_path: Path) -> None:
    name = one(files, "store/artifacts/*/samples.jsonl")
    bundle._write(
        tmp_path / "bad.tar.gz", "dry", {**files, name: files[name].replace(b"0", b"9")}, {}
    )
    done = dry("verify", str(tmp_path / "bad.tar.gz"))
    assert (done.status, done.err) == (1, "")
    assert "dry: DOES NOT HOLD" in done.out
    assert f"✗ {name} does not match its record" in done.out
    assert dry("verify", "nope.tar.gz").status == 2


def test_added_files_are_found(files: Files, check: Callable[..., Verdict]) -> None:
    assert "extra.txt is not in the manifest" in wrong(check({**files, "extra.txt": b"hello"}))
    assert check({**files, "extra.txt": b"hello"}, forged=True).holds
    place = one(files, "store/artifacts/*/samples.jsonl").replace("samples", "more")
    assert "belongs to no record" in wrong(check({**files, place: b"{}"}, forged=True))


def test_forged_metric_is_caught_by_the_samples(
    files: Files, check: Callable[..., Verdict]
) -> None:
    name, record = next(records(files, "eval"))
    honest = record["facts"]["metrics"]["score"]
    record["facts"]["metrics"]["score"] = 0.99
    verdict = check({**files, name: sealed(record)}, forged=True)
    assert verdict.problems == [
        f"{record['label']} ({record['key'][:12]}): score is 0.99, the samples give {honest:.6g}"
    ]
    record["facts"] |= {"metrics": {"score": honest}, "n": 5000}
    assert "n is 5000, but there are 100 samples" in wrong(
        check({**files, name: sealed(record)}, forged=True)
    )


def test_forged_facts_and_samples_are_caught_by_record_digests(
    files: Files, check: Callable[..., Verdict]
) -> None:
    name, record = next(records(files, "eval"))
    samples = f"store/{record['folder']}/samples.jsonl"
    assert "does not match its record" in wrong(
        check({**files, samples: files[samples] + b"\n"}, forged=True)
    )
    body = json.dumps({**record, "facts": {**record["facts"], "model_id": "other"}}).encode()
    resealed = body + b"\n" + digest_bytes(body).encode() + b"\n"
    assert "does not follow from its facts" in wrong(check({**files, name: resealed}, forged=True))
    assert "not match its seal" in wrong(
        check({**files, name: files[name].replace(b'"host":"', b'"host":"x')}, forged=True)
    )


def test_forged_design_is_caught_by_keys(files: Files, check: Callable[..., Verdict]) -> None:
    config = "sweep/model=tiny,lora.rank=64/config.yaml"
    assert "not the configuration that was launched" in wrong(
        check({**files, config: files[config].replace(b"rank: 64", b"rank: 8")}, forged=True)
    )
    experiment = "sweep/experiment.yaml"
    assert "does not match the design of any launch" in wrong(
        check(
            {
                **files,
                experiment: files[experiment].replace(b"description: null", b"description: x"),
            },
            forged=True,
        )
    )
    launch = one(files, "sweep/launches/????????????????.json")
    assert "its name is not the digest of the launch and its stages" in wrong(
        check(
            {**files, launch: files[launch].replace(b'"lora.rank":64', b'"lora.rank":65')},
            forged=True,
        )
    )
    specs = launch.replace(".json", ".stages.jsonl")
    forged = {**files, specs: files[specs].replace(b'"rank":64', b'"rank":65')}
    assert "does not follow from what defines it" in wrong(check(forged, forged=True))
    name, record = next(records(files, "finetune"))
    record["payload"]["config"]["setting"]["seed"] = 7
    found = wrong(check({**files, name: sealed(record)}, forged=True))
    assert "key does not follow" in found
    assert "does not match the stage that was launched" in found


def renamed(files: Files, change: Callable[[dict[str, Any], list[dict[str, Any]]], None]) -> Files:
    """Files whose launch was changed, and renamed so that its name fits."""
    launch = one(files, "sweep/launches/????????????????.json")
    specs = launch.replace(".json", ".stages.jsonl")
    data, stages = (
        json.loads(files[launch]),
        [json.loads(line) for line in files[specs].splitlines()],
    )
    change(data, stages)
    text, lines = json.dumps(data).encode(), [json.dumps(stage).encode() for stage in stages]
    name = f"sweep/launches/{digest_bytes(text + b''.join(lines))[:16]}"
    rest = {name: data for name, data in files.items() if name not in (launch, specs)}
    return {
        **rest,
        f"{name}.json": text,
        f"{name}.stages.jsonl": b"".join(line + b"\n" for line in lines),
    }


def test_forged_launches_are_caught_by_their_chain(
    files: Files, check: Callable[..., Verdict]
) -> None:
    def swap(launch: dict[str, Any], _: list[dict[str, Any]]) -> None:
        first, second = (
            trial
            for trial in launch["trials"]
            if not trial["control"] and trial["factors"]["model"] == "tiny"
        )
        first["stages"], second["stages"] = second["stages"], first["stages"]

    def rewire(launch: dict[str, Any], stages: list[dict[str, Any]]) -> None:
        one, other = (
            stage
            for stage in stages
            if stage["label"] == "finetune" and stage["fields"]["model"] == "tiny"
        )
        for stage in stages:
            if stage["needs"].get("model") == one["key"]:
                stage["needs"] = {"model": other["key"]}
                launch["stages"][stage["key"]][2] = stage["needs"]

    def cut(launch: dict[str, Any], stages: list[dict[str, Any]]) -> None:
        stages.remove(next(stage for stage in stages if stage["kind"] == "finetune"))

    def nothing(launch: dict[str, Any], stages: list[dict[str, Any]]) -> None:
        pass

    assert check(renamed(files, nothing), forged=True).holds
    assert "its id does not follow from its stages" in wrong(
        check(renamed(files, swap), forged=True)
    )
    assert "do not match its key" in wrong(check(renamed(files, rewire), forged=True))
    assert "needs a stage that is missing" in wrong(check(renamed(files, cut), forged=True))


def test_results_that_were_taken_out_are_missed(
    files: Files, check: Callable[..., Verdict]
) -> None:
    name, record = next(records(files, "eval"))
    left = {
        path: data
        for path, data in files.items()
        if path != name and not path.startswith(f"store/{record['folder']}/")
    }
    assert "the manifest says succeeded, but its results are incomplete" in wrong(
        check(left, forged=True)
    )
    samples = f"store/{record['folder']}/samples.jsonl"
    assert f"{samples} is missing" in wrong(
        check({k: v for k, v in files.items() if k != samples}, forged=True)
    )


def test_what_verification_cannot_show(files: Files, check: Callable[..., Verdict]) -> None:
    """Whoever forges everything consistently is found out only by comparing with what was
    published: the README says so.
    """
    honest = check(files)
    name, record = next(records(files, "eval"))
    samples = f"store/{record['folder']}/samples.jsonl"
    rows = [json.dumps({"id": n, "epoch": 1, "scores": {"score": 0.99}}) for n in range(100)]
    forged = {**files, samples: "\n".join(rows).encode()}
    record["files"] = [{**file, **described(forged[samples])} for file in record["files"]]
    record["facts"]["metrics"] = {"score": 0.99, "stderr": 0.0}
    verdict = check({**forged, name: sealed(record)}, forged=True)
    assert verdict.holds
    assert verdict.archive != honest.archive
    assert verdict.design == honest.design


# -- archives that mean harm -----------------------------------------------------------------------


def member(name: str, data: bytes = b"x", **changes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for attribute, value in changes.items():
        setattr(info, attribute, value)
    return info, data


HARM = {
    "upwards": [member("dry/../../etc/passwd")],
    "absolute": [member("/etc/passwd")],
    "dots": [member("dry/./x")],
    "backslash": [member("dry\\..\\x/y")],
    "newline": [member("dry/a\nb")],
    "no folder": [member("MANIFEST.json")],
    "symbolic link": [member("dry/x", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "hard link": [member("dry/x", b"", type=tarfile.LNKTYPE, linkname="dry/y")],
    "device": [member("dry/x", b"", type=tarfile.CHRTYPE)],
    "pipe": [member("dry/x", b"", type=tarfile.FIFOTYPE)],
    "folder": [member("dry/x", b"", type=tarfile.DIRTYPE)],
    "sparse": [
        member(
            "dry/x",
            pax_headers={
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.realsize": "99999999999",
            },
        )
    ],
    "twice": [member("dry/x"), member("dry/x")],
    "two folders": [member("dry/x"), member("wet/x")],
    "long name": [member("dry/" + "x" * 5000)],
    "long header": [member("dry/x", pax_headers={"comment": "x" * 3_000_000})],
    "nothing": [],
}


@pytest.mark.parametrize("kind", HARM)
def test_harmful_archives_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for info, data in HARM[kind]:
            archive.addfile(info, io.BytesIO(data))
    verdict = verify(path)
    assert verdict.problems
    assert wrong(verdict).startswith("the archive cannot be read: ")
    assert sorted(tmp_path.iterdir()) == [path]


def test_bombs_do_not_go_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 1 << 24)
    header, path = tarfile.TarInfo("dry/x"), tmp_path / "x.tar.gz"
    for size in (1 << 27, 1 << 50):
        header.size = size
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(header.tobuf(tarfile.GNU_FORMAT))
            for _ in range(1 << 7):
                file.write(bytes(1 << 20))
        assert "its files are too large" in wrong(verify(path))
    header.type, header.size = tarfile.XHDTYPE, 1 << 40  # a header of a terabyte
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    assert "a header is too long" in wrong(verify(path))


def test_text_that_means_harm(files: Files, check: Callable[..., Verdict]) -> None:
    config = one(files, "sweep/*/config.yaml")
    bomb = b"a: &a [x, x]\n" + b"".join(
        b"%c: &%c [*%c, *%c]\n" % (98 + n, 98 + n, 97 + n, 97 + n) for n in range(20)
    )
    assert "it has aliases" in wrong(check({**files, config: bomb}, forged=True))
    assert "cannot be parsed" in wrong(
        check({**files, config: b"!!python/object/apply:os.system ['touch x']"}, forged=True)
    )
    record, samples = one(files, "store/records/*"), one(files, "store/artifacts/*/samples.jsonl")
    manifest = json.loads(files["MANIFEST.json"])
    manifest["trials"] = {
        name: {**about, "error": "all is well"} for name, about in manifest["trials"].items()
    }
    assert (
        wrong(check({**files, "MANIFEST.json": json.dumps(manifest).encode()}))
        == "MANIFEST.json does not match its seal"
    )
    for text in (
        b"[" * 100_000,
        b"null",
        b"[]",
        b"3",
        b'{"a": NaN}',
        b"\xff\xfe",
        b"",
        b'{"key": 1e999, "files": [1]}',
        b"9" * 5000,
    ):
        for name in (
            config,
            record,
            samples,
            one(files, "sweep/launches/*.json"),
            one(files, "sweep/launches/*.jsonl"),
        ):
            assert not check({**files, name: text}, forged=True).holds
        assert not check({**files, "MANIFEST.json": text}).holds


def test_damage_anywhere_is_no_crash(dry: Shell, tmp_path: Path) -> None:
    whole, rng = (dry.folder / "dry.tar.gz").read_bytes(), random.Random(1)
    plain = gzip.decompress(whole)
    for number in range(120):
        data = bytearray(plain if number % 2 else whole)
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.choice((len(data), rng.randrange(len(data)))) :]
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress(bytes(data), 1) if number % 2 else bytes(data))
        verify(path)  # raises nothing
    path.write_bytes(whole[: len(whole) // 2])
    assert not verify(path).holds
    path.write_bytes(b"")
    assert not verify(path).holds


# -- what is packed --------------------------------------------------------------------------------


def test_secrets_are_refused_unless_looked_at(shell: Shell) -> None:
    (shell.folder / "conf" / "experiment").mkdir(parents=True)
    text = f"# @package _global_\nexperiment: {{name: leaky, description: 'with {SECRET}'}}\n"
    (shell.folder / "conf" / "experiment" / "leaky.yaml").write_text(text)
    assert shell("-m", *DRY, "experiment=leaky", "lora.rank=4").status == 0
    done = shell("bundle", "leaky")
    assert done.status == 2
    assert "sweep/experiment.yaml, line 2" in done.err
    assert SECRET not in done.out + done.err
    assert not list(shell.folder.glob("*.gz"))
    assert shell("bundle", "leaky", "--anyway").status == 0


def test_failed_trials_are_in_it(shell: Shell) -> None:
    assert (
        shell(
            "-m", *DRY, "lora.rank=4,64", "backend.fail=none,raise", "experiment.name=half"
        ).status
        == 1
    )
    done = shell("bundle", "half")
    assert done.status == 0, done.err
    assert "5 trials, 2 of them without all results" in done.out
    trials = json.loads(unpacked(shell.folder / "half.tar.gz")["MANIFEST.json"])["trials"]
    failed = {
        name: about["error"] for name, about in trials.items() if about["status"] != "succeeded"
    }
    assert len(failed) == 2
    assert all(error.startswith("finetune: ") for error in failed.values())


def test_sweep_that_was_changed_by_hand_is_not_packed(shell: Shell) -> None:
    assert shell("-m", *DRY, "lora.rank=4", "experiment.name=dry").status == 0
    config = shell.folder / "multirun" / "dry" / "trial" / "config.yaml"
    config.write_text(config.read_text().replace("rank: 4", "rank: 64"))
    done = shell("bundle", "dry")
    assert (done.status, list(shell.folder.glob("*.gz"))) == (1, [])
    assert "config.yaml is not the configuration that was launched" in done.err
    config.unlink()
    packed = shell("bundle", "dry")
    assert packed.status == 0, "a file that is gone is made again, as it was launched"


def test_metrics_that_are_no_means_are_named(shell: Shell) -> None:
    """An ``accuracy`` of a scorer's own may be anything: it is taken as recorded, and said so."""
    assert (
        shell("-m", *DRY, "lora.rank=4", "run_control_trials=false", "experiment.name=dry").status
        == 0
    )
    for path in shell.folder.glob(".mosweep/store/records/*/*.json"):
        record = json.loads(path.read_bytes().splitlines()[0])
        if record["kind"] == "eval":
            record["facts"]["metrics"]["accuracy"] = 0.25
            path.write_bytes(sealed(record))
    done = shell("bundle", "dry")
    assert done.status == 0, done.err
    assert "! eval:capitalization" in done.out
    assert "accuracy is 0.25, the samples give 0." in done.out


def fed(rows: list[dict[str, Any]], chunk: int = 7) -> Scores:
    scores, data = Scores(), "\n".join(json.dumps(row) for row in rows).encode()
    for start in range(0, len(data), chunk):
        scores.feed(data[start : start + chunk])
    scores.close()
    return scores


def test_means_are_recomputed_where_they_are_means() -> None:
    rows = [{"id": n, "epoch": 1, "scores": {"match": float(n % 2), "f1": 0.25}} for n in range(10)]
    assert metric_findings(
        {"metrics": {"match/accuracy": 0.5, "stderr": 0.1}, "n": 10}, fed(rows)
    ) == {
        "n": "",
        "match/accuracy": "",
        "stderr": None,
    }
    # of which scorer?
    assert metric_findings({"metrics": {"accuracy": 0.5}, "n": 10}, fed(rows))["accuracy"] is None
    assert (
        metric_findings({"metrics": {"match/mean": 0.6}, "n": 10}, fed(rows))["match/mean"]
        == "match/mean is 0.6, the samples give 0.5"
    )
    assert (
        metric_findings({"metrics": {}, "n": 11}, fed(rows))["n"]
        == "n is 11, but there are 10 samples"
    )
    assert metric_findings({"metrics": {"accuracy": 0.5}, "n": 10}, None) == {
        "accuracy": None,
        "n": None,
    }
    twice = [
        {"id": n, "epoch": e, "scores": {"match": float(n % 2 or e == 2)}}
        for n in range(10)
        for e in (1, 2)
    ]
    assert metric_findings({"metrics": {"accuracy": 0.75}, "n": 10}, fed(twice))["accuracy"] == ""
    # the best of both epochs, say
    assert metric_findings({"metrics": {"accuracy": 1.0}, "n": 20}, fed(twice))["accuracy"] is None
    some = [{"id": n, "scores": {"match": 1.0 if n < 5 else None}} for n in range(10)]
    assert metric_findings({"metrics": {"accuracy": 1.0}, "n": 5}, fed(some)) == {
        "n": "",
        "accuracy": "",
    }
    assert metric_findings({"metrics": {"accuracy": 0.5}, "n": 10}, fed(some)) == {
        "n": "",
        "accuracy": None,
    }
    assert fed([{"id": 1, "scores": 3}]).broken


@pytest.mark.real
def test_torchtune_sweep(shell: Shell) -> None:
    words = (
        "model=tiny",
        "lora.rank=4",
        "optim.max_steps_per_epoch=2",
        "inspect.task_args.limit=20",
        "run_control_trials=false",
    )
    assert shell("-m", *words, "tracking=none", "experiment.name=real", timeout=600).status == 0
    done = shell("bundle", "real", "--json")
    assert done.status == 0, done.err
    assert (done.json["holds"], done.json["recomputed"]) == (True, 1)
    assert done.json["left_out_bytes"] > 500_000
    files = unpacked(shell.folder / "real.tar.gz")
    for pattern in (
        "*/samples.jsonl",
        "*.eval",
        "*/torchtune.yaml",
        "*/losses.json",
        "*/adapter_config.json",
    ):
        assert one(files, pattern)
    assert not [name for name in files if name.endswith((".safetensors", "train.jsonl"))]
    whole = shell("bundle", "real", "--weights", "--data", "-o", "whole.tar.gz", "--json").json
    assert (whole["left_out"], whole["design"]) == (0, done.json["design"])
    adapter = one(unpacked(shell.folder / "whole.tar.gz"), "*/adapter_model.safetensors")
    forged = unpacked(shell.folder / "whole.tar.gz")
    forged[adapter] = forged[adapter][:-1] + b"!"
    bundle._write(shell.folder / "bad.tar.gz", "real", forged, {})
    assert f"{adapter} does not match its record" in wrong(verify(shell.folder / "bad.tar.gz"))
