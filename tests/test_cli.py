import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from sft_data.cli import app, main
from tests.trees import ROOT

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


class Done:
    """What a command left."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def sft(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(ROOT)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["sft-data", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return Done(int(stop.value.code or 0), out, err)

    return call


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sft_data.build import build
    from sft_data.pipeline import load_pipeline

    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        build(load_pipeline(Path("pipelines/quickstart.yaml")), folder)
        build(load_pipeline(Path("pipelines/quickstart.yaml"), ["stages.answer-length.min_chars=12"]), folder)
    return folder


def test_build_dry_run_tells_what_is_reused_and_why_not(sft: Any, store: Path):
    before = sorted(store.rglob("*"))
    arguments = ("build", "pipelines/quickstart.yaml", "--store", store, "--dry-run")
    told = sft(*arguments, "--json", "--set", "stages.answer-length.min_chars=13").json
    by_step = {step["step"]: step for step in told["steps"]}
    assert told["version"] is None
    assert by_step["08:language"]["reused"]
    assert by_step["09:answer-length"]["why"][0].startswith("min_chars ")
    assert by_step["10:refusal"]["why"] == ["follows 09:answer-length"]
    assert "quickstart@v1 is this version already" in sft(*arguments).out
    assert sorted(store.rglob("*")) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_stands_in_the_readme(sft: Any, command: str):
    done = sft(command, "--help")
    assert done.code == 0
    example = re.search(r"Example:\s+(sft-data .*)", done.out)
    assert example is not None
    assert shlex.split(example[1])[1] == command
    assert f"`sft-data {command}" in (ROOT / "README.md").read_text()


def test_access_is_given_listed_and_taken(sft: Any, tmp_path: Path):
    at = ("--store", tmp_path)
    assert "nobody yet" in sft("access", "list", *at).out
    made = sft("access", "add", "maria", "--role", "publisher", *at, "--json").json
    assert made["token"] not in Path(made["path"]).read_text()
    assert "The token, which is shown only now:" in sft("access", "add", "ken", "--role", "reader", *at).out
    listed = sft("access", "list", *at, "--json").json["people"]
    assert [(person["name"], person["role"]) for person in listed] == [("ken", "reader"), ("maria", "publisher")]
    assert "sha256" not in str(listed)
    assert "maria" in sft("access", "list", *at).out
    assert sft("access", "remove", "maria", *at).code == 0
    assert [person["name"] for person in sft("access", "list", *at, "--json").json["people"]] == ["ken"]
    refused = sft("access", "remove", "maria", *at)
    assert (refused.code, "there are: ken" in refused.err) == (1, True)
    assert sft("access", "add", "eve", "--role", "king", *at).code == 2


def test_serve_at_a_network_address_asks_for_people_first(sft: Any, tmp_path: Path):
    done = sft("serve", "--host", "0.0.0.0", "--port", "0", "--store", tmp_path)  # noqa: S104 - refused
    assert done.code == 1
    assert "sft-data access add" in done.err


def test_check_prints_the_funnel_of_the_first_rows(sft: Any):
    done = sft("check", "pipelines/quickstart.yaml", "--rows", 20, "--json")
    assert done.code == 0
    assert done.json["ok"]
    for line in done.json["funnel"]:
        assert line["rows_in"] == line["rows_kept"] + sum(line["rejected"].values())


def test_check_of_a_wrong_pipeline_tells_all_mistakes_and_exits_with_1(sft: Any, tmp_path: Path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: d\nsources: [{name: a, path: none.json, fromat: alpaca}]\nstages: [{kind: exact-dedub}]\n")
    done = sft("check", wrong)
    assert done.code == 1
    assert done.out == ""
    for told in ("none.json", "did you mean 'format'?", "did you mean 'exact-dedup'?"):
        assert told in done.err
    assert "Traceback" not in done.err
    as_json = sft("check", wrong, "--json")
    assert as_json.code == 1
    assert not as_json.json["ok"]
    assert len(as_json.json["errors"]) == 3


def test_build_prints_what_the_contract_says(sft: Any, tmp_path: Path):
    done = sft("build", "pipelines/quickstart.yaml", "--store", tmp_path, "--workers", 1, "--json")
    assert done.code == 0
    told = done.json
    assert told["version"] == "quickstart@v1"
    assert told["rows_in"] == told["rows_kept"] + told["rows_rejected"]
    assert {"fingerprint", "path", "tokens", "packs", "seconds", "reused"} <= told.keys()
    again = sft("build", "pipelines/quickstart.yaml", "--store", tmp_path, "--workers", 1)
    assert again.code == 0
    assert "quickstart@v1" in again.out


def test_versions_show_report_and_verify_agree(sft: Any, store: Path, tmp_path: Path):
    listed = sft("versions", "--store", store, "--json").json["versions"]
    assert [v["version"] for v in listed] == ["quickstart@v1", "quickstart@v2"] or [v["version"] for v in listed] == [
        "quickstart@v2",
        "quickstart@v1",
    ]
    assert sft("show", "quickstart", "--store", store, "--json").code == 0
    assert sft("show", "quickstart@v1", "--store", store).code == 0
    page = tmp_path / "page.html"
    done = sft("report", "quickstart@v1", "--out", page, "--store", store, "--json")
    assert done.json["path"] == str(page)
    assert "<html" in page.read_text()
    verified = sft("verify", "quickstart", "--store", store, "--json")
    assert (verified.code, verified.json["ok"], verified.json["problems"]) == (0, True, [])


def test_verify_of_a_damaged_version_exits_with_1_and_names_the_file(sft: Any, tmp_path: Path):
    import shutil

    sft("build", "pipelines/quickstart.yaml", "--store", tmp_path / "a", "--workers", 1, "--json")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    victim = next((tmp_path / "b" / "quickstart" / "v1" / "packs" / "train").glob("*.arrow"))
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    done = sft("verify", "quickstart", "--store", tmp_path / "b", "--json")
    assert done.code == 1
    assert not done.json["ok"]
    assert any("packs/train" in problem for problem in done.json["problems"])


def test_why_tells_the_fate_of_a_kept_and_of_a_rejected_row(sft: Any, store: Path):
    import polars as pl

    folder = store / "quickstart" / "v1"
    kept = pl.read_parquet(next(folder.glob("conversations/train/*.parquet")))["id"][0]
    rejected = pl.read_parquet(next(folder.glob("rejections/*.parquet"))).row(0, named=True)
    assert sft("why", "quickstart@v1", kept, "--store", store, "--json").json["events"]
    story = sft("why", "quickstart@v1", rejected["id"], "--store", store, "--json").json
    assert rejected["code"] in json.dumps(story)
    assert sft("why", "quickstart@v1", rejected["id"], "--store", store).code == 0
    unknown = sft("why", "quickstart@v1", "no:such:row", "--store", store)
    assert unknown.code == 1


def test_preview_shows_tokens_and_labels(sft: Any, store: Path, tmp_path: Path):
    rows = sft("preview", "quickstart", "-n", 2, "--store", store, "--json").json["rows"]
    assert len(rows) == 2
    assert all(len(row["tokens"]) == len(row["labels"]) for row in rows)
    assert sft("preview", "quickstart", "-n", 1, "--store", store).code == 0
    page = tmp_path / "preview.html"
    assert sft("preview", "quickstart", "-n", 1, "--store", store, "--out", page).code == 0
    assert "<html" in page.read_text()


def test_diff_of_two_versions_tells_the_setting_and_the_rows(sft: Any, store: Path):
    told = sft("diff", "quickstart@v1", "quickstart@v2", "--store", store, "--json").json
    assert "min_chars" in json.dumps(told["settings"])
    assert {"added", "removed", "changed"} <= told.keys()
    assert sft("diff", "quickstart@v1", "quickstart@v2", "--store", store).code == 0


def test_unknown_version_is_an_error_with_a_hint(sft: Any, store: Path):
    done = sft("show", "quickstrat", "--store", store)
    assert done.code == 1
    assert "quickstart" in done.err


def test_wrong_usage_exits_with_2(sft: Any):
    assert sft("build").code == 2
    assert sft("no-such-command").code == 2


def test_stages_lists_every_stage_and_shows_a_page(sft: Any):
    from sft_data.pipeline import STAGES

    listed = sft("stages").out
    assert all(kind in listed for kind in STAGES)
    page = sft("stages", "near-dedup").out
    assert "threshold" in page
    assert "near-duplicate" in page
    assert sft("stages", "near-dedub").code == 1


def test_init_tells_what_the_rules_do_and_which_setting_does_otherwise(sft: Any, tmp_path: Path):
    turns = [{"role": role, "content": role} for role in ("user", "user", "assistant")]
    rows = [{"messages": turns}, {"messages": turns[1:]}, {"messages": turns[2:]}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    told = sft("init", tmp_path / "a.jsonl").out
    assert "# rejected among the first 9 rows: no-prompt 3" in told
    assert "# edited or noted among the first 9 rows: merged-turns 3" in told
    assert "rules: {consecutive_turns: reject}" in told


def test_init_writes_a_pipeline_that_checks(sft: Any, tmp_path: Path):
    out = tmp_path / "mine.yaml"
    done = sft("init", "samples/alpaca_en.json", "samples/sharegpt.jsonl.gz", "--out", out)
    assert done.code == 0
    assert sft("check", out, "--rows", 10, "--json").json["ok"]
    assert sft("init", "samples/alpaca_en.json", "--out", out).code == 1


def test_export_writes_each_form_and_help_names_them_all(sft: Any, store: Path, tmp_path: Path):
    from sft_data.cli import FORMS
    from sft_data.export.targets import TARGETS

    assert FORMS.rstrip(".").split(", ") == [*TARGETS, "huggingface"]
    for form in ("trl-packed", "messages", "huggingface"):
        done = sft("export", "quickstart", "--to", form, "--out", tmp_path / form, "--store", store, "--json")
        assert done.code == 0, done.err
        assert done.json["files"] == sum(path.is_file() for path in (tmp_path / form).rglob("*"))
    wrong = sft("export", "quickstart", "--to", "trl-pakced", "--out", tmp_path / "x", "--store", store)
    assert wrong.code == 1
    assert "trl-packed" in wrong.err


def test_errors_stand_in_the_json_too(sft: Any, tmp_path: Path):
    done = sft("show", "nothing", "--store", tmp_path, "--json")
    assert done.code == 1
    assert "holds no versions" in done.json["error"]


def test_build_that_keeps_no_row_publishes_nothing(sft: Any, tmp_path: Path):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"instruction": "Say hi.", "input": "", "output": ""}\n')
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text(f"name: d\nsources: [{{name: a, path: {data}}}]\nstages: [{{kind: answer-length}}]\n")
    done = sft("build", pipeline, "--store", tmp_path / "store", "--workers", 1)
    assert done.code == 1
    assert "any_row_kept" in done.err
    assert not (tmp_path / "store" / "d" / "v1").exists()


def test_versions_of_a_store_that_is_not_there_is_an_error(sft: Any, tmp_path: Path):
    assert sft("versions", "--store", tmp_path / "nowhere").code == 1


def test_program_is_the_module_and_ctrl_c_while_it_is_loaded_leaves_no_traceback():
    module = [sys.executable, "-m", "sft_data", "stages", "near-dedup"]
    program = [str(Path(sys.executable).with_name("sft-data")), "stages", "near-dedup"]
    assert subprocess.check_output(module) == subprocess.check_output(program) != b""
    interrupted = (
        "import runpy, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "runpy.run_module('sft_data', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_build_stopped_by_ctrl_c_says_so_and_exits_with_130(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "sft_data.cli", "build", "pipelines/quickstart.yaml", "--store", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    process.stderr.readline()  # the first step has ended
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
