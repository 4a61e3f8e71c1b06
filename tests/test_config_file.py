from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from sft_data.config_file import check_settings, hint, read_settings, settings_table
from sft_data.errors import ConfigError


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = Field(1, ge=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    colour: Literal["red", "green"] = "red"
    inner: str | Inner = "none"
    size: int = Field(1, ge=1)


def problems(data: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_settings(Outer, data, "file.yaml")
    return caught.value.problems


def test_check_settings_with_several_mistakes_tells_all_of_them():
    found = problems({"colour": "gren", "size": 0, "sise": 3})
    assert found == [
        "colour: Input should be 'red' or 'green', found 'gren'; did you mean 'green'?",
        "size: Input should be greater than or equal to 1, found 0",
        "sise: there is no such setting; did you mean 'size'?",
    ]


def test_check_settings_with_a_misspelt_inner_key_hints_at_the_inner_ones():
    assert any(p.endswith("there is no such setting; did you mean 'width'?") for p in problems({"inner": {"widht": 1}}))


def test_check_settings_with_nothing_near_lists_what_there_is():
    assert problems({"zzz": 1}) == ["zzz: there is no such setting; there are colour, inner, size"]


def test_read_settings_of_a_missing_file_hints_at_its_neighbour(tmp_path: Path):
    (tmp_path / "train_tiny.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"no such file; did you mean 'train_tiny\.yaml'\?"):
        read_settings(tmp_path / "train_tyni.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2", "key 'a' stands twice"),
        ("a: [1", "is not YAML"),
        ("- 1", "must be a mapping"),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_read_settings_of_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, told: str):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_settings(tmp_path / "x.yaml")


def test_hint_with_nothing_near_is_empty():
    assert hint("abc", ["xyz"]) == ""


def test_settings_table_names_inner_settings_by_their_place():
    assert settings_table(Outer).splitlines() == [
        "| setting | default | meaning |",
        "|---|---|---|",
        "| `colour` | `red` | None |",
        "| `inner` |  | None |",
        "| `inner.width` | `1` | None |",
        "| `size` | `1` | None |",
    ]
