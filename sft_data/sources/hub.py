"""Data sets of the Hugging Face hub by name: hf://datasets/ORG/NAME, with @REVISION where it is to stay as it is.

`datasets` says which files make up which split (by the card of the data set, else by their names); the files
themselves are fetched and read by this project's own readers, so that a broken row is a rejection here too and nothing
is cast on the way. Code of a data set is never run. The revision is resolved to a commit before anything is read, and
the commit stands in the manifest with every file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sft_data.errors import MissingExtraError, SourceError
from sft_data.sources.remote import Entry
from sft_data.sources.settings import Source

__all__ = ["choice_of", "files_of", "is_dataset", "pinned", "repository_of"]

_REPOSITORY = re.compile(r"hf://datasets/(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?P<below>/.+)?/?")
_AT_ONCE = 500  # files asked about in one request
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_dataset(url: str) -> bool:
    """Whether a URL names a whole data set of the hub, not files in it.

    >>> is_dataset("hf://datasets/org/name@main"), is_dataset("hf://datasets/org/name/data/*.parquet")
    (True, False)
    """
    found = _REPOSITORY.fullmatch(url)
    return found is not None and found["below"] is None


def repository_of(url: str) -> str | None:
    """ORG/NAME of a data set of the hub, or of files in one; None of anything else.

    >>> repository_of("hf://datasets/org/name@main/data/*.parquet"), repository_of("s3://org/name")
    ('org/name', None)
    """
    found = _REPOSITORY.fullmatch(url)
    return found["name"] if found is not None else None


def pinned(url: str) -> str:
    """A URL of the hub with its revision resolved to a commit; any other URL as it is."""
    found = _REPOSITORY.fullmatch(url)
    if found is None or _COMMIT.fullmatch(found["revision"] or ""):
        return url
    return f"hf://datasets/{found['name']}@{_commit(url, found['name'], found['revision'])}{found['below'] or ''}"


def files_of(source: Source) -> list[Entry]:
    """The files of the source's split, each with the commit in its URL: with that, its content cannot change."""
    splits = _splits(source)
    if source.split not in splits and source.split != "all":
        told = ", ".join(f"{name} ({len(urls)} file{'s' if len(urls) != 1 else ''})" for name, urls in splits.items())
        wrong = f"has no split {source.split!r}" if source.split is not None else "has several splits"
        if source.split is not None or len(splits) != 1:
            raise SourceError(f"source `{source.name}`: {source.path!r} {wrong}: {told}; name one in `split`, or all")
    chosen = [url for name, urls in splits.items() if source.split in {None, "all", name} for url in urls]
    return _entries(source.path, sorted(set(chosen)))


def choice_of(source: Source) -> Source:
    """The source as `init` writes it down: with the commit of today, and the split to train on."""
    if not is_dataset(source.path):
        return source.model_copy(update={"path": pinned(source.path)})
    names = list(_splits(source))
    split = None if len(names) == 1 else "train" if "train" in names else source.split
    return source.model_copy(update={"path": pinned(source.path), "split": split})


def _commit(url: str, name: str, revision: str | None) -> str:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise MissingExtraError("a data set of the hub", "hub") from None
    try:
        return str(HfApi().dataset_info(name, revision=revision).sha)
    except Exception as error:
        raise SourceError(_cannot(url, error)) from error


def _splits(source: Source) -> dict[str, list[str]]:
    """Split -> URLs of its files, as `datasets` understands the data set."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("a data set of the hub", "hub") from None
    found = _REPOSITORY.fullmatch(pinned(source.path))
    assert found is not None  # noqa: S101 - the caller asked is_dataset
    try:
        builder = datasets.load_dataset_builder(found["name"], name=source.subset, revision=found["revision"])
    except Exception as error:
        raise SourceError(_cannot(source.path, error)) from error
    data_files: Any = builder.config.data_files or {}
    splits = {str(name): [str(url) for url in urls] for name, urls in data_files.items()}
    if not any(splits.values()):
        raise SourceError(f"source `{source.name}`: {source.path!r} has no data files")
    return splits


def _cannot(url: str, error: Exception) -> str:
    why = " ".join(str(error).split())[:500] or type(error).__name__
    return (
        f"{url} cannot be read from the hub: {why}\n  The address is hf://datasets/ORG/NAME or "
        "hf://datasets/ORG/NAME@REVISION; a private data set needs HF_TOKEN; `subset` names a configuration; data sets "
        "that are made by a program of their own are not read."
    )


def _entries(path: str, urls: Sequence[str]) -> list[Entry]:
    """The files with the size and hash that the hub tells of them; it is asked for many at once."""
    from huggingface_hub import HfApi, RepoFile

    places = {url: found for url in urls if (found := _REPOSITORY.fullmatch(url)) is not None and found["below"]}
    if strangers := [url for url in urls if url not in places]:
        raise SourceError(f"{path} names files outside of the hub, such as {strangers[0]}: make a source of them")
    entries = []
    for start in range(0, len(urls), _AT_ONCE):
        some = list(urls[start : start + _AT_ONCE])
        first = places[some[0]]
        paths = [places[url]["below"].lstrip("/") for url in some]
        try:
            told = HfApi().get_paths_info(first["name"], paths, revision=first["revision"], repo_type="dataset")
        except Exception as error:
            raise SourceError(_cannot(path, error)) from error
        known = {info.path: info for info in told if isinstance(info, RepoFile)}
        for url, name in zip(some, paths, strict=True):
            if name not in known:
                raise SourceError(f"{path}: {name} is named by the data set but is not there")
            entries.append(Entry(name, url, known[name].size, f"{known[name].size} {known[name].blob_id}"))
    return entries
