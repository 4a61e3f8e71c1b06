import json
import stat
import threading
from pathlib import Path

import pytest

from sft_data.errors import StoreError
from sft_data.web.access import Role, access_file, add_person, people, person_of, remove_person


def test_a_token_is_told_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "store" / "access.json"
    token = add_person(file, "maria", Role.PUBLISHER)
    assert len(token) >= 43  # 32 bytes in base64
    assert token not in file.read_text()
    found = person_of(file, token)
    assert found is not None
    assert (found.name, found.role) == ("maria", Role.PUBLISHER)
    assert found.sha256 not in repr(found)


def test_the_access_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "access.json"
    add_person(file, "maria", Role.READER)
    add_person(file, "ken", Role.ADMIN)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("token", ["", "x", "\udcff", "maria", "0" * 43, "ä" * 43])
def test_any_other_token_is_nobodys(tmp_path: Path, token: str) -> None:
    file = tmp_path / "access.json"
    given = add_person(file, "maria", Role.READER)
    assert person_of(file, token) is None
    assert person_of(file, given + " ") is None
    assert person_of(file, people(file)[0].sha256) is None  # who read the file has no token


def test_roles_include_those_before_them() -> None:
    may = {(a, b): a.may(b) for a in Role for b in Role}
    order = [Role.READER, Role.PUBLISHER, Role.ADMIN]
    assert may == {(a, b): order.index(a) >= order.index(b) for a in order for b in order}


def test_removing_a_person_ends_their_access_and_nobody_elses(tmp_path: Path) -> None:
    file = tmp_path / "access.json"
    tokens = {name: add_person(file, name, Role.READER) for name in ("maria", "ken")}
    remove_person(file, "maria")
    assert person_of(file, tokens["maria"]) is None
    assert person_of(file, tokens["ken"]) is not None
    with pytest.raises(StoreError, match="has no access; there are: ken"):
        remove_person(file, "maria")


def test_a_name_is_given_once(tmp_path: Path) -> None:
    file = tmp_path / "access.json"
    token = add_person(file, "maria", Role.READER)
    with pytest.raises(StoreError, match="has access already"):
        add_person(file, "maria", Role.ADMIN)
    found = person_of(file, token)
    assert found is not None
    assert found.role == Role.READER


@pytest.mark.parametrize("name", ["", "../x", "a b", "<b>", "a\nb", "x" * 65, "-x"])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be a person's name"):
        add_person(tmp_path / "access.json", name, Role.READER)
    assert people(tmp_path / "access.json") == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"people": [{"name": "x"}]}', '{"format": 2, "people": []}', '{"people": [], "more": 1}'],
)
def test_a_damaged_file_gives_access_to_nobody(tmp_path: Path, content: str) -> None:
    file = tmp_path / "access.json"
    file.write_text(content)
    with pytest.raises(StoreError, match=r"access\.json is damaged"):
        people(file)
    with pytest.raises(StoreError, match="damaged"):
        person_of(file, "anything")


def test_people_added_at_once_are_all_there(tmp_path: Path) -> None:
    file = tmp_path / "access.json"
    threads = [threading.Thread(target=add_person, args=(file, f"p{n}", Role.READER)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(people(file)) == 12
    assert len(json.loads(file.read_text())["people"]) == 12


def test_the_file_lies_in_the_store_or_where_it_is_named(tmp_path: Path) -> None:
    assert access_file(None) == Path("store/access.json")
    assert access_file(str(tmp_path)) == tmp_path / "access.json"
    assert access_file("s3://bucket/x", tmp_path / "who.json") == tmp_path / "who.json"
    with pytest.raises(StoreError, match="--access FILE"):
        access_file("s3://bucket/x")
