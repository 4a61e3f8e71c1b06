"""The stage `tokenize`: conversations in, token ids and labels out, with a proof for every supervised turn."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from sft_data.chat.spans import TurnFinder
from sft_data.errors import TokenizerError
from sft_data.stage import Outcome, StageConfig
from sft_data.store.manifest import TokenizerEntry
from sft_data.tokenize.drawing import Loaded, read_talks
from sft_data.tokenize.stories import stories_of
from sft_data.tokenize.tables import Story, edits, token_tables
from sft_data.tokenize.tokenizer import load_tokenizer, stamp

__all__ = ["Tokenize", "check_tokenizer", "describe", "load", "tokenizer_files"]


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
        "cut": "edit: so many tokens of a row longer than `max_length` were cut off or left out",
        "split": "edit: a row longer than `max_length` became so many segments",
        "samples": "edit: a row became a sample for each trained turn, with so many tokens more than its longest",
        "earlier-reasoning": "edit: the template shows the reasoning of turns before the last, in so many tokens",
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
        "or with Mistral's tekken.json; or a hub name whose files are in the local cache"
    )
    template: str | None = Field(
        None, description="chat template: a file or a named one; left out: the tokenizer's own"
    )
    max_length: int = Field(2048, ge=1, le=2**20, description="most tokens of a row")
    too_long: Literal["reject", "split", "cut-turns", "cut-answer"] = Field(
        "reject",
        description="what happens to longer rows: rejected; split before questions into samples that fit; cut behind "
        "the last answer that fits whole; or cut inside an answer, whose stop token is kept. Every token lost is "
        "counted as an edit",
    )
    split_system: Literal["repeat", "first"] = Field(
        "repeat", description="under `too_long: split`: every segment starts with the system prompt, or the first alone"
    )
    samples: Literal["conversation", "turn", "turn-where-needed"] = Field(
        "conversation",
        description="a row of tokens for each conversation; or for each trained turn, with what stands before it as "
        "the template shows it to a model that answers; or for each turn only of conversations whose earlier turns the "
        "template shows otherwise later on, such as without their reasoning",
    )
    train_on: Literal["assistant", "last-answer", "all"] = Field(
        "assistant",
        description="what is learnt: all assistant turns, only the last one, or every token; turns of weight 0 never. "
        "Under `all`, what lies between two answers has the smallest weight of its turns",
    )
    reasoning: Literal["learnt", "shown"] = Field(
        "learnt", description="what the assistant thinks before it answers is learnt with the answer, or only shown"
    )
    lost_reasoning: Literal["mask", "train", "reject"] = Field(
        "mask",
        description="turns whose reasoning the template leaves out: not trained (a model would learn to skip it), "
        "trained without it, or the row is rejected",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.samples != "conversation" and self.train_on == "all":
            raise ValueError(
                "`samples: " + self.samples + "` learns one turn of a sample; it cannot be `train_on: all`"
            )
        if self.reasoning == "shown" and self.train_on == "all":
            raise ValueError("`train_on: all` learns every token; it cannot be `reasoning: shown`")
        return self

    def apply(self, frame: pl.DataFrame) -> Outcome:
        with _collector_paused():
            return self._apply(frame)

    def _apply(self, frame: pl.DataFrame) -> Outcome:
        loaded = load(self.tokenizer, self.template)
        talks = read_talks(loaded, frame)
        stories = stories_of(self, loaded, talks)
        keep = [isinstance(story, Story) for story in stories]
        kept = frame.filter(pl.Series(keep, dtype=pl.Boolean))
        rejected = pl.DataFrame(
            [
                (frame["id"][n], story.code, story.detail)
                for n, story in enumerate(stories)
                if not isinstance(story, Story)
            ],
            schema={"id": pl.String, "code": pl.String, "detail": pl.String},
            orient="row",
        )
        stays = [story for story in stories if isinstance(story, Story)]
        parts = self.samples != "conversation" or self.too_long == "split"
        tables = token_tables(kept, stays, parts=parts)
        return Outcome(kept, rejected, edits(kept, stays, loaded.tokenizer), tables)

    def contents(self) -> dict[str, str]:
        """What `tokenizer` and `template` stand for, by content: also a cached hub model and a named template."""
        loaded = load(self.tokenizer, self.template).tokenizer
        template = hashlib.sha256(loaded.template.text.encode()).hexdigest()
        return {"tokenizer": loaded.sha256, "template": template}


def load(tokenizer: str, template: str | None = None) -> Loaded:
    """The tokenizer and the finder of turns for its template; raises TokenizerError where they cannot be used."""
    return _load(tokenizer, template, stamp(tokenizer, template))


@lru_cache(maxsize=4)
def _load(tokenizer: str, template: str | None, _: object) -> Loaded:
    loaded = load_tokenizer(tokenizer, template)
    return Loaded(loaded, TurnFinder(loaded.template, loaded.control_pattern, loaded.special_pattern, loaded.eos))


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


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No collection of reference cycles: a shard makes a million small objects and no cycle, and each collection would
    look through all of them (a quarter of the stage's time).
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
