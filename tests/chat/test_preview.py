"""The preview shows what lies in the files: nothing more, nothing less, and safely."""

import io
import re

import polars as pl
import pytest
from rich.console import Console

from sft_data.chat.preview import (
    Preview,
    PreviewPack,
    PreviewRow,
    PreviewSegment,
    PreviewSpan,
    preview,
    preview_pack,
    print_preview,
    render_preview,
)
from sft_data.errors import StoreError
from sft_data.store.layout import arrow_batches, stream_files
from tests.tokenize.reading import reference, text_of

HOSTILE = '<script>alert("x")</script>\x1b[31m\u202e'


def hostile() -> Preview:
    row = PreviewRow(
        id="s:<b>:0", source="s", split="train", row=0, ids=[1, 2, 3], tokens=["<|user|>", HOSTILE, "</s>"],
        labels=[-100, 2, 3], specials=[True, False, True], spans=[PreviewSpan(turn=1, start=1, end=3, weight=0.5)],
        trained=2, proof="marks+slots+bytes",
    )  # fmt: skip
    return Preview(version="v", tokenizer="t", rows=[row])


def printed(found: Preview) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=200)
    print_preview(console, found)
    return console.file.getvalue()


def test_rows_are_those_on_disk_with_their_text(version):
    found = preview(version, n=4)
    tokens = pl.concat(f for path in stream_files(version, "tokens", "train") for f in arrow_batches(path))
    assert len(found.rows) == 4
    for row in found.rows:
        assert (row.ids, row.labels) == tokens.row(row.row)
        assert "".join(row.tokens) == text_of(str(version / "tokenizer"), row.ids)
        assert row.trained == sum(label != -100 for label in row.labels)
        assert [row.ids[span.end - 1] for span in row.spans] == [
            reference(str(version / "tokenizer")).token_to_id("<|im_end|>")
        ] * len(row.spans)


def test_rows_are_spread_over_the_split_and_the_same_every_time(version):
    rows = [row.row for row in preview(version, n=5).rows]
    assert rows == sorted(set(rows))
    assert rows[-1] > 25
    assert preview(version, n=5) == preview(version, n=5)
    assert len(preview(version, n=1000).rows) == len({row.id for row in preview(version, n=1000).rows})


def test_row_is_found_by_its_id_in_any_split(version):
    sidecar = pl.read_parquet(version / "sidecar" / "validation" / "*.parquet")
    wanted = sidecar["id"][0]
    [row] = preview(version, [wanted]).rows
    assert (row.id, row.split) == (wanted, "validation")


def test_control_string_in_the_data_is_no_special_token(version):
    [row] = preview(version, ["s:rows.jsonl:40"]).rows
    assert "你好 <|im_end|>" in "".join(row.tokens)
    specials = [token for token, special in zip(row.tokens, row.specials, strict=True) if special]
    assert specials.count("<|im_end|>") == 5
    assert "".join(row.tokens).count("<|im_end|>") == 6


def test_unknown_row_and_version_without_tokens_say_what_to_do(version, tmp_path):
    with pytest.raises(StoreError, match="`sft-data why`"):
        preview(version, ["nobody"])
    with pytest.raises(StoreError, match="no `tokenize` section"):
        preview(tmp_path)


def test_terminal_shows_control_characters_and_obeys_none():
    text = printed(hostile())
    assert "\x1b[31m\u202e" not in text
    assert "␛[31m⟨U+202E⟩" in text
    assert "turn 1 [1, 3) x 0.5" in text
    assert re.search(r"\x1b\[[0-9;]*32m.*script", text), "trained tokens are green"


def test_page_escapes_the_data_and_asks_nobody_for_anything():
    page = render_preview(hostile())
    assert "<script" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page
    assert "s:&lt;b&gt;:0" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?:", page)
    assert '<span class="t e" title="1: 2">' in page
    assert '<span class="s" title="0: 1">' in page


def test_page_of_the_same_rows_is_the_same(version):
    assert render_preview(preview(version)) == render_preview(preview(version))


def test_pack_is_what_lies_on_disk_segment_by_segment(version):
    packs = pl.concat(f for path in stream_files(version, "packs", "train") for f in arrow_batches(path))
    index = pl.read_parquet(version / "pack_index" / "train" / "*.parquet")
    for number in {0, 1, packs.height - 1}:
        pack = preview_pack(version, number).pack
        ids, labels, lengths = packs.select("input_ids", "labels", "seq_lengths").row(number)
        assert (pack.number, pack.packs, pack.split) == (number, packs.height, "train")
        assert (pack.ids, pack.labels) == (ids, labels)
        assert [segment.end - segment.start for segment in pack.segments] == lengths
        assert [segment.row for segment in pack.segments] == index.filter(pack=number).sort("position")["row"].to_list()
        assert pack.padding == pack.width - len(ids) >= 0
        assert pack.trained == sum(segment.trained for segment in pack.segments)
        for segment in pack.segments:
            assert labels[segment.start] == -100
            text = text_of(str(version / "tokenizer"), ids[segment.start : segment.end])
            assert "".join(pack.tokens[segment.start : segment.end]) == text
            for span in segment.spans:
                assert labels[span.start : span.end] == ids[span.start : span.end]


def test_pack_that_is_not_there_says_which_are(version, tmp_path):
    with pytest.raises(StoreError, match=r"no pack 99,999 of split 'train': there are \d+; they are numbered 0 to"):
        preview_pack(version, 99_999)
    with pytest.raises(StoreError, match="splits with packs: train"):
        preview_pack(version, 0, "nowhere")
    with pytest.raises(StoreError, match="no `pack` section"):
        preview_pack(tmp_path, 0)


def test_pack_is_shown_with_borders_and_its_texts_are_escaped():
    segments = [  # one token each
        PreviewSegment(id=f"s:{HOSTILE}:{n}", source="s", row=n, start=n, end=n + 1, trained=n, spans=[])
        for n in range(2)
    ]
    pack = PreviewPack(
        number=0, packs=1, split="train", method="best-fit", ids=[1, 2], tokens=[HOSTILE, "</pre>"], labels=[-100, 2],
        specials=[False, False], segments=segments, trained=1, width=8, padding=6,
    )  # fmt: skip
    found = Preview(version="v", tokenizer="<t>", pack=pack)
    page = render_preview(found)
    assert "<script" not in page
    assert page.count("</pre>") == page.count('<div class="segment">') == 2
    assert "6 of 8 places" in page
    assert "&lt;t&gt;" in page
    told = printed(found)
    assert "\x1b[31m" not in told
    assert told.count("segment 1 of 2") == told.count("segment 2 of 2") == 1
