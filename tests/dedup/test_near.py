import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_data.dedup import gathering
from sft_data.dedup import near as near_module
from sft_data.dedup.near import NearDedup
from sft_data.dedup.older import read_older
from sft_data.errors import SourceError
from sft_data.schema import CONVERSATIONS
from sft_data.stage import Outcome, apply_decision, run_dataset_stage
from tests.dedup import oracle
from tests.frames import SHARED, chat, conversations, ids, needs_shared, talk, turn

LONG = "The old lighthouse keeper climbed the stairs every evening to light the great lamp above the harbour."
PASSAGE = " ".join(oracle.sentence(oracle.dice(i), 20, "en") for i in range(12))


def near(*rows: dict[str, Any], **settings: Any) -> Outcome:
    return run_dataset_stage(NearDedup(**settings), conversations(*rows))


def cluster_of(outcome: Outcome) -> dict[str, str]:
    return dict(outcome.kept.select("id", "cluster").rows())


def planted(seed: str, script: str, base: int) -> list[dict[str, Any]]:
    """Rows of which two thirds are perturbed copies of others: of the prompt, of the answer, or of both."""
    draw = oracle.dice(seed)
    rows = []
    for number in range(base):
        asked, said = (oracle.sentence(draw, draw.randrange(low, 90), script) for low in (3, 1))
        rows.append(chat(f"{number}", said, asked))
        for copy in range(2):
            sides = [asked, said]
            for side in draw.choice([(0,), (1,), (0, 1)]):
                sides[side] = oracle.perturbed(
                    draw, sides[side], draw.choice(oracle.KINDS), draw.choice([0.02, 0.05, 0.1, 0.2])
                )
            rows.append(chat(f"{number}.{copy}", sides[1], sides[0]))
    draw.shuffle(rows)
    return rows


@pytest.mark.parametrize("script", ["en", "zh", "ja", "mixed"])
@pytest.mark.parametrize("threshold", [0.7, 0.8])
@pytest.mark.parametrize(("candidates", "recall"), [("minhash", 0.99), ("exact", 1.0)])
def test_near_dedup_against_every_pair_in_plain_python(
    script: str, threshold: float, candidates: str, recall: float
) -> None:
    rows = planted(f"{script}{threshold}", script, 130)
    pairs = oracle.near_pairs(rows, threshold)
    assert len(pairs) > 60
    # Keep-first over the true pairs: the answer that an exact algorithm gives.
    true_twins: dict[int, set[int]] = {}
    for j in range(len(rows)):
        twins = {i for i in range(j) if (i, j) in pairs and i not in true_twins}
        if twins:
            true_twins[j] = twins
    outcome = near(*rows, threshold=threshold, short_answers="near-prompt", candidates=candidates)
    place = {row["id"]: number for number, row in enumerate(rows)}
    removed = {place[i]: place[t] for i, t in outcome.rejected.select("id", "twin").rows()}
    kept = {place[i] for i in ids(outcome.kept)}
    for row, twin in removed.items():  # precision 1.0, and never a chain
        assert (twin, row) in pairs
        assert twin in kept
    found = sum(row in removed for row in true_twins)
    assert found / len(true_twins) >= recall


@pytest.mark.parametrize("criterion", ["prompt-and-answer", "conversation", "prompt", "answer"])
def test_near_dedup_score_is_the_exact_similarity(criterion: str) -> None:
    rows = planted(criterion, "mixed", 60)
    by_id = {row["id"]: row for row in rows}
    outcome = near(*rows, threshold=0.7, criterion=criterion, same_numbers=False)
    assert outcome.rejected.height > 20
    for row, twin, score in outcome.rejected.select("id", "twin", "score").rows():
        left, right = (tuple(map(oracle.shingles, oracle.sides(by_id[name]))) for name in (row, twin))
        sides = [oracle.jaccard(left[side], right[side]) for side in (0, 1)]
        shared = sum(len(left[side] & right[side]) for side in (0, 1))
        both = sum(len(left[side] | right[side]) for side in (0, 1))
        expected = {
            "prompt-and-answer": min(sides),
            "conversation": shared / both,
            "prompt": sides[0],
            "answer": sides[1],
        }
        assert score == pytest.approx(expected[criterion], abs=1e-12)
        assert score >= 0.7


def test_near_dedup_detail_tells_both_similarities_and_the_limit() -> None:
    outcome = near(chat("a", LONG, "Who?"), chat("b", LONG.replace("harbour", "bay"), "Who?"))
    assert outcome.rejected.select("id", "code", "twin", "detail").rows() == [
        ("b", "near-duplicate", "a", "prompt 1.0, answer 0.857 >= 0.7")
    ]


# What the peers get wrong: distinct texts below the shingle length merged, identical ones kept.


def test_near_dedup_of_short_answers_merges_the_identical_and_no_others() -> None:
    said = [
        "Yes.",
        "No.",
        "Thank you very much",
        "Paris",
        "是",
        "否",
        "你好吗",
        "...",
        "!!!",
        "🎉",
        "😢",
        "C",
        "C++",
        "",
    ]
    rows = [chat(f"{copy}{i}", text) for copy in "ab" for i, text in enumerate(said)]
    for criterion in ("prompt-and-answer", "conversation", "answer"):
        outcome = near(*rows, criterion=criterion)
        assert ids(outcome.kept) == [f"a{i}" for i in range(len(said))]
        assert outcome.rejected["twin"].to_list() == [f"a{i}" for i in range(len(said))]


def test_near_dedup_of_the_mixed_short_and_long_fixture_removes_one_row() -> None:
    sentence = " ".join(oracle.ENGLISH[:24])
    rows = ["Yes.", "No.", "Thank you very much", "Paris", sentence, sentence.replace("travel", "journey"), PASSAGE]
    other = sentence.replace(oracle.ENGLISH[23], "tonight")
    rows[5] = other
    outcome = near(*[chat(str(i), text) for i, text in enumerate(rows)])
    assert outcome.rejected.select("id", "twin").rows() == [("5", "4")]


@given(st.lists(st.text(alphabet="ab 是你.!🎉\n1", max_size=8), max_size=14))
@settings(deadline=None, max_examples=150)
def test_near_dedup_of_texts_below_the_shingle_length_keeps_exactly_the_distinct(answers: list[str]) -> None:
    short = [text for text in answers if len(oracle.units(text)) < 5]
    frame = conversations(*[chat(str(i), text) for i, text in enumerate(short)])
    stripped = [text.strip() for text in short]
    for criterion in ("prompt-and-answer", "conversation", "answer"):
        outcome = run_dataset_stage(NearDedup(criterion=criterion), frame)
        assert ids(outcome.kept) == [str(i) for i, text in enumerate(stripped) if text not in stripped[:i]]


# Edge groups: answers to one question, and how many of them go.
EDGES = {
    "one-word answers": (0, ["Yes", "No", "Paris", "Rome", "True", "False", "Red", "Blue", "A", "B"]),
    "two to four words": (0, ["Thank you", "No thanks", "In the end", "At the start", "It is so", "It is not so"]),
    "copies of short rows": (2, ["Paris", "Rome", "Paris", "Rome"]),
    "empty rows": (2, ["", "", ""]),
    "punctuation": (0, ["...", "!!!"]),
    "emoji": (0, ["🎉🎉", "😢"]),
    "short Chinese": (0, ["你好吗", "谢谢你", "是的", "不是"]),
    "Chinese with one character changed": (
        1,
        [f"猫坐在垫子上，然后它看着窗外的小鸟，觉得很开心，于是又睡着{end}。" for end in "了啦"],
    ),
    "Chinese with a comma": (1, ["今天天气很好我们一起去公园散步吧", "今天天气很好，我们一起去公园散步吧"]),
    "Chinese copy": (1, ["今天天气很好我们一起去公园散步吧"] * 2),
    "maths with other numbers": (
        0,
        [f"A shop sells {n} apples and {m} pears on every single day of the week; how many in all?" for n, m in
         ((3, 5), (5, 3), (4, 5), (13, 5))],
    ),
    "maths with another operator": (0, [f"Work out the value of 12 {op} 7 for me please" for op in "+-"]),
    "short Japanese": (0, ["はい", "いいえ", "東京です", "大阪です"]),
    "Japanese with one character changed": (
        1,
        [f"猫はマットの上に座って、窓の外の小鳥を眺めながら、幸せな気持ちでまた眠りまし{end}。" for end in "たて"],
    ),
    "Japanese about something else": (
        0,
        ["昨日は友達と一緒に映画を見に行きました。", "明日は家族と一緒に海へ泳ぎに行くつもりです。"],
    ),
    "Thai": (0, ["ฉันชอบกินข้าวผัดในตอนเช้า", "เขาเดินทางไปเชียงใหม่เมื่อวานนี้"]),
    "long with another case": (1, [LONG, LONG.upper()]),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_near_dedup_of_edge_groups_removes_as_many_as_it_should(name: str) -> None:
    expected, answers = EDGES[name]
    outcome = near(*[chat(str(i), text) for i, text in enumerate(answers)])
    assert outcome.rejected.height == expected


def test_near_dedup_of_maths_prompts_that_differ_in_numbers_keeps_them_unless_told() -> None:
    asked = (
        "A train leaves the station at {} o'clock and travels for three hours at the same speed. How far does it go?"
    )
    rows = [chat(str(hour), "It depends on the speed of the train.", asked.format(hour)) for hour in (7, 8)]
    assert near(*rows, threshold=0.5).rejected.height == 0
    assert near(*rows, threshold=0.5, same_numbers=False).rejected.height == 1


def test_near_dedup_of_another_question_about_the_same_passage_keeps_it() -> None:
    asked = [f"{PASSAGE}\n{question}" for question in ("Who carries the lantern?", "Is the garden near the old river?")]
    said = ("An old farmer carries it home", "Yes, close to the river bank")
    apart = [chat(str(i), f"{said[i]}, as the writer of these lines tells us.", text) for i, text in enumerate(asked)]
    assert near(*apart).rejected.height == 0
    same_short_answer = [chat(str(i), "Yes.", text) for i, text in enumerate(asked)]
    assert near(*same_short_answer).rejected.height == 0
    assert near(*same_short_answer, short_answers="near-prompt").rejected.height == 1
    assert near(*apart, criterion="prompt").rejected.height == 1


def test_near_dedup_of_equal_short_answers_to_different_questions_keeps_them() -> None:
    rows = [chat(str(i), "Paris.", oracle.sentence(oracle.dice(i), 12, "en")) for i in range(5)]
    assert near(*rows).rejected.height == 0


def test_near_dedup_of_rows_that_share_a_long_context_looks_at_the_question() -> None:
    system = turn("system", PASSAGE)
    rows = [
        talk("a", system, turn("user", "Name the largest river of that country, please."), turn("assistant", LONG)),
        talk("b", system, turn("user", "Tell me who wrote the oldest of these books."), turn("assistant", LONG)),
        talk("c", system, turn("user", "Name the largest river of that country, please!"), turn("assistant", LONG)),
        talk("d", turn("user", "Name the largest river of that country, please."), turn("assistant", LONG)),
    ]
    outcome = near(*rows)
    assert outcome.rejected.select("id", "twin").rows() == [("c", "a")]


def test_near_dedup_does_not_chain() -> None:
    words = oracle.ENGLISH
    # Each is near the one before it; the third is not near the first.
    texts = [" ".join(words[shift : shift + 30]) for shift in (0, 4, 8)]
    jaccards = [
        oracle.jaccard(oracle.shingles(texts[i]), oracle.shingles(texts[j])) for i, j in ((0, 1), (1, 2), (0, 2))
    ]
    assert jaccards[0] >= 0.7 > jaccards[2]
    assert jaccards[1] >= 0.7
    outcome = near(*[chat(str(i), text) for i, text in enumerate(texts)])
    assert ids(outcome.kept) == ["0", "2"]
    assert outcome.rejected["twin"].to_list() == ["0"]


def test_near_dedup_keeps_the_longest_the_best_or_the_preferred_source() -> None:
    longer = LONG + " Nobody knew."
    frame = conversations(
        chat("a", LONG, source="web", points=0.1),
        chat("b", longer, source="web", points=0.2),
        chat("c", LONG.upper(), source="books", points=0.9),
    )
    expected = (
        ({}, "a"),
        ({"keep": "longest"}, "b"),
        ({"keep": "best", "score": "points"}, "c"),
        ({"sources": ["books"]}, "c"),
    )
    for how, stays in expected:
        outcome = run_dataset_stage(NearDedup.model_validate(how), frame)
        assert ids(outcome.kept) == [stays]
        assert set(outcome.rejected["twin"]) == {stays}


def test_near_dedup_names_the_most_similar_of_several_kept_rows() -> None:
    words = oracle.ENGLISH
    first, second = (" ".join(words[shift : shift + 30]) for shift in (0, 8))
    middle = " ".join(words[6:36])
    outcome = near(chat("far", first), chat("close", second), chat("x", middle), threshold=0.5)
    assert outcome.rejected.select("id", "twin").rows()[-1] == ("x", "close") or ids(outcome.kept) == ["far"]
    outcome = near(chat("far", first), chat("close", second), chat("x", middle), threshold=0.65)
    assert outcome.rejected.select("id", "twin").rows() == [("x", "close")]


@pytest.mark.parametrize("cut", [1, 7, 64])
def test_near_dedup_decides_the_same_for_any_cut_into_memory_mapped_shards(cut: int) -> None:
    rows = planted("cut", "mixed", 40)
    frame = conversations(*rows)
    stage = NearDedup()
    whole = run_dataset_stage(stage, frame)
    with tempfile.TemporaryDirectory() as folder:
        sketches = []
        for at in range(0, frame.height, cut):
            path = Path(folder) / f"{at}.arrow"
            stage.sketch(frame.slice(at, cut)).write_ipc(path, compression="uncompressed")
            sketches.append(pl.read_ipc(path))
        outcome = apply_decision(stage, frame, stage.decide(sketches))
    assert outcome.kept.equals(whole.kept)
    assert outcome.rejected.equals(whole.rejected)


def test_near_dedup_with_another_order_keeps_as_many_rows_and_the_first_of_each_group() -> None:
    groups = [[oracle.sentence(oracle.dice(i), 60, "en")] * 3 for i in range(10)]
    rows = [chat(f"{i}-{k}", text + "!" * k) for i, group in enumerate(groups) for k, text in enumerate(group)]
    oracle.dice(3).shuffle(rows)
    outcome = near(*rows)
    firsts = [row["id"] for at, row in enumerate(rows) if row["id"][0] not in {r["id"][0] for r in rows[:at]}]
    assert ids(outcome.kept) == firsts


def test_near_dedup_appended_rows_never_change_what_happened_to_earlier_ones() -> None:
    rows = planted("append", "en", 40)
    early = run_dataset_stage(NearDedup(), conversations(*rows[:70]))
    full = run_dataset_stage(NearDedup(), conversations(*rows))
    assert ids(full.kept)[: early.kept.height] == ids(early.kept)
    assert full.rejected.head(early.rejected.height).equals(early.rejected)


def test_cluster_holds_near_prompts_and_near_conversations_whatever_the_numbers() -> None:
    asked = f"{LONG} Tell me the story of the {{}} in which that happened."
    other = "What would a good gardener plant beside the old wall in the first cold week of spring?"
    rows = [
        chat("a", "It was a dark night and nobody saw the ship coming.", asked.format("night")),
        chat("b", PASSAGE, asked.format("book")),
        chat("c", PASSAGE, other),  # the conversation is near b's, for its answer is long
        chat("d", "Roses, and some herbs next to the kitchen door.", "Which plants grow well in a shady place?"),
        chat("e", "No.", f"{LONG} Add 3 and 5 and tell me at once what it is."),
        chat("f", "Yes.", f"{LONG} Add 4 and 5 and tell me at once what it is."),
        chat("g", "", ""),
        chat("h", "Something else was said here.", ""),
    ]
    clusters = cluster_of(near(*rows, threshold=0.6))
    assert clusters["b"] == "a" == clusters["a"]
    assert clusters["c"] == "a"
    assert clusters["d"] == "d"
    assert clusters["f"] == "e" == clusters["e"]
    assert clusters["g"] == "g"
    assert clusters["h"] == "h"  # rows without a prompt have no prompt in common


def test_cluster_of_every_true_near_pair_is_the_same() -> None:
    rows = planted("cluster", "mixed", 120)
    outcome = near(*rows, threshold=0.7)
    clusters, by_id = cluster_of(outcome), {row["id"]: row for row in rows}
    kept = [(name, *map(oracle.shingles, oracle.sides(by_id[name]))) for name in ids(outcome.kept)]
    pairs = together = 0
    position = {name: at for at, (name, _, _) in enumerate(kept)}
    joined: dict[str, set[str]] = {}
    for j, (right, prompt, answer) in enumerate(kept):
        for left, prompt_2, answer_2 in kept[:j]:
            shared = len(prompt & prompt_2) + len(answer & answer_2)
            whole = shared / max(1, len(prompt | prompt_2) + len(answer | answer_2))
            if oracle.jaccard(prompt, prompt_2) >= 0.7 or whole >= 0.7:
                pairs += 1
                together += clusters[left] == clusters[right]
                joined.setdefault(clusters[left], set()).update((left, right))
    assert pairs > 30
    assert together / pairs >= 0.99
    for name, cluster in clusters.items():  # alone: itself; together: the first, and only with true neighbours
        assert position[cluster] <= position[name]
        assert name == cluster or name in joined[cluster]


@pytest.mark.parametrize("candidates", ["minhash", "exact"])
def test_near_dedup_of_no_rows_and_of_one_row(candidates: Literal["minhash", "exact"]) -> None:
    nothing = pl.DataFrame(schema=CONVERSATIONS)
    assert run_dataset_stage(NearDedup(candidates=candidates), nothing).kept.height == 0
    assert cluster_of(near(chat("a", "x"), candidates=candidates)) == {"a": "a"}


@pytest.mark.parametrize("criterion", ["prompt-and-answer", "conversation", "prompt", "answer"])
def test_near_dedup_with_exact_candidates_decides_as_with_minhash(criterion: str) -> None:
    rows = [*planted("both", "mixed", 60), chat("e1", ""), chat("e2", ""), chat("e3", "", ""), chat("e4", "", "")]
    fast, exact = (near(*rows, criterion=criterion, candidates=how) for how in ("minhash", "exact"))
    assert fast.kept.equals(exact.kept)
    assert fast.rejected.equals(exact.rejected)


def test_near_dedup_against_an_older_version_decides_as_over_all_rows_at_once(tmp_path: Path) -> None:
    rows = planted("older", "mixed", 60)
    early = run_dataset_stage(NearDedup(), conversations(*rows[:100])).kept
    (tmp_path / "v1" / "conversations" / "train").mkdir(parents=True)
    early.write_parquet(tmp_path / "v1" / "conversations" / "train" / "00000.parquet", row_group_size=17)
    late = near(*rows[100:], against=(str(tmp_path / "v1"),))
    whole = near(*rows)
    assert ids(early) + ids(late.kept) == ids(whole.kept)
    told = ("id", "twin", "score", "detail")
    assert late.rejected.select(told).rows() == whole.rejected.select(told).rows()[100 - early.height :]
    together = cluster_of(whole)
    assert cluster_of(late) == {name: together[name] for name in ids(late.kept)}


def test_near_dedup_against_an_older_version_takes_over_its_clusters(tmp_path: Path) -> None:
    old = conversations(chat("old", "One.", LONG)).with_columns(cluster=pl.lit("first"))
    old.write_parquet(tmp_path / "old.parquet")
    outcome = near(chat("new", "Two.", LONG), chat("other", "Two."), against=(str(tmp_path / "old.parquet"),))
    assert cluster_of(outcome) == {"new": "first", "other": "other"}


def test_near_dedup_never_removes_a_row_for_a_later_one_where_old_rows_are_alike(tmp_path: Path) -> None:
    conversations(chat("a", LONG), chat("b", LONG.upper())).write_parquet(tmp_path / "old.parquet")
    outcome = near(chat("c", LONG), chat("d", "Other."), keep="longest", against=(str(tmp_path / "old.parquet"),))
    assert outcome.rejected.select("id", "twin").rows() == [("c", "a")]


def test_near_dedup_against_something_else_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="neither a published version nor Parquet files"):
        near(chat("a", "x"), against=(str(tmp_path),))
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(SourceError, match="no column `messages`"):
        near(chat("a", "x"), against=(str(tmp_path / "x.parquet"),))


@pytest.mark.parametrize("criterion", ["prompt-and-answer", "answer"])
def test_near_dedup_by_datasketch_decides_the_same_from_the_same_sketches(criterion: Literal["answer"]) -> None:
    frame = conversations(*planted("datasketch", "mixed", 30), chat("e1", "", ""), chat("e2", "", ""))
    fast, slow = (NearDedup(criterion=criterion, backend=backend) for backend in ("fast", "datasketch"))
    assert fast.sketch(frame).equals(slow.sketch(frame))
    assert slow.sketch(frame.clear()).schema == fast.sketch(frame).schema
    assert run_dataset_stage(slow, frame).kept.equals(run_dataset_stage(fast, frame).kept)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.7, 0.8])
def test_near_dedup_of_real_rows_and_planted_copies_misses_less_than_one_in_a_hundred(threshold: float) -> None:
    real = [
        (row["instruction"] + "\n" + row["input"], row["output"])
        for name in ("alpaca_data.json", "alpaca_zh/alpaca_zh-0-3252.json", "alpaca_zh/alpaca_zh-3252-6382.json")
        for row in json.loads((SHARED / "data" / name).read_text(encoding="utf-8"))
    ]
    draw = oracle.dice(threshold)
    copies = [
        tuple(oracle.perturbed(draw, side, draw.choice(oracle.KINDS), draw.choice([0.02, 0.05, 0.1])) for side in row)
        for row in draw.sample([row for row in real if min(map(len, row)) > 40], 8000)
    ]
    frame = conversations(*[chat(str(i), said, asked) for i, (asked, said) in enumerate(real + copies)])
    fast, exact = (
        set(ids(run_dataset_stage(NearDedup(threshold=threshold, candidates=how), frame).rejected))
        for how in ("minhash", "exact")
    )
    assert len(exact) > 2000
    assert len(fast & exact) / len(exact) >= 0.99


def test_near_dedup_with_empty_shards_among_others() -> None:
    frame, stage = conversations(chat("a", LONG), chat("b", LONG)), NearDedup()
    decision = stage.decide([stage.sketch(frame.clear()), stage.sketch(frame), stage.sketch(frame.clear())])
    assert decision.rejected["row"].to_list() == [1]


def test_near_dedup_of_a_large_bucket_of_alike_prompts_still_removes_every_copy() -> None:
    draw = oracle.dice(9)
    template = oracle.sentence(draw, 60, "en")
    texts = [f"{template} {oracle.sentence(draw, 22, 'en')}" for _ in range(150)]  # alike, but below the threshold
    rows = [chat(f"{i}", text) for i, text in enumerate(texts)] + [
        chat(f"c{i}", text.upper()) for i, text in enumerate(texts)
    ]
    outcome = near(*rows, threshold=0.8)
    assert outcome.rejected.select("id", "twin").rows() == [(f"c{i}", str(i)) for i in range(150)]


@pytest.mark.parametrize("shape", ["same passage", "same refusal", "same system prompt", "short answers"])
def test_near_dedup_of_many_rows_from_one_template_removes_exactly_the_copies(shape: str) -> None:
    draw = oracle.dice(shape)
    rows = []
    for number in range(120):
        asked, said = oracle.sentence(draw, 20, "en"), oracle.sentence(draw, 30, "en")
        before = [turn("system", PASSAGE)] if shape == "same system prompt" else []
        prompt = f"{PASSAGE} {asked}" if shape in ("same passage", "short answers") else asked
        answer = {"same refusal": LONG, "short answers": "Yes."}.get(shape, said)
        for copy, text in (("", prompt), ("copy", prompt.upper())):
            rows.append(talk(f"{number}{copy}", *before, turn("user", text), turn("assistant", answer)))
    rows.sort(key=lambda row: row["id"].endswith("copy"))
    outcome = near(*rows, threshold=0.8)
    assert outcome.rejected.select("id", "twin").rows() == [(f"{n}copy", str(n)) for n in range(120)]
    clusters = len(set(cluster_of(outcome).values()))
    assert clusters == (1 if shape in ("same passage", "short answers") else 120)


def reference(stage: NearDedup, rows: list[dict[str, Any]]) -> dict[str, tuple[str, float]]:
    """The decision over one sketch, in plain Python: buckets in dictionaries, every similarity from the sets."""
    sketch = stage.sketch(conversations(*rows)).to_dicts()
    bounds = [[0, *(sum(row["counts"][: part + 1]) for part in range(3))] for row in sketch]
    sets = [[set(row["shingles"][low:high]) for low, high in pairwise(bounds[at])] for at, row in enumerate(sketch)]
    short = [row["keys"][2] % 2 == 0 for row in sketch]
    standing: list[dict[tuple[Any, ...], list[int]]] = [{}, {}, {}]
    alike: dict[tuple[int, ...], list[int]] = {}
    gone: dict[int, tuple[int, float]] = {}
    for i, row in enumerate(sketch):
        places = [[(band, key) for band, key in enumerate(row[name])] for name in ("conversation", "prompt", "answer")]
        if short[i]:
            candidates = list(alike.get(tuple(row["keys"]), []))
        else:
            found = [[j for key in places[at] for j in standing[at].get(key, [])] for at in range(3)]
            candidates = found[0] if len(found[0]) <= 64 else min(found, key=len)
        near_rows = {}
        for j in set(candidates):
            if sketch[j]["numbers"] != row["numbers"] and stage.same_numbers:
                continue
            same = [sketch[j]["keys"][part] == row["keys"][part] for part in range(3)]
            texts = [
                1.0 if same[part] else
                0.0 if not (row["keys"][part] % 2 and sketch[j]["keys"][part] % 2) else
                oracle.jaccard(sets[i][part], sets[j][part])
                for part in range(3)
            ]  # fmt: skip
            if min(texts) >= stage.threshold and (not short[i] or texts[:2] == [1.0, 1.0]):
                near_rows[j] = min(texts)
        if len(near_rows) >= stage.copies:
            gone[i] = min(near_rows.items(), key=lambda pair: (-pair[1], pair[0]))
        elif short[i]:
            alike.setdefault(tuple(row["keys"]), []).append(i)
        else:
            for at in range(3):
                for key in places[at]:
                    standing[at].setdefault(key, []).append(i)
    return {sketch[i]["id"]: (sketch[j]["id"], score) for i, (j, score) in gone.items()}


def from_templates(seed: int, base: int) -> list[dict[str, Any]]:
    """Rows of which many share a passage, a refusal or a short answer: buckets of every size, more than 64 rows too."""
    draw, rows = oracle.dice(("templates", seed)), []
    for number in range(base):
        asked, said = oracle.sentence(draw, draw.randrange(3, 25), "mixed"), oracle.sentence(draw, 30, "mixed")
        shape = draw.choice(("plain", "passage", "refusal", "short", "passage"))
        asked = f"{PASSAGE} {asked}" if shape == "passage" else asked
        said = {"refusal": f"{PASSAGE} {said[:40]}", "short": draw.choice(("Yes.", "No."))}.get(shape, said)
        for copy in range(draw.choice((1, 1, 2, 4))):
            text = oracle.perturbed(draw, said, draw.choice(oracle.KINDS), 0.03) if copy and len(said) > 20 else said
            rows.append(chat(f"{number}.{copy}", text, asked))
    draw.shuffle(rows)
    return rows


def twice(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows, and all of them again under other names."""
    return rows + [dict(row, id=f"again {row['id']}") for row in rows]


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_near_dedup_decides_as_plain_python_does_over_buckets_of_every_size(seed: int, copies: int) -> None:
    rows = from_templates(seed, 200) if seed else twice(planted("plain", "mixed", 90))
    stage = NearDedup(copies=copies)
    rejected = run_dataset_stage(stage, conversations(*rows)).rejected
    expected = reference(stage, rows)
    assert len(expected) > 20
    assert {row: (twin, score) for row, twin, score in rejected.select("id", "twin", "score").rows()} == expected


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_near_dedup_with_copies_keeps_so_many_of_every_true_group(copies: int) -> None:
    rows = twice(planted("copies", "mixed", 60))
    pairs = oracle.near_pairs(rows, 0.7)
    kept: list[int] = []
    for j in range(len(rows)):
        if sum((i, j) in pairs for i in kept) < copies:
            kept.append(j)
    outcome = near(*rows, copies=copies, candidates="exact", short_answers="near-prompt")
    assert ids(outcome.kept) == [rows[j]["id"] for j in kept]
    assert outcome.rejected.height > 20


def test_near_dedup_with_copies_of_a_prompt_keeps_several_answers_to_a_question() -> None:
    rows = [chat(str(i), f"Answer {'abcde'[i]}.", LONG if i % 2 else LONG.upper()) for i in range(5)]
    outcome = near(*rows, criterion="prompt", copies=3)
    assert ids(outcome.kept) == ["0", "1", "2"]
    assert set(cluster_of(outcome).values()) == {"0"}


def test_near_dedup_with_more_copies_than_candidates_of_one_look_still_counts_them_all() -> None:
    short = [chat(str(i), "Yes.", LONG) for i in range(90)]
    long = [chat(str(i), LONG, LONG) for i in range(90)]
    for rows in (short, long):
        assert ids(near(*rows, copies=80).kept) == [str(i) for i in range(80)]


def test_near_dedup_with_copies_counts_older_rows(tmp_path: Path) -> None:
    conversations(chat("a", LONG), chat("b", LONG.upper())).write_parquet(tmp_path / "old.parquet")
    rows = [chat("c", LONG), chat("d", LONG)]
    assert ids(near(*rows, copies=3, against=(str(tmp_path / "old.parquet"),)).kept) == ["c"]
    assert ids(near(*rows, copies=2, against=(str(tmp_path / "old.parquet"),)).kept) == []


# Portions: how the work is cut decides nothing.


@pytest.mark.parametrize(
    "how",
    [
        {}, {"criterion": "conversation"}, {"criterion": "answer", "keep": "longest"}, {"criterion": "prompt"},
        {"short_answers": "near-prompt", "threshold": 0.5}, {"candidates": "exact"}, {"copies": 2},
    ],
)  # fmt: skip
def test_near_dedup_decides_the_same_however_the_work_is_cut(
    how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = conversations(*from_templates(7, 80))
    stage = NearDedup.model_validate(how)
    whole = stage.decide([stage.sketch(frame)])
    sketches = [stage.sketch(frame.slice(at, 50)) for at in range(0, frame.height, 50)]
    seen = set()
    for a_row, step in ((200, 1000), (50, 64), (30, 7), (12, 64)):  # bytes; rows looked up together
        monkeypatch.setattr(near_module, "_RANGE", step)
        monkeypatch.setattr(near_module, "_RANGES", 1000)
        portions = stage.portions(frame.height, a_row * frame.height)
        seen.add(len(portions))
        gathered = [stage.gather(sketches, portion) for portion in oracle.dice(a_row).sample(portions, len(portions))]
        ahead = [stage.look_up(sketches, gathered, first, end) for first, end in stage.ranges(0, frame.height)]
        assert (len(ahead) == 0) == (stage.candidates == "exact")
        for cut in (stage.decide(sketches, [], gathered), stage.decide(sketches, [], gathered, ahead)):
            assert cut.rejected.equals(whole.rejected)
            assert cut.columns is not None
            assert cut.columns.equals(whole.columns)
    assert len(seen) >= 3


def test_a_row_with_very_many_candidates_is_held_against_all_of_them() -> None:
    """More than a row's candidates are noted for at once: each band has small buckets of other rows."""
    chance = oracle.dice("crowd")
    words = [f"word{at}" for at in range(50)]
    rows = [chat(str(at), " ".join(chance.choices(words, k=60)), LONG) for at in range(700)]
    frame = conversations(*rows, *[{**row, "id": f"{row['id']}-again"} for row in rows[:30]])
    stage = NearDedup(threshold=0.05, num_perm=1024, criterion="answer", ngram=2)
    sketches = [stage.sketch(frame)]
    gathered = [stage.gather(sketches, portion) for portion in stage.portions(frame.height, 1 << 30)]
    ahead = [stage.look_up(sketches, gathered, first, end) for first, end in stage.ranges(0, frame.height)]
    assert max(np.diff(each["offsets"].item().to_numpy()).max() for each in ahead) > 512
    whole, cut = stage.decide(sketches), stage.decide(sketches, [], gathered, ahead)
    assert whole.rejected.equals(cut.rejected)
    assert whole.rejected.select("row", "twin", "score").rows() == [(700 + at, str(at), 1.0) for at in range(30)]


def test_near_dedup_against_older_rows_decides_the_same_however_the_work_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_module, "_RANGE", 20)
    rows = from_templates(8, 90)
    early = run_dataset_stage(NearDedup(), conversations(*rows[:90])).kept
    early.write_parquet(tmp_path / "old.parquet")
    stage = NearDedup(against=(str(tmp_path / "old.parquet"),), keep="longest", copies=2)
    older, fresh = read_older(stage), [stage.sketch(conversations(*rows[90:]))]
    every = [*(each.sketch for each in older), *fresh]
    before, height = early.height, sum(sketch.height for sketch in every)
    gathered = [stage.gather(every, portion) for portion in stage.portions(height, 60 * height)]
    ahead = [stage.look_up(every, gathered, first, end) for first, end in stage.ranges(before, height)]
    whole, cut = stage.decide(fresh, older), stage.decide(fresh, older, gathered, ahead)
    assert cut.rejected.height > 10
    assert cut.rejected.equals(whole.rejected)
    assert cut.columns is not None
    assert whole.columns is not None
    assert cut.columns.equals(whole.columns)


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), max_size=60), st.integers(1, 61), st.integers(1, 400)
)
@settings(deadline=None, max_examples=60)
def test_gathering_finds_every_bucket_of_two_rows_once_and_no_other(
    keys: list[list[int]], cut: int, memory: int
) -> None:
    table = np.array(keys, dtype=np.uint32).reshape(-1, 4)
    shards = [table[at : at + cut] for at in range(0, max(1, len(table)), cut)]
    found = []
    for portion in gathering.portions({"x": 4}, [], len(table), memory):
        frame = gathering.gather(shards, len(table), portion, banded=True).frame("x")
        offsets, buckets, rows, _ = gathering.Buckets.of(frame)
        begins = sorted(set(buckets.tolist()))
        for first, end in pairwise([*begins, len(rows)]):
            members = rows[first:end].tolist()
            assert all(row >= 0 for row in members[:-1])
            members[-1] = ~members[-1]
            assert members == sorted(members)
            found.append(members)
            assert [i for i in range(len(table)) if first in buckets[offsets[i] : offsets[i + 1]]] == members
    expected: dict[tuple[int, int], list[int]] = {}
    for row, bands_of_row in enumerate(keys):
        for key in enumerate(bands_of_row):
            expected.setdefault(key, []).append(row)
    assert sorted(found) == sorted(members for members in expected.values() if len(members) > 1)
