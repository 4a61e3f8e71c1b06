"""What the README shows is what the program does."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sft_data.catalogue import all_codes, pages
from sft_data.pipeline import load_pipeline
from tests.trees import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(*arguments: str, store: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sft_data.cli", *arguments], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "110", "STORE": str(store)},
    )  # fmt: skip
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    run("build", "pipelines/quickstart.yaml", "--store", str(folder), "--workers", "1", store=folder)
    return folder


def shown_after(text: str) -> str:
    """The code block that follows a sentence of the README."""
    block = re.search(r"```(?:\w+)?\n(.*?)```", README[README.index(text) + len(text) :], re.DOTALL)
    assert block is not None
    return block[1]


def test_readme_shows_the_quickstart_pipeline_as_it_is():
    assert (ROOT / "pipelines" / "quickstart.yaml").read_text(encoding="utf-8") in README


def test_readme_lists_every_stage_and_every_code():
    missing = [page.kind for page in pages() if f"| `{page.kind}` |" not in README]
    missing += [code for code in all_codes() if f"`{code}`" not in README]
    assert missing == []


def test_readme_shows_the_closing_table_of_the_demo(store: Path):
    shown = shown_after("and ends with:")
    built = run("build", "pipelines/quickstart.yaml", "--store", str(store), "--workers", "1", store=store)
    table = built[: built.index("version")]
    assert table.rstrip() in shown


def test_readme_shows_what_why_tells(store: Path):
    told = run("why", "quickstart", "alpaca:alpaca_en.json:92", "--store", str(store), store=store)
    assert told.rstrip() in README


def test_readme_python_runs(tmp_path: Path):
    [program] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    program = program.replace('store="store"', f"store={str(tmp_path)!r}")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "quickstart@v1" in done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda path: path.name)
def test_every_pipeline_and_training_file_loads_and_begins_with_how_to_run_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    from sft_data.train.config import load_train_config

    monkeypatch.chdir(ROOT)
    text = path.read_text(encoding="utf-8")
    comment = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert text.startswith("# ")
    assert re.search(rf"sft-data (run|build|train) pipelines/{path.name}", comment)
    (load_pipeline if "\nsources:" in text else load_train_config)(path)


def test_changelog_and_readme_name_no_place_of_one_machine():
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md"):
        assert not re.search(r"/(root|home|work|tmp)/", path.read_text(encoding="utf-8"))


def test_figures_of_the_readme_are_those_of_the_results() -> None:
    table = README[README.index("<!-- figures -->") :].split("\n\n")[0]
    figures = re.findall(r"\d[\d,]*\.\d+(?= s| GB| GiB)", table)
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert len(figures) > 10
    assert [figure for figure in figures if not re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", results)] == []
