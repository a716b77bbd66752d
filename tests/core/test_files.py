"""Files are written whole or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mosweep.core.files import replacing, write_synced, write_whole


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize(
    ("content", "written"),
    [("é\n", "é\n".encode()), (b"\0\xff", b"\0\xff"), (["é", "\r\n"], "é\r\n".encode()), ([], b"")],
)
def test_content_comes_as_text_bytes_or_parts(
    content: object, written: bytes, durable: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text("what was there before, and longer")
    write_whole(path, content, durable=durable)  # type: ignore[arg-type]
    assert path.read_bytes() == written
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("durable", [False, True])
def test_a_failure_half_way_leaves_what_was_there(durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def parts() -> Iterator[str]:
        yield "new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, parts(), durable=durable)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_file_that_another_program_writes_is_replaced_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("newer")
        raise ZeroDivisionError
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.tar"]


def test_synced_content_is_written_in_place(tmp_path: Path) -> None:
    write_synced(tmp_path / "a", b"1")
    write_synced(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "2"
