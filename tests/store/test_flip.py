"""Every kind of file that a version can have, damaged in turn, is named; every count that was altered is found.

The version has all there is: three splits, loss weights, several samples of a row, a source packed twice, edits,
rejections, and rows that were held against an older version, whose sketches lie in the store's index.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sft_data.build import build
from sft_data.pipeline import parse_pipeline
from sft_data.store.layout import INDEX, LOG, PARQUET, STREAMS
from sft_data.store.manifest import Manifest
from sft_data.store.publish import build_bytes, manifest_bytes
from sft_data.store.read import load_build, load_manifest
from sft_data.store.verify import verify
from tests.store.versions import rewrite
from tests.trees import ROOT

pytestmark = pytest.mark.slow


def chats() -> Iterator[dict[str, Any]]:
    """Two answers each, the first of weight one half; every tenth is broken text, every twentieth has an echo."""
    for n in range(60):
        text = f"Say the number {n}, caf\u00c3\u00a9." if n % 10 == 0 else f"Say the number {n}."
        answers = [f"The number is {n}, {'very ' * (n % 5)}simple.", f"And the next is {n + 1} of course."]
        messages = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": answers[0], "weight": 0.5},
            {"role": "user", "content": "And then?"},
            {"role": "assistant", "content": answers[1]},
        ]
        yield from [{"messages": messages}] * (2 if n % 20 == 0 else 1)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("flip")
    (home / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats()))
    lines = (ROOT / "samples/alpaca_en.json").read_text().splitlines()[1:81]  # one row on each line
    alpaca = [json.loads(line.strip().rstrip(",")) for line in lines]
    for name, part in (("old", alpaca[:40]), ("new", alpaca[20:80])):
        (home / f"{name}.json").write_text(json.dumps(part))
    sources = {
        "old": [{"name": "old", "path": str(home / "old.json")}],
        "rich": [
            {"name": "chats", "path": str(home / "chats.jsonl")},
            {"name": "new", "path": str(home / "new.json"), "weight": 2.0},
        ],
    }
    dedup: dict[str, list[dict[str, Any]]] = {
        "old": [],
        "rich": [
            {"kind": "repair-text"},
            {"kind": "exact-dedup", "against": ["old"]},
            {"kind": "near-dedup", "against": ["old"]},
            {"kind": "answer-length"},
        ],
    }
    for name, read in sources.items():
        pipeline = {
            "name": name,
            "sources": read,
            "stages": dedup[name],
            "split": {"validation": 0.2, "test": 0.2},
            "tokenize": {"tokenizer": str(ROOT / "samples/tokenizer"), "max_length": 256, "samples": "turn"},
            "pack": {"max_length": 256},
        }
        built = build(parse_pipeline(pipeline, name), home / "store")
    return Path(built.path)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to damage, in a store of its own."""
    store = original.parent.parent
    shutil.copytree(store, tmp_path / "store", ignore=shutil.ignore_patterns(".cache"))
    return tmp_path / "store" / original.relative_to(store)


def test_version_has_every_kind_of_file(original: Path):
    assert verify(original).problems == []
    there = {path.relative_to(original).parts[0] for path in original.rglob("*") if path.is_file()}
    assert there == {
        *PARQUET, *STREAMS, "tokenizer", "manifest.json", "build.json", "report.json", "report.html"
    }  # fmt: skip
    manifest = load_manifest(original)
    assert set(manifest.counts.splits) == {"train", "validation", "test"}
    assert manifest.counts.splits["train"].packed_tokens not in (None, manifest.counts.splits["train"].tokens)
    assert sum(sum(step.edited.values()) for step in manifest.steps) > 0
    assert b"loss_weights" in (original / "packs/train/data-00000-of-00001.arrow").read_bytes()[:4096]
    assert len(list((original.parent.parent / INDEX).glob("cells/*/*/*"))) > 2


def flipped(path: Path, place: float) -> None:
    whole = path.read_bytes()
    at = min(len(whole) - 1, int(len(whole) * place))
    rewrite(path, whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])


def shortened(path: Path) -> None:
    rewrite(path, path.read_bytes()[:-1])


def lengthened(path: Path) -> None:
    rewrite(path, path.read_bytes() + b"\n")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a bit of the first byte": lambda path: flipped(path, 0.0),
    "a bit near the beginning": lambda path: flipped(path, 0.13),
    "a bit in the middle": lambda path: flipped(path, 0.5),
    "a bit near the end": lambda path: flipped(path, 0.93),
    "a bit of the last byte": lambda path: flipped(path, 1.0),
    "a byte cut off": shortened,
    "a byte too many": lengthened,
    "emptied": lambda path: rewrite(path, b""),
    "removed": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_of_a_version_that_was_damaged_is_named(folder: Path, damage: str):
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, whole = path.relative_to(folder).as_posix(), path.read_bytes()
        DAMAGES[damage](path)
        problems = verify(folder).problems
        assert any(name in problem for problem in problems), f"{name}: {problems}"
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
    assert verify(folder).ok


def test_file_that_was_added_beside_any_other_is_named(folder: Path):
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        more = path.with_name(f"another{path.suffix}")
        more.write_bytes(path.read_bytes())
        name = more.relative_to(folder).as_posix()
        assert any(name in problem for problem in verify(folder).problems), name
        more.unlink()
    assert verify(folder).ok


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "removed"])
def test_damaged_log_and_index_of_the_store_are_named(folder: Path, original: Path, damage: str):
    """The index is what later builds hold their rows against; it belongs to the version that its rows are of."""
    store = folder.parent.parent
    older = store / "old" / "v1"
    assert verify(older).ok
    for path in [store / LOG, *sorted(p for p in (store / INDEX).rglob("*") if p.is_file() and p.suffix != ".json")]:
        whole = path.read_bytes()
        DAMAGES[damage](path)
        if path.name == LOG and path.read_bytes() == whole.rstrip(b"\n"):
            continue  # no entry differs, and the next one begins a new line
        problems = verify(older).problems
        assert any(path.relative_to(store).as_posix() in problem for problem in problems), f"{path}: {problems}"
        rewrite(path, whole)
    assert verify(older).ok


def numbers(value: object, at: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(inside, (*at, key))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield at


def test_every_count_that_a_forger_altered_and_hashed_anew_is_found_by_counting(folder: Path, tmp_path: Path):
    """Outside a store, where no log betrays the new manifest."""
    alone = tmp_path / "alone"
    shutil.copytree(folder, alone)
    manifest = load_manifest(alone).model_dump(mode="json")
    build_info = load_build(alone)
    counts = [place for part in ("counts", "steps", "files") for place in numbers(manifest[part], (part,))]
    told = [place for place in counts if not {"settings", "revision"} & set(place)]
    assert len(told) > 90
    missed = []
    for place in told:
        forged = copy.deepcopy(manifest)
        inside: Any = forged
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] += 1
        written = manifest_bytes(Manifest.model_validate(forged))
        rewrite(alone / "manifest.json", written)
        rewrite(alone / "build.json", build_bytes(build_info, written))
        if verify(alone).ok:
            missed.append(place)
    assert missed == []
