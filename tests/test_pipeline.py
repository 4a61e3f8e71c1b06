import json
from pathlib import Path

import pytest

from sft_data.errors import ConfigError
from sft_data.pipeline import STAGES, load_pipeline, parse_pipeline, pipeline_schema


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "Say hi.", "input": "", "output": "Hi."}) + "\n")
    return path


def write(folder: Path, text: str) -> Path:
    path = folder / "p.yaml"
    path.write_text(text)
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_pipeline(path, overrides)
    return caught.value.problems


def test_pipeline_loads_with_defaults_and_gives_its_seed_to_every_section_that_draws(tmp_path: Path, data: Path):
    path = write(
        tmp_path, f"name: d\nseed: 9\nsources:\n  - {{name: a, path: {data}}}\nstages:\n  - kind: near-dedup\n"
    )
    pipeline = load_pipeline(path)
    assert pipeline.split.seed == 9
    assert pipeline.stages[0].model_dump()["seed"] == 9
    assert load_pipeline(path, ["split.seed=4"]).split.seed == 4


def test_pipeline_with_many_mistakes_tells_them_all_at_once(tmp_path: Path):
    found = problems(
        write(
            tmp_path,
            "name: d\n"
            "sources:\n  - {name: a, path: nowhere/x.json}\n"
            "stages:\n  - {kind: answer-lenght}\n  - {kind: answer-length, min_char: 3}\n"
            "tokenize: {tokenizer: nowhere/tokenizer, max_length: 0}\n"
            "packs: {max_length: 3}\n",
        )
    )
    text = "\n".join(found)
    assert "stages.0" in text
    assert "did you mean 'answer-length'?" in text
    assert "did you mean 'min_chars'?" in text
    assert "packs: there is no such setting; did you mean 'pack'?" in text
    assert "tokenize.max_length" in text
    assert "sources.0.path" in text
    assert "nowhere/x.json" in text
    assert "tokenize.tokenizer" in text
    assert "nowhere/tokenizer" in text
    assert len(found) == 6


def test_pipeline_stage_before_the_one_it_needs_is_told_what_to_do(tmp_path: Path, data: Path):
    path = write(
        tmp_path,
        f"name: d\nsources: [{{name: a, path: {data}}}]\n"
        "stages: [{kind: language, keep: [en]}, {kind: detect-language}]\n",
    )
    assert problems(path) == [
        "stages.0: `language` needs column `lang`; put `detect-language` before it",
        "stages.0: `language` needs column `lang_score`; put `detect-language` before it",
    ]


def test_pipeline_setting_that_names_no_column_is_told_before_anything_is_read(tmp_path: Path, data: Path):
    path = write(
        tmp_path,
        f"name: d\nsources: [{{name: a, path: {data}}}]\n"
        "stages:\n"
        "  - {kind: select, budget: 5, by: lang_scor, method: round-robin, groups: cluster, per: lang,\n"
        "     floors: {en: 1}}\n"
        "  - {kind: detect-language}\n"
        "  - {kind: select, budget: 5, by: lang_score, per: source, floors: {a: 1}}\n"
        "  - {kind: select, budget: 5, by: extra.rating}\n"
        "  - {kind: mix, by: topic}\n",
    )
    names = [problem.split(" here")[0] for problem in problems(path)]
    assert names == [
        "stages.0.by: there is no column `lang_scor`",
        "stages.0.groups: there is no column `cluster`",
        "stages.0.per: there is no column `lang`",
        "stages.4.by: there is no column `topic`",
    ]
    assert "put `near-dedup` before it" in problems(path)[1]
    assert "lang_score" in problems(path)[3]


@pytest.mark.parametrize("kind", ["exact-dedup", "near-dedup", "semantic-dedup"])
def test_load_names_the_score_that_decides_between_duplicates_and_that_nobody_adds(tmp_path: Path, data: Path, kind):
    start = f"name: d\nsources: [{{name: a, path: {data}}}]\nstages:\n"
    best = f"  - {{kind: {kind}, keep: best, score: lang_score}}\n"
    [problem] = problems(write(tmp_path, start + best))
    assert problem.startswith("stages.0.score: there is no column `lang_score` here; put `detect-language` before it")
    assert load_pipeline(write(tmp_path, start + "  - {kind: detect-language}\n" + best))
    assert load_pipeline(write(tmp_path, start + f"  - {{kind: {kind}, score: lang_score}}\n"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: d\nname: e\n", "stands twice"),
        ("- a\n- b\n", "must be a mapping"),
        ("name: [unclosed\n", "is not YAML"),
        ("name: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        ("name: Bad Name\nsources: [{name: a, path: x}]\n", "name: "),
    ],
)
def test_pipeline_file_that_is_no_pipeline_is_explained(tmp_path: Path, text: str, told: str):
    assert told in "\n".join(problems(write(tmp_path, text)))


def test_pipeline_file_that_is_missing_names_its_near_neighbour(tmp_path: Path):
    write(tmp_path, "name: d\n")
    assert problems(tmp_path / "q.yaml") == ["no such file; did you mean 'p.yaml'?"]


def test_pipeline_sources_of_the_same_name_are_refused(tmp_path: Path, data: Path):
    path = write(tmp_path, f"name: d\nsources: [{{name: a, path: {data}}}, {{name: a, path: {data}}}]\n")
    assert "two sources are named 'a'" in problems(path)[0]


def test_pipeline_gate_on_an_unknown_code_is_refused(tmp_path: Path, data: Path):
    path = write(
        tmp_path,
        f"name: d\nsources: [{{name: a, path: {data}}}]\ngates: {{max_rejected_share: {{unreadable-rows: 0.1}}}}\n",
    )
    assert "did you mean 'unreadable-row'?" in problems(path)[0]


def test_set_reaches_stages_by_kind_and_by_number_and_sources_by_name(tmp_path: Path, data: Path):
    path = write(tmp_path, "name: d\nsources: [{name: a, path: gone}]\nstages: [{kind: answer-length}]\n")
    pipeline = load_pipeline(
        path, [f"sources.a.path={data}", "stages.answer-length.min_chars=7", "stages.0.max_chars=70", "name=e"]
    )
    assert pipeline.name == "e"
    assert pipeline.stages[0].model_dump() == {"kind": "answer-length"} | {
        name: value for name, value in pipeline.stages[0].model_dump().items() if name != "kind"
    } | {"min_chars": 7, "max_chars": 70}


def test_set_of_something_that_is_not_there_is_refused(tmp_path: Path, data: Path):
    path = write(tmp_path, f"name: d\nsources: [{{name: a, path: {data}}}]\nstages: [{{kind: answer-length}}]\n")
    assert "no 'near-dedup'" in problems(path, "stages.near-dedup.threshold=0.7")[0]
    assert "KEY=VALUE" in problems(path, "name")[0]


def test_schema_of_a_pipeline_names_every_stage_and_describes_every_setting():
    schema = json.dumps(pipeline_schema())
    assert all(f'"{kind}"' in schema for kind in STAGES)
    undescribed = [
        f"{kind}.{name}"
        for kind, stage in STAGES.items()
        for name, field in stage.model_fields.items()
        if name != "kind" and not field.description
    ]
    assert undescribed == []


def test_pipeline_that_packs_shorter_than_it_tokenizes_is_refused(data: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"shorter than tokenize\.max_length"):
        parse_pipeline(
            {
                "name": "d",
                "sources": [{"name": "a", "path": str(data)}],
                "tokenize": {"tokenizer": str(tmp_path), "max_length": 100},
                "pack": {"max_length": 50},
            },
            "p",
        )


def test_pipeline_mistakes_are_told_once_at_their_place_in_the_words_of_the_file(tmp_path: Path, data: Path):
    told = problems(
        write(
            tmp_path,
            f"seed: -3\nsources: [{{name: a, path: {data}}}, {{name: a, path: {data}}}]\n"
            "stages: [refusal, {kind: near-dedup, threshold: 7}]\ngates: {max_rejected_share: {nonsense: 0.1}}\n",
        )
    )
    assert len(told) == len(set(told)) == 6
    text = "\n".join(told)
    assert "name: is missing" in text
    assert "seed: " in text
    assert "stages.0: must be a mapping" in text
    assert "stages.1.threshold: " in text
    assert "two sources are named 'a'" in text
    assert "no stage rejects with code 'nonsense'" in text
