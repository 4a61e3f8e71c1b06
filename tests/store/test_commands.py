"""Every command that touches versions says on S3 and in sealed stores what it says on a plain folder."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import orjson
import pytest
import typer.main

from sft_data.cli import app, main
from sft_data.fingerprint import file_sha256
from sft_data.store.mirror import mirror_of, object_name
from sft_data.store.place import find_version, open_store
from tests.store.test_s3 import proxy, s3_settings  # noqa: F401  # a fixture: the server
from tests.trees import ROOT

pytest.importorskip("cryptography")
pytest.importorskip("torch")
pytestmark = pytest.mark.slow

PIPELINE = """
name: mine
sources: [{name: a, path: samples/alpaca_en.json}]
stages: [{kind: exact-dedup}, {kind: answer-length}]
split: {validation: 0.1}
tokenize: {tokenizer: samples/tokenizer, max_length: 256}
pack: {max_length: 256}
"""
TRAINING = """
model: {architecture: llama, hidden_size: 16, layers: 1, heads: 2, intermediate_size: 32}
max_steps: 2
gradient_accumulation: 1
eval_rows: 4
"""
PLACES = ["S3", "sealed folder", "sealed S3"]
# What belongs to a place or to the moment and not to what is told.
MOMENTS = {"path", "seconds", "published", "tokens_per_second", "run", "model", "base"}


@dataclass
class Place:
    """A store, and a machine that works on it."""

    store: str
    home: Path
    variables: dict[str, str] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)

    def __call__(self, *arguments: object, code: int = 0) -> Any:
        """What a command prints as JSON."""
        words = ["sft-data", *map(str, arguments), "--store", self.store, "--json"]
        with self.as_here() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
            patch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as stop:
                main()
        assert (stop.value.code or 0) == code, f"{' '.join(words)}: {out.getvalue()}"
        return orjson.loads(out.getvalue())

    @contextlib.contextmanager
    def as_here(self) -> Iterator[pytest.MonkeyPatch]:
        """With the variables of this machine."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            for name in ("SFT_DATA_KEY", "SFT_DATA_KEY_FILE"):
                patch.delenv(name, raising=False)
            for name, value in self.variables.items():
                patch.setenv(name, value)
            yield patch


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Place:
    """The store that the others are compared with: a plain folder with two versions, which was built here."""
    home = tmp_path_factory.mktemp("folder")
    place = Place(str(home / "store"), home)
    (home / "mine.yaml").write_text(PIPELINE)
    for change in ("20", "60"):
        place("build", home / "mine.yaml", "--workers", 1, "--set", f"stages.answer-length.min_chars={change}")
    for number in (1, 2):
        place("export", f"mine@v{number}", "--out", home / f"{number}.tar.zst")
    return place


@pytest.fixture(scope="module", params=PLACES)
def place(request, folder, proxy, tmp_path_factory) -> Place:  # noqa: F811
    """The same versions, imported by one machine and looked at from another that has never seen the store."""
    home = tmp_path_factory.mktemp("place")
    url, variables = str(home / "store"), {"SFT_DATA_CACHE": str(home / "publisher")}
    if "sealed" in request.param:
        variables["SFT_DATA_KEY"] = "11" * 32
    if "S3" in request.param:
        bucket = f"commands-{PLACES.index(request.param)}"
        variables |= s3_settings(proxy)
        url = f"s3://{bucket}/store"
    made = Place(url, home, variables)
    if "S3" in request.param:
        with made.as_here():
            import boto3
            import s3fs

            s3fs.S3FileSystem.clear_instance_cache()
            boto3.client("s3").create_bucket(Bucket=bucket)
    for number in (1, 2):
        assert made("import", folder.home / f"{number}.tar.zst")["version"] == f"mine@v{number}"
    variables["SFT_DATA_CACHE"] = str(home / "reader")
    return made


def a_row(place: Place) -> str:
    """A row whose fate the second version changed."""
    return str(place("diff", "mine@v1", "mine@v2")["redecided"]["examples"][0]["id"])


def hashes(folder: Path) -> dict[str, str]:
    """Every file below a folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in found}


def exported(place: Place, *how: str) -> dict[str, str]:
    out = place.home / f"exported{''.join(how)}"
    place("export", "mine@v1", "--out", out, *how)
    return {name: sha for name, sha in hashes(out).items() if name != "build.json"}


def page(place: Place) -> str:
    """The report's page; its last part tells when and where the version was built."""
    place("report", "mine@v1", "--out", place.home / "page.html")
    return (place.home / "page.html").read_text().partition("<h2>How it was built")[0]


def trained(place: Place) -> Any:
    (place.home / "train.yaml").write_text(TRAINING)
    told = place("train", place.home / "train.yaml", "--data", "mine@v2", "--out", place.home / "run")
    weights = file_sha256(place.home / "run" / "model" / "model.safetensors")
    return weights, [step["loss"] for step in told["history"]], told["held_out"]


def evaluated(place: Place) -> Any:
    if not (place.home / "run").exists():
        trained(place)
    return place("evaluate", place.home / "run", "--data", "mine@v1", "--rows", 8)["metrics"]


COMMANDS: dict[str, Callable[[Place], Any]] = {
    "show": lambda place: place("show", "mine@v1"),
    "report": page,
    "why": lambda place: place("why", "mine@v2", a_row(place)),
    "preview": lambda place: [
        place("preview", "mine@v1", "-n", 2)["rows"],
        place("preview", "mine", "--pack", 0)["pack"],
    ],
    "diff": lambda place: place("diff", "mine@v1", "mine@v2"),
    "verify": lambda place: [place("verify", f"mine@v{number}") for number in (1, 2)],
    "export": lambda place: [exported(place), exported(place, "--to", "trl-packed")],
    "train": trained,
    "evaluate": evaluated,
    "tag": lambda place: [
        place("tag", "mine@v2", "passing"),
        place("tag", "mine", "passing", "--remove"),
        place("tag", "mine@v1", "golden"),
    ],
    "rollback": lambda place: place("rollback", "mine@golden"),
    "log": lambda place: [(entry["what"], entry.get("number")) for entry in place("log")["entries"][2:]],
    "gc": lambda place: place("gc", "--remove"),
    "versions": lambda place: place("versions"),
}
# These neither take a store nor need one that holds versions; `build`, `import` made the versions above, `run` is
# `build` and `train`, and the pages of `serve` have tests of their own.
OTHERS = {"access", "build", "check", "import", "init", "key", "run", "schema", "serve", "stages", "deploy"}


def bare(told: Any) -> Any:
    """Without what belongs to a place or to the moment."""
    if isinstance(told, dict):
        return {key: bare(value) for key, value in told.items() if key not in MOMENTS}
    return [bare(value) for value in told] if isinstance(told, list | tuple) else told


@pytest.mark.parametrize("command", COMMANDS)
def test_command_says_on_every_kind_of_place_what_it_says_on_a_folder(place, folder, command):
    if command not in folder.told:
        folder.told[command] = bare(COMMANDS[command](folder))
    assert bare(COMMANDS[command](place)) == folder.told[command]


def test_no_command_that_touches_versions_is_left_out():
    assert set(typer.main.get_command(app).commands) - OTHERS == COMMANDS.keys()  # type: ignore[attr-defined]


def test_verify_reads_what_is_stored_and_not_what_was_fetched_before(place):
    place("preview", "mine@v2")  # brings all its files here
    with place.as_here():
        mirror = mirror_of(open_store(place.store))
        assert mirror is not None
        version = find_version(place.store, "mine@v2")
        entry = mirror.entry_of(version.folder)
        assert entry is not None
        name = mirror.index(entry["index"])["packs/train/data-00000-of-00001.arrow"]
        files, path = fsspec.core.url_to_fs(f"{place.store}/{object_name(name)}")
        whole = files.cat_file(path)
        if files.protocol[0] == "file":
            Path(path).chmod(0o644)
        files.pipe_file(path, whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
    told = place("verify", "mine@v2", code=1)
    assert not told["ok"]
    assert "packs/train/data-00000-of-00001.arrow" in " ".join(told["problems"])
    with place.as_here():
        files.pipe_file(path, whole)
    assert place("verify", "mine@v2")["ok"]


def test_server_says_on_every_kind_of_place_what_the_commands_say(place):
    told = {
        "/api/versions": place("versions"), "/api/show/mine@v1": place("show", "mine@v1"),
        f"/api/why/mine@v2?row={a_row(place)}": place("why", "mine@v2", a_row(place)),
        "/api/diff?a=mine@v1&b=mine@v2": place("diff", "mine@v1", "mine@v2"),
        "/api/verify/mine@v1": place("verify", "mine@v1"), "/api/log": place("log"),
    }  # fmt: skip
    with place.as_here():
        asked = client(place)
        for address, said in told.items():
            found = asked.get(address)
            assert (found.status_code, bare(found.json())) == (200, bare(said)), address
        for page in ("/", "/version/mine@v1", "/report/mine@v2", "/preview/mine@v1?n=1", "/log"):
            assert asked.get(page).status_code == 200
        sent = {"version": "mine@v2", "tag": "by-web"}
        assert asked.post("/api/tag", json=sent).json() == sent
    assert "by-web" in {tag for each in place("versions")["versions"] for tag in each["tags"]}
    place("tag", "mine", "by-web", "--remove")


def test_server_without_the_key_of_a_sealed_store_says_so_to_who_runs_it(place, monkeypatch, capsys):
    if "SFT_DATA_KEY" not in place.variables:
        pytest.skip("this store is not sealed")
    known = place("versions")
    monkeypatch.setitem(place.variables, "SFT_DATA_CACHE", str(place.home / "stranger"))
    monkeypatch.delitem(place.variables, "SFT_DATA_KEY")
    with place.as_here():
        asked = client(place)
        for address in ("/api/show/mine@v1", "/version/mine@v1", "/report/mine@v1"):
            found = asked.get(address)
            assert found.status_code == 503
            assert "whoever runs it must give it" in found.text
            assert "sealed with the key" not in found.text
        assert "give it by --key-file FILE or in $SFT_DATA_KEY" in capsys.readouterr().err
    assert known["versions"]
    assert "is sealed with the key" in refused(place, "serve", "--port", "0", "--access", place.home / "nobody.json")


def client(place: Place) -> Any:
    """A browser of a server on this store."""
    testclient = pytest.importorskip("starlette.testclient")
    from sft_data.web.server import Serving, application

    serving = Serving(place.store, place.home / "access.json", "127.0.0.1")
    known = {"origin": "http://127.0.0.1:8321"}
    return testclient.TestClient(application(serving), "http://127.0.0.1:8321", headers=known)


def refused(place: Place, *arguments: object) -> str:
    """What a command says that ends with an error."""
    with place.as_here() as patch, contextlib.redirect_stderr(io.StringIO()) as err:
        patch.setattr(sys, "argv", ["sft-data", *map(str, arguments), "--store", place.store])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 1
    return err.getvalue()
