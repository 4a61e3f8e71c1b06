from __future__ import annotations

import pytest

from sft_data.errors import StoreError
from sft_data.store.manage import tag
from sft_data.store.read import find_by_fingerprint, load_manifest, resolve, versions
from tests.store.versions import published, rewrite


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """small v1 (tag good), v2; other v1; and a draft of small."""
    home = tmp_path_factory.mktemp("read")
    place = home / "store"
    published(place, home / "a")
    published(place, home / "b", salt="2")
    published(place, home / "c", salt="draft", draft=True)
    published(place, home / "d", name="other")
    tag(place, "small@v1", "good")
    return place


@pytest.mark.parametrize(("spec", "number"), [("small", 2), ("small@latest", 2), ("small@v1", 1), ("small@good", 1)])
def test_resolve_name_number_and_tag(store, spec, number):
    assert resolve(store, spec).number == number


def test_resolve_prefix_of_a_fingerprint(store):
    for number in (1, 2):
        fingerprint = resolve(store, f"small@v{number}").manifest.fingerprint
        assert resolve(store, f"small@{fingerprint[:8]}").number == number
        assert resolve(store, f"small@{fingerprint}").version == f"small@v{number}"


def test_resolve_folder_of_a_version(store):
    found = resolve(store, str(store / "small" / "v1"))
    assert (found.name, found.number) == ("small", 1)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("smal", r"no dataset 'smal' .*did you mean 'small'.*holds: other, small"),
        ("small@v9", r"no version v9; it has: v1, v2, good \(= v1\), draft-"),
        ("small@god", r"did you mean 'small@good'"),
        ("small@ffff0000", r"no version 'ffff0000'"),
    ],
)
def test_resolve_unknown_version_tells_what_exists(store, spec, told):
    with pytest.raises(StoreError, match=told):
        resolve(store, spec)


def test_resolve_ambiguous_prefix_asks_for_more_digits(tmp_path):
    """Of many versions, two begin with the same four digits: made so by hand."""
    one, two = (published(tmp_path / "store", tmp_path / s, salt=s) for s in "ab")
    for made, fingerprint in ((one, "abcd" + "0" * 60), (two, "abcd" + "1" * 60)):
        text = (made.folder / "manifest.json").read_text()
        rewrite(
            made.folder / "manifest.json", text.replace(load_manifest(made.folder).fingerprint, fingerprint).encode()
        )
    with pytest.raises(StoreError, match=r"several versions: v1 .*v2 .*more digits"):
        resolve(tmp_path / "store", "small@abcd")
    assert resolve(tmp_path / "store", "small@abcd1").number == 2


def test_resolve_in_an_empty_store_says_how_to_begin(tmp_path):
    with pytest.raises(StoreError, match="holds no versions; `sft-data build"):
        resolve(tmp_path / "nowhere", "small")


def test_versions_lists_all_with_figures(store):
    found = versions(store)
    assert [(v.version.split("-")[0], v.latest, v.tags) for v in found] == [
        ("other@v1", True, []),
        ("small@v1", False, ["good"]),
        ("small@v2", True, []),
        ("small@draft", False, []),
    ]
    small = found[1]
    assert (small.rows_in, small.rows, small.rows_rejected, small.tokens, small.packs) == (12, 8, 4, 502, 3)
    assert small.published is not None
    assert [v.name for v in versions(store, "other")] == ["other"]


def test_versions_of_an_unknown_dataset_is_an_error(store):
    with pytest.raises(StoreError, match="did you mean 'small'"):
        versions(store, "smalll")


def test_versions_of_a_store_that_is_not_there_is_empty(tmp_path):
    assert versions(tmp_path / "nowhere") == []


def test_find_by_fingerprint_finds_published_versions_only(store):
    wanted = resolve(store, "small@v2").manifest.fingerprint
    found = find_by_fingerprint(store, "small", wanted)
    assert found is not None
    assert found.number == 2
    assert find_by_fingerprint(store, "other", wanted) is None
    draft = next(v for v in versions(store) if v.draft)
    assert find_by_fingerprint(store, "small", draft.fingerprint) is None


def test_resolve_damaged_manifest_names_the_file(tmp_path):
    made = published(tmp_path / "store", tmp_path / "cells")
    rewrite(made.folder / "manifest.json", b"{}")
    with pytest.raises(StoreError, match=r"manifest.json is damaged: name"):
        resolve(tmp_path / "store", "small@v1")


def test_versions_lists_a_damaged_version_with_its_problem_and_the_others_with_figures(tmp_path):
    made = published(tmp_path / "store", tmp_path / "a")
    published(tmp_path / "store", tmp_path / "b", salt="2")
    rewrite(made.folder / "manifest.json", b"{}")
    first, second = versions(tmp_path / "store")
    assert (first.version, first.rows) == ("small@v1", 0)
    assert "manifest.json is damaged" in str(first.problem)
    assert (second.rows, second.latest, second.problem) == (8, True, None)


def test_damaged_references_say_how_to_mend_them(tmp_path):
    published(tmp_path / "store", tmp_path / "cells")
    (tmp_path / "store/small/refs.json").write_text("{broken")
    with pytest.raises(StoreError, match=r"refs\.json is damaged.*rollback small@vN"):
        resolve(tmp_path / "store", "small")
