"""A damaged row hides no other, is named, and keeps nobody from adding one."""

from __future__ import annotations

import os

import pytest
from typing_extensions import TypedDict

from tests.untrusted.limits import limited_to
from untrusted.errors import UnreadableError
from untrusted.rows import MAX_BYTES, MAX_DAMAGED, MAX_ROW_BYTES, TAIL_BYTES, append_row, newest_rows, read_rows


class Row(TypedDict):
    n: int


def written(path, *lines):
    path.write_bytes(b"".join(lines))
    return path


def numbers(rows):
    return [row["n"] for row in rows]


def test_whole_rows_are_read_in_order_and_from_the_end(tmp_path):
    path = written(tmp_path / "rows", b'{"n": 1}\n', b"\n", b'{"n": 2}\r\n', b'{"n": 3}\n')
    found = read_rows(path, Row)
    assert (numbers(found.rows), found.damaged, found.warning) == ([1, 2, 3], 0, None)
    assert numbers(newest_rows(path, Row)) == [3, 2, 1]


def test_a_file_that_is_not_there_has_no_rows(tmp_path):
    assert read_rows(tmp_path / "none", Row).rows == []
    assert list(newest_rows(tmp_path / "none", Row)) == []


@pytest.mark.parametrize(
    "damage",
    [b'{"n": \n', b"\xe9\xff\n", b"[]\n", b'{"n": "a"}\n', b"\0" * 4096 + b"\n", b'{"n": NaN}\n', b"{}\n"],
    ids=["torn", "bytes", "list", "type", "zeros", "nan", "missing"],
)
def test_a_damaged_row_is_left_out_and_named(tmp_path, damage):
    path = written(tmp_path / "rows", b'{"n": 1}\n', damage, b'{"n": 3}\n')
    found = read_rows(path, Row)
    assert numbers(found.rows) == [1, 3]
    assert found.damaged == 1
    assert found.warning.startswith(f"{path}: row 2: ")
    assert found.warning.endswith("; the row is left out")
    assert "\n" not in found.warning
    assert numbers(newest_rows(path, Row)) == [3, 1]


def test_several_damaged_rows_are_counted(tmp_path):
    found = read_rows(written(tmp_path / "rows", b"x\n", b'{"n": 1}\n', b"y\n"), Row)
    assert found.warning.startswith(f"{tmp_path}/rows: row 1: not JSON: ")
    assert found.warning.endswith("; 2 such rows are left out")


@pytest.mark.parametrize("damage", [b"x\n", b"y" * MAX_ROW_BYTES + b"\n"], ids=["short", "long"])
def test_no_more_is_read_after_a_thousand_damaged_rows(tmp_path, damage):
    """What it costs does not grow with the file: of the part that is not read, a hole takes the place."""
    path = written(tmp_path / "rows", b'{"n": 1}\n', b"x\n" * (MAX_DAMAGED - 1), damage)
    assert read_rows(path, Row).damaged == MAX_DAMAGED
    with path.open("ab") as file:
        file.write(b"x\n")
        file.truncate(MAX_BYTES)
    with pytest.raises(UnreadableError) as refused:
        read_rows(path, Row)
    assert str(refused.value).startswith(f"{path}: row 2: not JSON: ")
    assert str(refused.value).endswith("; more than 1,000 such rows, so none is read")


def test_a_reader_may_allow_less(tmp_path):
    path = written(tmp_path / "rows", b'{"n": 1}\n' * 10)
    assert len(read_rows(path, Row, 90).rows) == 10
    with pytest.raises(UnreadableError, match="has 90 bytes; at most 89 are read"):
        read_rows(path, Row, 89)


def test_a_row_that_a_disk_takes_a_part_of_is_refused(tmp_path):
    path = written(tmp_path / "rows", b'{"n": 1}\n')
    with limited_to(14), pytest.raises(OSError, match="File too large"):
        append_row(path, '{"n": 2}')
    append_row(path, '{"n": 3}')
    assert numbers(read_rows(path, Row).rows) == [1, 3]


def test_a_last_row_that_was_cut_short_is_no_damage(tmp_path):
    path = written(tmp_path / "rows", b'{"n": 1}\n', b'{"n"')
    assert read_rows(path, Row).damaged == 0
    append_row(path, '{"n": 2}')
    assert numbers(read_rows(path, Row).rows) == [1, 2]
    assert numbers(newest_rows(path, Row)) == [2, 1]


def test_a_last_row_without_its_line_break_is_read(tmp_path):
    assert numbers(read_rows(written(tmp_path / "rows", b'{"n": 1}'), Row).rows) == [1]


def test_a_row_of_any_length_is_one_row(tmp_path):
    long = b'{"n": 7, "more": "' + b"x" * (3 * MAX_ROW_BYTES) + b'"}\n'
    found = read_rows(written(tmp_path / "rows", b'{"n": 1}\n', long, b'{"n": 3}\n'), Row)
    assert numbers(found.rows) == [1, 3]
    assert found.warning == f"{tmp_path}/rows: row 2: longer than 1,048,576 bytes; the row is left out"


def test_the_newest_rows_are_looked_for_at_the_end_alone(tmp_path):
    path = tmp_path / "rows"
    with path.open("wb") as file:
        file.truncate(1 << 30)  # a hole, which nobody reads
        file.seek(1 << 30)
        file.write(b'\n{"n": 1}\n{"n": 2}\n')
    assert numbers(newest_rows(path, Row))[:2] == [2, 1]


def test_a_row_that_begins_before_the_end_is_not_taken_for_one(tmp_path):
    """Its last part may look like a whole row."""
    tail = b'{"n": 2}\n'
    path = written(tmp_path / "rows", b"x" * 100, tail * (TAIL_BYTES // len(tail) + 1))
    assert len(numbers(newest_rows(path, Row))) == TAIL_BYTES // len(tail)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "sparse"])
def test_what_is_no_file_of_rows_is_refused(tmp_path, kind):
    path = tmp_path / "rows"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(200 << 30)
    for read in (read_rows, newest_rows):
        with pytest.raises(UnreadableError, match=str(path)):
            list(getattr(read(path, Row), "rows", None) or read(path, Row))
