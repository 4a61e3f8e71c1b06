import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from sft_data import cells
from sft_data.cells import (
    Task,
    cell_folder,
    execute,
    find_cell,
    read_file,
    step_record,
    write_arrow,
    write_parquet,
    write_step_record,
)
from sft_data.errors import SourceError, StoreError
from sft_data.fingerprint import stamp


def write_numbers(folder: Path, numbers: list[int]) -> dict[str, Any]:
    write_parquet(pl.DataFrame({"n": numbers}), folder / "rows.parquet")
    write_arrow(pl.DataFrame({"n": numbers}), folder / "sketch.arrow")
    return {"sum": sum(numbers)}


def break_down(folder: Path) -> dict[str, Any]:
    (folder / "half").write_text("half")
    raise ValueError("in the middle")


def write_and_touch(folder: Path, words: Path) -> dict[str, Any]:
    words.write_text("one more")
    return write_numbers(folder, [1])


def never(folder: Path) -> dict[str, Any]:
    raise AssertionError("a finished cell was made again")


KEY = "ab" * 32


def test_cell_is_made_once_and_found_again(tmp_path: Path):
    cell = execute(tmp_path, Task(KEY, "numbers", write_numbers, ([1, 2, 3],)))
    assert cell.told == {"sum": 6}
    assert cell.files["rows.parquet"].rows == 3
    assert cell.files["sketch.arrow"].rows == 3
    again = execute(tmp_path, Task(KEY, "numbers", never, ()))
    assert again == cell
    assert read_file(tmp_path, again.files["sketch.arrow"])["n"].to_list() == [1, 2, 3]


def test_cell_whose_work_fails_leaves_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match="in the middle"):
        execute(tmp_path, Task(KEY, "broken", break_down, ()))
    assert find_cell(tmp_path, KEY) is None
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_ctrl_c_that_comes_again_while_it_is_tidied_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    whole, calls = shutil.rmtree, []

    def remove(path: Path, **how: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        whole(path, **how)

    monkeypatch.setattr(cells.shutil, "rmtree", remove)
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path, Task(KEY, "numbers", interrupted, ()))
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("harm", ["short", "gone", "no record", "empty record", "half a record"])
def test_cell_that_a_power_cut_left_incomplete_is_made_again(tmp_path: Path, harm: str):
    task = Task(KEY, "numbers", write_numbers, ([1, 2, 3],))
    whole = execute(tmp_path, task)
    write_step_record(tmp_path, "f" * 64, {"cells": [KEY]})
    file = cell_folder(tmp_path, KEY) / ("rows.parquet" if harm in ("short", "gone") else "cell.json")
    file.chmod(0o644)
    if harm in ("gone", "no record"):
        file.unlink()
    else:
        file.write_bytes({"short": file.read_bytes()[:-1], "empty record": b"", "half a record": b'{"files": {'}[harm])
    assert find_cell(tmp_path, KEY) is None
    assert step_record(tmp_path, "f" * 64) is None
    assert execute(tmp_path, task).files == whole.files
    assert step_record(tmp_path, "f" * 64) is not None
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("half", [b"", b'{"cells": ['])
def test_step_record_that_a_power_cut_left_incomplete_does_not_count(tmp_path: Path, half: bytes):
    write_step_record(tmp_path, "f" * 64, {"cells": []})
    (tmp_path / "steps" / f"{'f' * 64}.json").write_bytes(half)
    assert step_record(tmp_path, "f" * 64) is None


def test_cell_is_not_made_from_a_file_that_was_damaged_since(tmp_path: Path):
    made = execute(tmp_path, Task(KEY, "numbers", write_numbers, ([1, 2, 3],))).files["sketch.arrow"]
    path = made.path(tmp_path)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"sketch\.arrow was changed after it was made"):
        execute(tmp_path, Task("cd" * 32, "other", write_numbers, ([1],), inputs=(made,)))
    assert find_cell(tmp_path, "cd" * 32) is None


def test_cell_is_not_made_from_a_file_that_changes_meanwhile(tmp_path: Path):
    words = tmp_path / "words.txt"
    words.write_text("one")
    task = Task(KEY, "numbers", write_and_touch, (words,), unchanged=((words, stamp(words)),))
    with pytest.raises(SourceError, match=r"words\.txt was changed while it was read"):
        execute(tmp_path, task)
    assert find_cell(tmp_path, KEY) is None


def test_error_of_a_cell_says_which_one(tmp_path: Path):
    with pytest.raises(ValueError, match="in the middle") as caught:
        execute(tmp_path, Task(KEY, "near-dedup, shard 7", break_down, ()))
    assert caught.value.__notes__ == ["while making near-dedup, shard 7"]


def test_cell_draft_of_a_killed_run_is_not_a_cell(tmp_path: Path):
    (tmp_path / "tmp" / f"{KEY[:16]}-dead").mkdir(parents=True)
    assert find_cell(tmp_path, KEY) is None
    assert execute(tmp_path, Task(KEY, "numbers", write_numbers, ([4],))).told == {"sum": 4}


def test_same_content_is_written_as_the_same_bytes_however_it_was_chunked(tmp_path: Path):
    whole = pl.DataFrame({"t": [str(i) for i in range(100)], "l": [[i] * (i % 3) for i in range(100)]})
    pieces = pl.concat([whole[:37], whole[37:90], whole[90:]], rechunk=False)
    write_parquet(whole, tmp_path / "a.parquet")
    write_parquet(pieces, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_step_record_counts_only_while_its_cells_are_there(tmp_path: Path):
    execute(tmp_path, Task(KEY, "numbers", write_numbers, ([1],)))
    assert step_record(tmp_path, "f" * 64) is None
    write_step_record(tmp_path, "f" * 64, {"cells": [KEY], "rows_in": 1})
    assert step_record(tmp_path, "f" * 64) == {"cells": [KEY], "rows_in": 1}
    folder = cell_folder(tmp_path, KEY)
    (folder / "cell.json").unlink()
    assert step_record(tmp_path, "f" * 64) is None


def long_texts(rows: int) -> pl.DataFrame:
    """Conversations whose texts make several of the pages that polars would cut."""
    told = [[{"role": "user", "content": f"{n} " * (100 + n % 40)}] for n in range(rows)]
    return pl.DataFrame({"id": [str(n) for n in range(rows)], "messages": told})


@pytest.mark.parametrize("before", [1, 700, 9_000])
def test_the_same_rows_give_the_same_bytes_out_of_whatever_table_they_were_taken(tmp_path: Path, before: int) -> None:
    rows = long_texts(5_000)
    around = pl.concat([long_texts(before), rows, long_texts(50)])
    inside = pl.int_range(pl.len()).is_between(before, before + 5_000, closed="left")
    cut = {
        "alone": rows,
        "slice": around.slice(before, 5_000),
        "slice-of-one-piece": around.rechunk().slice(before, 5_000),
        "filter": around.filter(inside),
        "pieces": pl.concat([rows.slice(0, 1_234), rows.slice(1_234)], rechunk=False),
    }
    for name, frame in cut.items():
        write_parquet(frame, tmp_path / name)
    assert len({(tmp_path / name).read_bytes() for name in cut}) == 1
    assert pl.read_parquet(tmp_path / "slice").equals(rows)


def test_long_texts_make_groups_of_fewer_rows_so_that_no_page_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "_PAGE_LIMIT", 100_000)
    rows = long_texts(2_000)  # some 600 to 800 bytes each
    write_parquet(rows, tmp_path / "rows.parquet")
    write_parquet(pl.concat([long_texts(10), rows]).slice(10), tmp_path / "slice.parquet")
    groups = pq.read_metadata(tmp_path / "rows.parquet")
    sizes = [groups.row_group(n).total_byte_size for n in range(groups.num_row_groups)]
    assert len(sizes) > 10
    assert max(sizes) < 100_000
    assert pl.read_parquet(tmp_path / "rows.parquet").equals(rows)
    assert (tmp_path / "rows.parquet").read_bytes() == (tmp_path / "slice.parquet").read_bytes()
