"""The stage `tokenize`: conversations in, token ids and labels out, with a proof for every supervised turn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from sft_data.chat.marks import RESERVED, TEXT_END, TEXT_START
from sft_data.chat.spans import Messages, Rendered, TurnFinder, Unproved
from sft_data.errors import TokenizerError
from sft_data.pack.shards import IGNORED, list_column
from sft_data.schema import EDITS, LOSS_WEIGHTS, SIDECAR, TOKENS, conform
from sft_data.stage import Outcome, StageConfig
from sft_data.store.manifest import TokenizerEntry
from sft_data.tokenize.labels import Encoded, Row, encode_rows
from sft_data.tokenize.rows import mark_texts, template_messages, template_tools, texts_of
from sft_data.tokenize.stops import confirm_by_stops
from sft_data.tokenize.tokenizer import LoadedTokenizer, load_tokenizer, stamp
from sft_data.tokenize.weights import HEAVIEST, Span, Weights, everything, weights_of

__all__ = ["Tokenize", "check_tokenizer", "describe", "load", "tokenizer_files"]


@dataclass(frozen=True)
class _Drawn:
    """A row of the frame as rendered text, or why it could not be rendered."""

    source: Row | None
    weights: Weights
    problem: Unproved | None = None

    @property
    def rendered(self) -> Rendered:
        assert self.source is not None  # noqa: S101  # only asked where there is no problem
        return self.source.rendered

    @property
    def messages(self) -> Messages:
        assert self.source is not None  # noqa: S101  # only asked where there is no problem
        return self.source.messages


@dataclass(frozen=True)
class _Verdict:
    """A rejection, or the row's tokens and what of them is learnt."""

    code: str | None
    detail: str | None
    tokens: Encoded | None = None
    spans: Sequence[Span] = ()
    lost: int = 0  # tokens cut off


class Tokenize(StageConfig):
    """Render every conversation with a chat template, encode it, label the assistant's turns with their stop tokens.

    Every turn is located twice (see `sft_data.chat.spans`), its tokens spell its text and end in a stop token; a row
    for which that cannot be shown is rejected. Special strings in the data are encoded as the plain text they are. Rows
    that are too long are rejected unless `too_long` says otherwise: half an answer teaches a model to stop half-way.

    A token's loss weight is that of its row times that of its turn, 1 where the data gives none; 0 silences. Where some
    weight of a version is neither 0 nor 1, all weights stand beside the labels in the column `loss_weights`.
    """

    revision: ClassVar[int] = 2
    uses: ClassVar[tuple[str, ...]] = ("tokenizers", "fastokens", "jinja2")
    files: ClassVar[tuple[str, ...]] = ("tokenizer", "template")
    codes: ClassVar[dict[str, str]] = {
        "too-long": "the row has more tokens than `max_length`, and no part of it that may be kept has fewer",
        "cut": "edit: tokens behind `max_length` were cut off, and so many are lost",
        "template-error": "the chat template refuses the conversation",
        "not-rendered": "the chat template leaves out a part of it: a turn, a tool, a tool call, all its reasoning",
        "unproved-mask": "where a turn lies among the tokens could not be proved in two ways",
        "nothing-to-train": "no turn of the row is trained on",
        "weight-too-large": "the weight of the row times that of a turn is more than 1e30",
        "reserved-character": "the text holds a Unicode noncharacter (U+FDD0 to U+FDD5) that may not occur in texts",
    }

    kind: Literal["tokenize"] = "tokenize"
    tokenizer: str = Field(
        description="folder with tokenizer.json, tokenizer_config.json and chat_template.jinja; "
        "or a hub name whose files are in the local cache"
    )
    template: str | None = Field(
        None, description="chat template: a file or a named one; left out: the tokenizer's own"
    )
    max_length: int = Field(2048, ge=1, le=2**20, description="most tokens of a row")
    too_long: Literal["reject", "cut-turns", "cut-answer"] = Field(
        "reject",
        description="what happens to longer rows: rejected; cut behind the last answer that fits whole; or cut inside "
        "an answer, whose stop token is kept. Every token lost is counted as an edit",
    )
    train_on: Literal["assistant", "last-answer", "all"] = Field(
        "assistant",
        description="what is learnt: all assistant turns, only the last one, or every token; turns of weight 0 never. "
        "Under `all`, what lies between two answers has the smallest weight of its turns",
    )
    lost_reasoning: Literal["mask", "train", "reject"] = Field(
        "mask",
        description="turns whose reasoning the template leaves out: not trained (a model would learn to skip it), "
        "trained without it, or the row is rejected",
    )

    def apply(self, frame: pl.DataFrame) -> Outcome:
        rows = _render(self, frame)
        encoded = _encode(self, rows)
        verdicts = [self._judge(row, tokens) for row, tokens in zip(rows, encoded, strict=True)]
        keep = [verdict.code is None for verdict in verdicts]
        kept = frame.filter(pl.Series(keep, dtype=pl.Boolean))
        left = [number for number, stays in enumerate(keep) if not stays]
        rejected = pl.DataFrame(
            {
                "id": [frame["id"][number] for number in left],
                "code": [verdicts[number].code for number in left],
                "detail": [verdicts[number].detail for number in left],
            },
            schema={"id": pl.String, "code": pl.String, "detail": pl.String},
        )
        stays = [verdict for verdict in verdicts if verdict.code is None]
        return Outcome(kept, rejected, _cuts(kept, stays), _tables(kept, stays))

    def contents(self) -> dict[str, str]:
        """What `tokenizer` and `template` stand for, by content: also a cached hub model and a named template."""
        loaded = load(self.tokenizer, self.template).tokenizer
        template = hashlib.sha256(loaded.template.text.encode()).hexdigest()
        return {"tokenizer": loaded.sha256, "template": template}

    def _judge(self, row: _Drawn, tokens: Encoded | None) -> _Verdict:
        try:
            return self._proved(row, tokens)
        except Unproved as problem:
            return _Verdict(problem.code, problem.detail)

    def _proved(self, row: _Drawn, tokens: Encoded | None) -> _Verdict:
        """What is kept of a row; raises Unproved."""
        if row.problem is not None or tokens is None:
            raise row.problem or Unproved("template-error", "not rendered")
        if tokens.problem is not None:
            raise tokens.problem
        length = len(tokens.ids)
        if length > self.max_length:
            shorter = self._cut(tokens)
            if shorter is None:
                raise Unproved("too-long", f"{length} > {self.max_length} tokens")
            tokens = shorter
        spans = self._chosen(row, tokens)
        lost = [turn.message for turn in row.rendered.turns if turn.lost]
        if lost and (self.lost_reasoning == "reject" or (self.lost_reasoning == "mask" and not spans)):
            raise Unproved("not-rendered", f"turn {lost[0]}: the template does not show its reasoning")
        if any(not span.weight <= HEAVIEST for span in spans):
            raise Unproved("weight-too-large", f"weight of the row: {row.weights.row:g}")
        if not spans:
            raise Unproved("nothing-to-train", "no assistant turn with a weight above 0")
        return _Verdict(None, None, tokens, spans, length - len(tokens.ids))

    def _cut(self, tokens: Encoded) -> Encoded | None:
        """The row cut to `max_length`: it ends in a stop token, and every turn that is left is whole or says so."""
        whole = [turn for turn in tokens.turns if turn[1] <= self.max_length]
        partial = [turn for turn in tokens.turns if turn[0] < self.max_length - 1 and turn[1] > self.max_length]
        if self.too_long == "cut-answer" and partial:
            start, end = partial[0]
            ids = np.append(tokens.ids[: self.max_length - 1], tokens.ids[end - 1])
            return replace(tokens, ids=ids, turns=(*whole, (start, self.max_length)))
        if self.too_long == "reject" or not whole:
            return None
        return replace(tokens, ids=tokens.ids[: whole[-1][1]], turns=tuple(whole))

    def _chosen(self, row: _Drawn, tokens: Encoded) -> list[Span]:
        turns = row.rendered.turns[: len(tokens.turns)]
        places = list(zip(turns, tokens.turns, strict=True))
        if self.train_on == "all":
            return everything(
                [(t.message, *place) for t, place in places], len(row.messages), len(tokens.ids), row.weights
            )
        if self.train_on == "last-answer":
            places = places[-1:]
        masks = self.lost_reasoning == "mask"
        spans = [Span(t.message, *place, row.weights.of(t.message)) for t, place in places if not (masks and t.lost)]
        return [span for span in spans if span.weight > 0]


@dataclass(frozen=True)
class _Loaded:
    """What a process needs to tokenize: loaded once, kept by `load`."""

    tokenizer: LoadedTokenizer
    finder: TurnFinder


def load(tokenizer: str, template: str | None = None) -> _Loaded:
    """The tokenizer and the finder of turns for its template; raises TokenizerError where they cannot be used."""
    return _load(tokenizer, template, stamp(tokenizer, template))


@lru_cache(maxsize=4)
def _load(tokenizer: str, template: str | None, _: object) -> _Loaded:
    loaded = load_tokenizer(tokenizer, template)
    return _Loaded(loaded, TurnFinder(loaded.template, loaded.control_pattern, loaded.special_pattern, loaded.eos))


def check_tokenizer(tokenizer: str, template: str | None = None) -> list[str]:
    """What is wrong with these settings, in words; empty where a build can use them."""
    try:
        load(tokenizer, template)
    except (TokenizerError, OSError, ValueError, KeyError) as error:
        return [str(error)]
    return []


def describe(settings: Tokenize, pack_length: int | None = None) -> TokenizerEntry:
    """The manifest's entry: the tokenizer as hashes of its bytes."""
    loaded = load(settings.tokenizer, settings.template)
    tokenizer = loaded.tokenizer
    return TokenizerEntry(
        name=tokenizer.name,
        sha256=tokenizer.sha256,
        template_sha256=hashlib.sha256(tokenizer.template.text.encode()).hexdigest(),
        vocab_size=tokenizer.vocab_size,
        max_length=settings.max_length,
        pack_length=pack_length,
        pad_token_id=tokenizer.pad_id,
        stop_token_ids=[tokenizer.added[stop] for stop in loaded.finder.stops],
    )


def tokenizer_files(settings: Tokenize) -> Mapping[str, bytes]:
    """File name -> content of everything that training needs of the tokenizer, the chat template as used among it."""
    return load(settings.tokenizer, settings.template).tokenizer.files


def _render(settings: Tokenize, frame: pl.DataFrame) -> list[_Drawn]:
    """Every row as text with its turns."""
    loaded = load(settings.tokenizer, settings.template)
    texts = frame.select(text=texts_of(frame))["text"]
    reserved = texts.str.contains_any(list(RESERVED)).fill_null(value=False).to_list()
    steering = texts.str.contains_any(list(loaded.tokenizer.controls)).fill_null(value=False).to_list()
    messages = template_messages(frame)
    weights = weights_of(frame)
    tools = frame["tools"].to_list() if "tools" in frame.columns else [None] * frame.height
    return [
        _draw(loaded, row, tool, weights[number], reserved=reserved[number], steering=steering[number])
        for number, (row, tool) in enumerate(zip(messages, tools, strict=True))
    ]


def _draw(
    loaded: _Loaded,
    messages: list[dict[str, Any]],
    tools_text: str | None,
    weights: Weights,
    *,
    reserved: bool,
    steering: bool,
) -> _Drawn:
    if reserved:
        return _Drawn(None, weights, Unproved("reserved-character", "a noncharacter between U+FDD0 and U+FDD5"))
    tools = template_tools(tools_text) if tools_text is not None else None
    try:
        rendered = loaded.finder.find(messages, tools)
        marked = _marked(loaded, messages, tools, rendered) if steering else None
    except Unproved as problem:
        return _Drawn(None, weights, problem)
    return _Drawn(Row(rendered, messages, tools, marked), weights)


def _marked(loaded: _Loaded, messages: list[dict[str, Any]], tools: list[Any] | None, rendered: Rendered) -> str | None:
    """The text with marks around the control strings of the data; raises Unproved where the marks change the text.

    In the assistant's own turns only special tokens count: `<think>` or `<tool_call>` there is the assistant's speech.
    """
    special = loaded.tokenizer.special_pattern
    every = loaded.tokenizer.control_pattern
    marked = [mark_texts(m, special if m["role"] == "assistant" else every) for m in messages]
    text = loaded.finder.render(marked, mark_texts(tools, every) if tools else None)
    if text.replace(TEXT_START, "").replace(TEXT_END, "") != rendered.text:
        raise Unproved("unproved-mask", "the template reads a control string that stands in the data")
    return text if TEXT_START in text else None


def _encode(settings: Tokenize, rows: Sequence[_Drawn]) -> list[Encoded | None]:
    loaded = load(settings.tokenizer, settings.template)
    drawn = [(number, row.source) for number, row in enumerate(rows) if row.source is not None]
    sources = [row for _, row in drawn]
    encoded = encode_rows(loaded.tokenizer, sources)
    encoded = confirm_by_stops(loaded.tokenizer, loaded.finder, sources, encoded)
    full: list[Encoded | None] = [None] * len(rows)
    for (number, _), tokens in zip(drawn, encoded, strict=True):
        full[number] = _with_bos(tokens, loaded.tokenizer.bos_id)
    return full


def _with_bos(tokens: Encoded, bos: int | None) -> Encoded:
    """Put the tokenizer's own first token in front where the template wrote none at all."""
    if bos is None or (tokens.ids == bos).any():
        return tokens
    ids = np.concatenate([np.array([bos], dtype=np.int32), tokens.ids])
    return replace(tokens, ids=ids, turns=tuple((start + 1, end + 1) for start, end in tokens.turns))


def _cuts(kept: pl.DataFrame, verdicts: Sequence[_Verdict]) -> pl.DataFrame:
    """EDITS: one row for every row that was cut."""
    ids = kept["id"].to_list()
    cut = [(ids[n], v.lost, len(v.tokens.ids)) for n, v in enumerate(verdicts) if v.lost and v.tokens is not None]
    told = [
        {"id": i, "code": "cut", "count": lost, "detail": f"{left + lost} -> {left} tokens"} for i, lost, left in cut
    ]
    return conform(
        pl.DataFrame(told, schema={"id": pl.String, "code": pl.String, "count": pl.Int64, "detail": pl.String}), EDITS
    )


def _tables(kept: pl.DataFrame, verdicts: Sequence[_Verdict]) -> dict[str, pl.DataFrame]:
    """TOKENS and SIDECAR, row by row beside `kept`."""
    tokens = [verdict.tokens for verdict in verdicts if verdict.tokens is not None]
    spans = [span for verdict in verdicts for span in verdict.spans]
    bounds = np.cumsum([0, *(len(row.ids) for row in tokens)])
    ids = np.concatenate([np.zeros(0, np.int32), *(row.ids for row in tokens)])
    counts = np.array([len(verdict.spans) for verdict in verdicts], dtype=np.int64)
    first = np.repeat(bounds[:-1], counts)
    places = np.array([(s.turn, s.start, s.end) for s in spans], dtype=np.int64).reshape(-1, 3)
    learnt = _covered(first + places[:, 1], first + places[:, 2], len(ids))
    labels = np.where(learnt, ids, np.int32(IGNORED)).astype(np.int32)
    trained = np.concatenate([np.zeros(1, np.int64), np.cumsum(learnt)])[bounds]
    sidecar = pl.DataFrame(
        {
            "id": kept["id"],
            "source": kept["source"],
            "split": kept["split"] if "split" in kept.columns else pl.Series([None] * kept.height, dtype=pl.String),
            "tokens": np.diff(bounds),
            "trained": np.diff(trained),
            "spans": _span_column(places, [s.weight for s in spans], counts),
            "proof": pl.Series([row.proof for row in tokens], dtype=pl.String),
        }
    ).cast(SIDECAR)
    table = pl.DataFrame({"input_ids": list_column(ids, bounds), "labels": list_column(labels, bounds)}).cast(TOKENS)
    weights = np.array([span.weight for span in spans], dtype=np.float32)
    if (weights != 1.0).any():
        spread = np.zeros(len(ids), dtype=np.float32)
        spread[learnt] = np.repeat(weights, places[:, 2] - places[:, 1])  # spans come in order and do not overlap
        table = table.with_columns(loss_weights=list_column(spread, bounds)).cast(LOSS_WEIGHTS)
    return {"tokens": table, "sidecar": sidecar}


def _covered(starts: NDArray[np.int64], ends: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """Which of `length` places lie in one of the spans."""
    steps = np.zeros(length + 1, dtype=np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    covered: NDArray[np.bool_] = np.cumsum(steps)[:length] > 0
    return covered


def _span_column(places: NDArray[np.int64], weights: Sequence[float], counts: NDArray[np.int64]) -> pl.Series:
    structs = pl.DataFrame(
        {"turn": places[:, 0], "start": places[:, 1], "end": places[:, 2], "weight": weights},
        schema={"turn": pl.Int32, "start": pl.Int32, "end": pl.Int32, "weight": pl.Float32},
    ).to_struct("spans")
    return list_column(structs.to_arrow(), np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))
