"""The command line: each command parses, calls the library once, and prints the model it gets.

With `--json` the model is printed as one JSON object on standard output and nothing else is; progress and errors go to
standard error. Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import typer
from rich.console import Console

from sft_data.errors import MissingExtraError, SftDataError, StoreError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from sft_data.store.read import VersionRef

__all__ = ["app", "main"]

# The names of `sft_data.export.targets.TARGETS`, written out so that --help need not load them; a test compares both.
FORMS = (
    "trl, trl-packed, axolotl, llama-factory, llama-factory-packed, olmo-core, nemo-automodel, megatron-bridge, "
    "messages, alpaca, sharegpt, prompt-completion, record, huggingface."
)

REPORT = "report.json"  # all that these commands need of a version: the rest stays where the store is

STOPPED = 130  # exit code of a program that Ctrl-C ended: 128 + SIGINT
TERMINATED = 143  # that a scheduler or a container ended: 128 + SIGTERM

# The class of all errors of usage. Typer carries its own copy of click, so the class is taken from what typer exports.
WrongUsage: type[Any] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Turns raw instruction data into a dataset one can trust, and trains on it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

people_app = typer.Typer(help="Who may do what where `serve` is in front: add, list, remove.", no_args_is_help=True)
app.add_typer(people_app, name="access", epilog="Example: sft-data access add maria --role publisher")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")]
Store = Annotated[
    str | None,
    typer.Option("--store", help="Folder or URL of the store. Default: the pipeline's `store`, else ./store."),
]


def _use_key(path: Path | None) -> Path | None:
    """Only the path travels on, to worker processes too; the key itself is read where it is needed."""
    if path is not None:
        os.environ["SFT_DATA_KEY_FILE"] = str(path.absolute())
    return path


KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", callback=_use_key, help="Key of a sealed store. Default: $SFT_DATA_KEY, if it is set."),
]
AccessFile = Annotated[
    Path | None,
    typer.Option("--access", help="File of people and roles. Default: access.json in the store, if it is a folder."),
]
PipelineFile = Annotated[Path, typer.Argument(metavar="PIPELINE", help="A pipeline file.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="NAME, NAME@v3, NAME@TAG or NAME@FINGERPRINT_PREFIX.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the pipeline.")
]
EngineName = Annotated[Literal["local", "ray"], typer.Option("--engine", help="Where the work runs.")]
Address = Annotated[str | None, typer.Option("--address", help="A Ray cluster; default: one is started here.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes at work. Default: one per core.")]


def _bytes_of(size: str | int) -> int:
    """A number of bytes, as people write it."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([KMGT])(i?)B?|B)?", str(size), re.IGNORECASE)
    if found is None or not float(found[1]):
        raise typer.BadParameter(f"{size!r} is no size; write 512MiB or 2GiB")
    power = " KMGT".index(found[2].upper()) if found[2] else 0
    return int(float(found[1]) * (1024 if found[3] or not found[2] else 1000) ** power)


Memory = Annotated[
    int,
    typer.Option(
        "--memory",
        metavar="SIZE",
        parser=_bytes_of,
        show_default="512MiB",
        help="What a worker may take for its portion of a dataset-wide decision, such as 2GiB; it changes no byte.",
    ),
]


def _out() -> Console:
    return Console(quiet=os.environ.get("RANK", "0") != "0")


def _err() -> Console:
    return Console(stderr=True)


def _print(model: BaseModel | dict[str, Any]) -> None:
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes of torchrun: the first one speaks
    data = model if isinstance(model, dict) else model.model_dump(mode="json")
    sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode() + "\n")


def _tell(json: bool, found: Any, show: Callable[[Console, Any], None]) -> None:  # noqa: ANN401  # any model
    """Print a model: as JSON for a program, by `show` for a person."""
    if json:
        _print(found)
    else:
        show(_out(), found)


def _done(json: bool, data: dict[str, Any], told: str) -> None:
    if json:
        _print(data)
    else:
        _out().print(told, markup=False, highlight=False, soft_wrap=True)


def _say(line: str) -> None:
    _err().print(line, markup=False, highlight=False, soft_wrap=True)


def _find(store: str | None, version: str, only: Collection[str] | None = None) -> VersionRef:
    from sft_data.store.place import find_version

    return find_version(store, version, only=only)


def _open(store: str | None, *, write: bool = False) -> Path:
    from sft_data.store.place import open_store

    return open_store(store, write=write)


@app.command(epilog="Example: sft-data init data/alpaca.json data/chats.jsonl.gz > pipelines/mine.yaml")
def init(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Data files, globs or folders.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the pipeline; default: print it.")] = None,
    json: Json = False,
) -> None:
    """Look at data files and write a commented pipeline for them."""
    from sft_data.starter import starter_pipeline

    text = starter_pipeline(files)
    if out is not None:
        if out.exists():
            raise SftDataError(f"{out} is there already; choose another name or remove it first")
        out.write_text(text, encoding="utf-8")
    if json:
        _print({"pipeline": text, "path": str(out) if out else None})
    elif out is None:
        sys.stdout.write(text)
    else:
        _done(False, {}, f"{out} is written. Next: sft-data check {out}")


@app.command(epilog="Example: sft-data check pipelines/quickstart.yaml --rows 200")
def check(
    pipeline: PipelineFile,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows of each source to try.")] = 1000,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Validate a pipeline, then try it on the first rows; nothing is written."""
    from sft_data.check import DryRun, dry_run
    from sft_data.errors import ConfigError
    from sft_data.pipeline import load_pipeline
    from sft_data.screens import print_funnel

    try:
        result = dry_run(load_pipeline(pipeline, overrides or []), rows)
    except ConfigError as error:
        if not json:
            raise
        _print(DryRun(ok=False, errors=error.problems))
        raise typer.Exit(1) from None
    if json:
        _print(result)
    else:
        print_funnel(_out(), result.funnel, title=f"{pipeline}: the first {rows:,} rows of each source")
        for note in result.notes:
            _out().print(note, markup=False, soft_wrap=True)


@app.command(epilog="Example: sft-data build pipelines/quickstart.yaml --workers 2")
def build(
    pipeline: PipelineFile,
    overrides: Overrides = None,
    store: Store = None,
    key_file: KeyFile = None,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
    memory: Memory = 512 << 20,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be reused, what done again and why; write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Curate and publish a version, without Prefect."""
    from sft_data.build import build as build_version
    from sft_data.build import forecast
    from sft_data.engine import cores, open_engine
    from sft_data.pipeline import load_pipeline
    from sft_data.progress import ProgressWatch
    from sft_data.screens import print_build, print_outlook

    settings = load_pipeline(pipeline, overrides or [])
    if dry:
        _tell(json, forecast(settings, store), print_outlook)
        return
    with open_engine(engine, workers or cores(), address) as opened, ProgressWatch(_err()) as watch:
        result = build_version(settings, store, engine=opened, watch=watch, memory=memory)
    _tell(json, result, print_build)


@app.command(epilog="Example: sft-data run pipelines/quickstart.yaml")
def run(
    pipeline: PipelineFile,
    overrides: Overrides = None,
    store: Store = None,
    key_file: KeyFile = None,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
    memory: Memory = 512 << 20,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of training runs.")] = Path("runs"),
    json: Json = False,
) -> None:
    """Build as a Prefect flow, then train where the pipeline says so; no server has to be started."""
    from sft_data.build import BuildResult
    from sft_data.engine import cores
    from sft_data.pipeline import load_pipeline
    from sft_data.screens import print_build, print_training
    from sft_data.train.config import load_train_config

    settings = load_pipeline(pipeline, overrides or [])
    if settings.train:
        load_train_config(Path(settings.train))
    flow = _flow()
    from flows.server import reach_server

    reach_server()
    told = flow(
        str(pipeline),
        store=store,
        workers=workers or cores(),
        overrides=overrides,
        runs=str(runs),
        engine=engine,
        address=address,
        memory=memory,
    )
    if json:
        _print(told)
        return
    print_build(_out(), BuildResult.model_validate({k: told[k] for k in BuildResult.model_fields}))
    if told["training"]:
        print_training(_out(), told["training"])


_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _interval_of(text: str | timedelta) -> timedelta:
    """A time between runs, as people write it."""
    found = re.fullmatch(r"(\d+) *([mhdw])", str(text).strip())
    if isinstance(text, timedelta) or found is None or not int(found[1]):
        raise typer.BadParameter(f"{text!r} is no interval; write 30m, 6h, 1d or 2w")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _shown(interval: timedelta) -> str:
    minutes = int(interval.total_seconds()) // 60
    size, unit = next((size, unit) for size, unit in ((1440, "d"), (60, "h"), (1, "m")) if minutes % size == 0)
    return f"{minutes // size}{unit}"


@app.command(epilog="Example: sft-data deploy pipelines/quickstart.yaml --cron '0 3 * * *' --timezone Europe/Berlin")
def deploy(
    pipeline: PipelineFile,
    overrides: Overrides = None,
    store: Store = None,
    key_file: KeyFile = None,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
    memory: Memory = 512 << 20,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of training runs.")] = Path("runs"),
    cron: Annotated[
        list[str] | None, typer.Option("--cron", help="When to run, such as '0 3 * * *'; may be given again.")
    ] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="Time zone of --cron, such as Asia/Shanghai.")] = "UTC",
    every: Annotated[
        timedelta | None,
        typer.Option("--every", metavar="TIME", parser=_interval_of, help="Run in this interval: 30m, 6h, 1d, 2w."),
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option("--after", metavar="NAME", help="Run when this dataset has a new version; may be given again."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the deployment. Default: the dataset's.")] = None,
    pool: Annotated[
        str | None,
        typer.Option("--pool", help="A Prefect work pool whose workers run it. Default: this command stays and does."),
    ] = None,
    json: Json = False,
) -> None:
    """Let a Prefect server run a pipeline by the clock, or when another dataset has a new version."""
    from sft_data.engine import cores
    from sft_data.pipeline import load_pipeline
    from sft_data.train.config import load_train_config

    settings = load_pipeline(pipeline, overrides or [])
    if settings.train:
        load_train_config(Path(settings.train))
    _flow()
    from flows.deploy import deployment_of, register, schedules_of, serve_until_stopped

    parameters = {
        "pipeline": str(pipeline.absolute()), "store": store, "workers": workers or cores(), "overrides": overrides,
        "runs": str(runs), "engine": engine, "address": address, "memory": memory,
    }  # fmt: skip
    env = {"SFT_DATA_KEY_FILE": str(key_file.absolute())} if key_file else {}
    schedules = schedules_of(cron or [], every, timezone)
    made = deployment_of(parameters, name or settings.name, schedules, after or [], pool, env)
    told = {"deployment": f"sft-data/{made.name}", "id": register(made), "pool": pool, "folder": str(Path.cwd())}
    when = [f"at {each} ({timezone})" for each in cron or []] + ([f"every {_shown(every)}"] if every else [])
    when += [f"after each new version of {dataset}" for dataset in after or []]
    if json:
        _print(told | {"when": when})
    else:
        where = f"by: prefect worker start --pool '{pool}'" if pool else "here, until Ctrl-C"
        lines = [
            f"{told['deployment']} runs {', '.join(when) or 'when it is asked to'}",
            f"Runs start {where}. At once: prefect deployment run '{told['deployment']}'",
        ]
        _out().print("\n".join(lines), markup=False, soft_wrap=True)
    if not pool:
        serve_until_stopped(made)


def _flow() -> Any:  # noqa: ANN401  # a Prefect flow, importable only with the extra
    # Prefect reads its settings at import. What the user has set stays.
    for name, value in {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        # Prefect waits 20 s for the server it starts, a quarter of which it needs on a machine with nothing else to do.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    }.items():
        os.environ.setdefault(name, value)
    try:
        from flows.curate import curate
    except ImportError as error:
        if error.name and error.name.split(".")[0] == "prefect":
            raise MissingExtraError("Prefect flows", "prefect") from None
        raise
    return curate


@app.command(epilog="Example: sft-data versions quickstart")
def versions(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this dataset.")] = None,
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """List versions with tags, rows, tokens and dates."""
    from sft_data.screens import print_versions
    from sft_data.store.read import versions as list_versions

    place = _open(store)
    if store is not None and not place.is_dir():
        raise SftDataError(f"there is no store at {store}; --store names the folder or URL that holds the datasets")
    found = list_versions(place, name)
    if json:
        _print({"versions": [version.model_dump(mode="json") for version in found]})
    else:
        print_versions(_out(), found)


@app.command(epilog="Example: sft-data show quickstart")
def show(version: Version, store: Store = None, key_file: KeyFile = None, json: Json = False) -> None:
    """Funnel and figures of a version."""
    from sft_data.report.terminal import print_report
    from sft_data.screens import load_report

    report = load_report(_find(store, version, only=(REPORT,)).folder)
    _tell(json, report, print_report)


@app.command(epilog="Example: sft-data report quickstart --out report.html")
def report(
    version: Version,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: NAME-vN-report.html here.")] = None,
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Write a version's report as one self-contained HTML page, with the times of its stages."""
    from sft_data.report.html import render_html
    from sft_data.screens import load_report
    from sft_data.store.read import load_build

    found = _find(store, version, only=(REPORT,))
    path = out or Path(f"{found.version.replace('@', '-')}-report.html")
    path.write_text(render_html(load_report(found.folder), load_build(found.folder)), encoding="utf-8")
    _done(json, {"path": str(path)}, f"{path} is written: open it in a browser")


@app.command(epilog="Example: sft-data why quickstart alpaca:alpaca_en.json:17")
def why(
    version: Version,
    row_id: Annotated[str, typer.Argument(metavar="ROW_ID", help="SOURCE:FILE:ROW.")],
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """One row's whole story: where it came from, what was edited, why it was kept or dropped, where its tokens are."""
    from sft_data.screens import print_story
    from sft_data.store.why import why as tell

    story = tell(_find(store, version).folder, row_id)
    _tell(json, story, print_story)


@app.command(epilog="Example: sft-data preview quickstart -n 2, or sft-data preview quickstart --pack 0")
def preview(
    version: Version,
    row: Annotated[str | None, typer.Option("--row", metavar="ID", help="Only this row.")] = None,
    number: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 3,
    pack: Annotated[int | None, typer.Option("--pack", min=0, help="This pack instead of rows, from 0.")] = None,
    split: Annotated[str, typer.Option("--split", help="The split of the pack.")] = "train",
    out: Annotated[Path | None, typer.Option("--out", help="Write an HTML page instead of the terminal.")] = None,
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Show the text that will be trained on, token by token, the trained ones in colour."""
    from sft_data.chat.preview import preview as look
    from sft_data.chat.preview import preview_pack, print_preview, render_preview

    if pack is not None and row is not None:
        raise typer.BadParameter("give --row or --pack, not both")
    folder = _find(store, version).folder
    found = (
        look(folder, row_ids=[row] if row else None, n=number) if pack is None else preview_pack(folder, pack, split)
    )
    if out is not None:
        out.write_text(render_preview(found), encoding="utf-8")
    if json:
        _print(found)
    elif out is None:
        print_preview(_out(), found)
    else:
        _done(False, {}, f"{out} is written: open it in a browser")


@app.command(epilog="Example: sft-data diff quickstart@v1 quickstart@v2")
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="The older version.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The newer version.")],
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """What changed from A to B: rows added, removed, moved, re-decided; distributions; settings."""
    from sft_data.screens import print_diff
    from sft_data.store.diff import diff as compare

    found = compare(_find(store, a).folder, _find(store, b).folder)
    _tell(json, found, print_diff)


@app.command(epilog="Example: sft-data verify quickstart")
def verify(version: Version, store: Store = None, key_file: KeyFile = None, json: Json = False) -> None:
    """Check hashes, schemas, conservation of rows and loss masks of a version; exit code 1 where anything is wrong."""
    from sft_data.screens import print_verification
    from sft_data.store.place import verify_version

    found = verify_version(store, version)
    _tell(json, found, print_verification)
    if not found.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: sft-data train pipelines/train_tiny.yaml --data quickstart")
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A training file.")],
    data: Annotated[str, typer.Option("--data", metavar="VERSION", help="The version to train on.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; default: below runs/.")] = None,
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Train a causal language model on a version's packs."""
    from sft_data.screens import print_training
    from sft_data.train.config import load_train_config
    from sft_data.train.run import run_folder
    from sft_data.train.run import train as train_model

    settings = load_train_config(config)
    version = _find(store, data)
    folder = out or run_folder(settings, version.manifest)
    result = train_model(settings, version.folder, folder, progress=_say)
    told = result.model_dump(mode="json")
    _tell(json, told, print_training)


@app.command(epilog="Example: sft-data evaluate runs/quickstart-.../model --data quickstart")
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model's folder, a run's folder or a cached hub model.")
    ],
    data: Annotated[str, typer.Option("--data", metavar="VERSION", help="The version to evaluate on.")],
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "validation",
    base: Annotated[str | None, typer.Option("--base", help="A second model to compare with.")] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="At most so many conversations.")] = None,
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Losses of a model on held-out conversations, by source."""
    from sft_data.evaluate.losses import evaluate as measure_losses
    from sft_data.screens import print_evaluation

    found = measure_losses(model, _find(store, data).folder, split, base=base, rows=rows, progress=_say)
    _tell(json, found, print_evaluation)


@app.command(epilog="Example: sft-data tag quickstart@v3 released, or sft-data tag quickstart released --remove")
def tag(
    version: Version,
    name: Annotated[str, typer.Argument(metavar="TAG", help="The tag; one that exists is moved.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away; the version stays.")] = False,
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Give a version a name that does not move by itself."""
    from sft_data.store.manage import tag as put_tag
    from sft_data.store.manage import untag

    if remove:
        dataset, at, _ = version.partition("@")
        if at:
            raise StoreError(f"a tag is taken from the dataset: sft-data tag {dataset} {name} --remove")
        untag(_open(store), dataset, name)
        _done(json, {"version": dataset, "tag": name, "removed": True}, f"{dataset} has no tag {name} any more")
        return
    found = put_tag(_open(store), version, name)
    _done(json, {"version": found.version, "tag": name}, f"{found.version} is tagged {name}")


@app.command(epilog="Example: sft-data rollback quickstart@v2")
def rollback(version: Version, store: Store = None, key_file: KeyFile = None, json: Json = False) -> None:
    """Make an older version the latest; deletes nothing."""
    from sft_data.store.manage import rollback as make_latest

    found = make_latest(_open(store), version)
    _done(json, {"version": found.version, "latest": True}, f"{found.version} is the latest now")


@app.command(epilog="Example: sft-data log quickstart")
def log(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this dataset.")] = None,
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Who published, tagged, rolled back and removed what and when; exit code 1 where an entry was tampered with."""
    from sft_data.screens import print_log
    from sft_data.store.manage import history

    found = history(_open(store), name)
    _tell(json, found, print_log)
    if not found.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: sft-data gc --remove --cache-days 30")
def gc(
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove what was found; without, nothing is touched.")
    ] = False,
    drafts_days: Annotated[float, typer.Option("--drafts-days", min=0, help="Drafts older than this.")] = 30.0,
    cache_days: Annotated[
        float | None, typer.Option("--cache-days", min=0, help="Step cache older than this; default: keep it.")
    ] = None,
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Find what nobody needs any more: cut-short work, old drafts, old step cache; never a version."""
    from sft_data.screens import print_garbage
    from sft_data.store.manage import gc as collect

    found = collect(_open(store), remove=remove, drafts_days=drafts_days, cache_days=cache_days)
    _tell(json, found, print_garbage)


@app.command(epilog="Example: sft-data export quickstart --to trl-packed --out quickstart-trl")
def export(
    version: Version,
    out: Annotated[str, typer.Option("--out", help="A new folder; without --to also a .tar.zst archive or a URL.")],
    to: Annotated[
        str,
        typer.Option("--to", help="version: the whole of it, with a dataset card; or a trainer's form: " + FORMS),
    ] = "version",
    files: Annotated[
        Literal["jsonl", "json", "parquet"] | None,
        typer.Option("--files", help="jsonl, json or parquet: how conversations (messages to record) are written."),
    ] = None,
    ranks: Annotated[int, typer.Option("--ranks", min=1, help="Folders of equal length, one for each rank.")] = 1,
    remainder: Annotated[
        Literal["pad", "drop"],
        typer.Option("--remainder", help="With --ranks: rows without labels make them even, or the rest is left out."),
    ] = "pad",
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Write a version for elsewhere: whole (archive, folder, URL), or in the form that another trainer takes."""
    from sft_data.export.targets import export_to
    from sft_data.store.transfer import export_version

    found = _find(store, version)
    if to in ("version", "huggingface") and files is None and ranks == 1:
        whole = export_version(found, out)
        _done(json, whole.model_dump(mode="json"), f"{found.version} is written to {whole.path}: {whole.files} files")
        return
    told = export_to(found.folder, to, Path(out), files, ranks, remainder)
    lost = f"; {told.left_out:,} rows do not fit this form (its README.md says why)" if told.left_out else ""
    more = "".join(f"\nwarning: {warning}" for warning in told.warnings)
    _done(
        json, told.model_dump(mode="json"), f"{found.version} is written to {told.path}: {told.files} files{lost}{more}"
    )


@app.command("import", epilog="Example: sft-data import quickstart-v3.tar.zst --store ./store")
def import_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="An archive, folder or URL that `export` wrote.")],
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Publish an exported version in this store, after checking every byte of it."""
    from sft_data.store.transfer import import_version

    made = import_version(_open(store, write=True), source)
    told = {"version": made.version, "path": str(made.folder), "reused": made.reused}
    _done(json, told, f"{made.version} {'was there already' if made.reused else 'is published'}: {made.folder}")


@app.command(epilog="Example: sft-data key team.key")
def key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, readable by you alone.")],
    json: Json = False,
) -> None:
    """Make a key for sealed stores; whoever loses it loses what it sealed."""
    from sft_data.store.sealing import new_key_file

    made = new_key_file(file)
    _done(json, {"path": str(file), "key": made.id}, f"{file} holds the key {made.id}: keep a copy in a safe place")


@app.command(epilog="Example: sft-data serve --store ./store, then open http://127.0.0.1:8321 in a browser")
def serve(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; other than this machine's own asks for people first.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen at; 0: a free one.")] = 8321,
    access: AccessFile = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="PEM file: serve over TLS.", exists=True, dir_okay=False)
    ] = None,
    certificate_key: Annotated[
        Path | None, typer.Option("--certificate-key", help="The certificate's private key.", exists=True)
    ] = None,
    store: Store = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Serve pages and JSON over a store: versions, reports, rows, differences, the log; until Ctrl-C."""
    from sft_data.store.mirror import mirror_of
    from sft_data.web.access import access_file, people

    try:
        from sft_data.web.server import Serving, listen
        from sft_data.web.server import serve as run_server
    except ImportError as error:
        raise MissingExtraError("`sft-data serve`", "serve") from error
    place = store or "store"
    serving = Serving(place, access_file(store, access), host, port, certificate, certificate_key)
    serving.guard()
    if (sealed := mirror_of(_open(store))) is not None:
        sealed.key()
    with listen(serving) as opened:
        bound = opened.getsockname()[1]
        url = f"{'https' if certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{bound}"
        known = people(serving.access)
        whose = (
            f"for {len(known)} {'person' if len(known) == 1 else 'people'}, by token"
            if known
            else "for everybody on this machine, who may also publish"
        )
        if not certificate and not serving.local:
            _say("warning: tokens travel unencrypted; name a --certificate, or put a server that speaks TLS in front")
        if json:
            _print({"url": url, "store": place, "people": len(known)})
            sys.stdout.flush()
        _say(f"serving {place} at {url} {whose}; Ctrl-C stops it")
        run_server(serving, opened)


@people_app.command("add", epilog="Example: sft-data access add maria --role publisher")
def access_add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose access it is; the store's log names them.")],
    role: Annotated[
        Literal["reader", "publisher", "admin"],
        typer.Option("--role", help="reader looks; publisher also tags and rolls back; admin also collects garbage."),
    ],
    access: AccessFile = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Give a person access and print their token, this once."""
    from sft_data.web.access import Role, access_file, add_person

    file = access_file(store, access)
    token = add_person(file, name, Role(role))
    told = f"{name} is a {role} of {store or 'store'}. The token, which is shown only now:\n{token}"
    _done(json, {"name": name, "role": role, "token": token, "path": str(file)}, told)


@people_app.command("list", epilog="Example: sft-data access list")
def access_list(access: AccessFile = None, store: Store = None, json: Json = False) -> None:
    """List who has access, with which role, since when."""
    from sft_data.screens import print_people
    from sft_data.web.access import access_file, people

    found = people(access_file(store, access))
    told = [person.model_dump(mode="json", exclude={"sha256"}) for person in found]
    _tell(json, {"people": told}, print_people)


@people_app.command("remove", epilog="Example: sft-data access remove maria")
def access_remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose access ends, from the next request on.")],
    access: AccessFile = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Take a person's access away."""
    from sft_data.web.access import access_file, remove_person

    remove_person(access_file(store, access), name)
    _done(json, {"name": name, "removed": True}, f"{name} has no access any more")


@app.command(epilog="Example: sft-data schema > pipeline.schema.json")
def schema() -> None:
    """Print the JSON schema of a pipeline file, for completion in editors."""
    from sft_data.pipeline import pipeline_schema

    _print(pipeline_schema())


@app.command(epilog="Example: sft-data stages near-dedup")
def stages(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help="Only this stage, with its whole page.")] = None,
    json: Json = False,
) -> None:
    """List the stages, or show one stage's page: what it does, its settings and its codes."""
    from sft_data.catalogue import find_page, pages
    from sft_data.screens import print_page, print_pages

    found = pages() if kind is None else [find_page(kind)]
    if json:
        _print({"stages": [page.model_dump(mode="json") for page in found]})
    elif kind is None:
        print_pages(_out(), found)
    else:
        print_page(_out(), found[0])


def main() -> None:
    """Entry point: errors without a traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # what Ctrl-C tidies up, this does too
    try:
        code = app(standalone_mode=False)
    except SftDataError as error:
        if "--json" in sys.argv:
            _print({"error": str(error)})
        _err().print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except typer.Exit as stop:
        code = stop.exit_code
    except WrongUsage as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except SystemExit as stop:
        if stop.code != TERMINATED:
            raise
        code = TERMINATED
    except BrokenPipeError:
        # The reader of our output (head, less) has gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if code in (STOPPED, TERMINATED):
        _err().print("\nstopped; finished work is kept: run the same command again to resume", markup=False)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
