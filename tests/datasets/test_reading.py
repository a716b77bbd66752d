"""Files as other tools and people write them: the rows are read, or one line says what is wrong."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from mosweep.core.errors import UserError
from mosweep.datasets.jsonl import placed
from mosweep.datasets.reading import read_rows


def chat(question: str) -> dict[str, Any]:
    turns = [("user", question), ("assistant", question.upper())]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


ROWS = [chat(word) for word in ("naïve", "ok", "no")]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def table(delimiter: str) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["prompt", "completion"])
    writer.writerows([["naïve", "NAÏVE"], ["ok", "OK"], ["no", "NO"]])
    return file.getvalue().encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", LINES),
        ("array.jsonl", json.dumps(ROWS, indent=1).encode()),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES),
        ("rows.ndjson", LINES.replace(b"\n", b"\r\n")),
        ("no-ending", LINES),
        ("jq.json", "\n".join(json.dumps(row, indent=2) for row in ROWS).encode()),
        ("splits.json", json.dumps({"note": "n", "train": ROWS, "test": [1]}).encode()),
        ("pretty.json", json.dumps({"test": [1], "train": ROWS}, indent=4).encode()),
        ("rows.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("rows.json.bz2", bz2.compress(json.dumps(ROWS).encode())),
        ("rows.xz", lzma.compress(LINES)),
        ("rows.csv", table(",")),
        ("excel.csv", b"\xef\xbb\xbf" + table(";")),
        ("rows.tsv", table("\t")),
        ("rows.csv.gz", gzip.compress(table(","), mtime=0)),
    ],
)
def test_the_same_rows_in_any_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert [row for _, row, _ in placed(tmp_path / name)] == ROWS


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"prompt": ["naïve", "ok", "no"], "completion": ["NAÏVE", "OK", "NO"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    assert [row for _, row, _ in placed(tmp_path / "rows.parquet")] == ROWS
    parquet.write_table(pyarrow.table({**columns, "prompt": ["a", None, "b"]}), tmp_path / "b")
    with pytest.raises(UserError, match=r"b, row 2: prompt must be text, found nothing"):
        list(placed(tmp_path / "b"))
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "rows.parquet").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cut\.parquet is not a readable Parquet file"):
        list(placed(tmp_path / "cut.parquet"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"messages": "é"}]'.encode("latin-1"), "is not UTF-8 text .* iconv -f LATIN1 -t UTF-8"),
        (json.dumps(ROWS).encode("utf-16"), "is not UTF-8 text but UTF-16"),
        (json.dumps(ROWS).encode("utf-16-le"), "is not UTF-8 text .*UTF-16"),
        (LINES + '{"a": "é"}\n'.encode("latin-1"), "line 4: is not UTF-8 text"),
        (b"PK\x03\x04rest", "is a zip archive or a spreadsheet"),
        (b"\x28\xb5\x2f\xfdrest", "unzstd"),
        (gzip.compress(LINES, mtime=0)[:-9], "cannot be unpacked"),
        (b'{"data": [{}]}', "has no rows of the split 'train'; it has: data"),
        (b'{"train": [{}, {]}', "line 1: not JSON"),
        (b'{\n"train": [\n{},\n{"a" 1}]}', "line 4: not JSON"),
        (b"[" * 100_000, "too deeply nested"),
        (b'{"a":' * 100_000, "too deeply nested"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    (tmp_path / "mine.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"mine\.json(, | ).*{problem}") as caught:
        list(read_rows(tmp_path / "mine.json"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_table_with_too_many_fields_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('prompt,completion\n"a\nb",c\nd,e,f\n')
    with pytest.raises(UserError, match=r"t\.csv, line 4: more fields than the header has"):
        list(read_rows(tmp_path / "t.csv"))


@pytest.mark.parametrize("splits", [False, True])
def test_a_bad_row_of_a_pretty_file_is_named_by_its_own_line(tmp_path: Path, splits: bool) -> None:
    rows: list[Any] = [*ROWS, {"messages": "oops"}]
    text = json.dumps({"test": ROWS, "train": rows} if splits else rows, indent=2)
    (tmp_path / "pretty.json").write_text(text)
    line = next(n for n, line in enumerate(text.splitlines(), 1) if "oops" in line) - 1
    with pytest.raises(UserError, match=rf"pretty\.json, line {line}: messages must be a list"):
        list(placed(tmp_path / "pretty.json"))
