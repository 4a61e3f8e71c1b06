import gzip
import json
import os
import re
import resource
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sft_data import decontaminate
from sft_data.decontaminate import Decontaminate
from sft_data.errors import SourceError
from sft_data.schema import CONVERSATIONS
from sft_data.stage import Outcome, run_stage
from tests.dedup import oracle
from tests.frames import SHARED, chat, conversations, ids, needs_shared, talk

QUESTION = (
    "A baker fills nine trays with twelve buns each morning. On Friday he drops two trays on the way to the shop. "
    "How many buns can he still sell on that day?"
)
ANSWER = "He starts with 9 * 12 = 108 buns and loses 2 * 12 = 24 of them, so he can still sell 84 buns. #### 84"
CHINESE = "一个面包师每天早上做九盘面包，每盘十二个。星期五他在路上掉了两盘，那天他还能卖多少个面包？"


def write(path: Path, *items: Any) -> str:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return str(path)


@pytest.fixture
def tests_file(tmp_path: Path) -> str:
    return write(
        tmp_path / "buns.jsonl",
        {"question": "Name three rivers of Europe that flow into the Black Sea, and their lengths.", "answer": "B"},
        {"question": QUESTION, "answer": ANSWER},
        {"question": CHINESE, "answer": "84"},
        {"question": "Who wrote Faust?", "answer": "Goethe"},
        {"question": "Why?", "answer": "Because."},
    )


def run(*rows: dict[str, Any], **settings: Any) -> Outcome:
    return run_stage(Decontaminate(**settings), conversations(*rows))


def coverage(item: str, turns: list[str], n: int) -> float:
    """Share of an item's units that lie in n units in a row which stand in one of the turns."""
    units = oracle.units(item)
    known: set[int] = set()
    if len(units) < n:
        return float(any(oracle.units(turn) == units for turn in turns))
    for turn in turns:
        said = oracle.units(turn)
        grams = {tuple(said[i : i + n]) for i in range(len(said) - n + 1)}
        for at in range(len(units) - n + 1):
            if tuple(units[at : at + n]) in grams:
                known |= set(range(at, at + n))
    return len(known) / len(units)


def test_decontaminate_of_planted_leaks_names_item_share_and_text(tests_file: str) -> None:
    outcome = run(
        chat("clean", "Bread is made of flour.", "How is bread made in a bakery on a normal morning?"),
        chat("copy", "84", QUESTION),
        chat("inside", "84", f"Please solve this riddle for me.\n\n{QUESTION.upper()}\n\nThink before you answer."),
        chat("answer", ANSWER, "Tell me about buns."),
        chat("zh", "84个", f"请回答：{CHINESE}"),
        talk("later", "Hello there.", "Hi!", QUESTION, "It is 84."),
        against=(tests_file,),
    )
    assert ids(outcome.kept) == ["clean"]
    told = dict(outcome.rejected.select("id", "detail").rows())
    assert told["copy"].startswith("buns.jsonl row 1 question: 32 of 32 units = 1.00 > 0.5: “A baker fills nine trays")
    assert told["answer"].startswith("buns.jsonl row 1 answer: 22 of 22 units = 1.00")
    assert told["zh"].startswith("buns.jsonl row 2 question: ")
    assert "一个面包师每天早上做九盘面包" in told["zh"]
    assert set(outcome.rejected["code"]) == {"evaluation-overlap"}
    assert outcome.rejected["score"].to_list() == [1.0] * 5


def test_decontaminate_share_decides_at_the_limit(tests_file: str) -> None:
    words = QUESTION.split()
    half = [" ".join([*words[:many], "and", "nothing", "more"]) for many in (16, 17)]  # of 32 units
    rows = [chat(str(i), "x", text) for i, text in enumerate(half)]
    assert ids(run(*rows, against=(tests_file,)).kept) == ["0"]
    assert run(*rows, against=(tests_file,), overlap=0.6).rejected.height == 0
    assert run(*rows, against=(tests_file,), overlap=0.0, ngram=13).rejected.height == 2


def test_decontaminate_with_no_overlap_allowed_needs_one_whole_ngram(tests_file: str) -> None:
    words = QUESTION.split()
    rows = [chat(str(many), "x", " ".join(["so", *words[3 : 3 + many], "so"])) for many in (12, 13)]
    outcome = run(*rows, against=(tests_file,), overlap=0.0, ngram=13)
    assert ids(outcome.rejected) == ["13"]
    assert (
        outcome.rejected["detail"]
        .item()
        .endswith("“nine trays with twelve buns each morning. On Friday he drops two trays”")
    )


def test_decontaminate_of_short_items_takes_only_whole_turns_and_no_short_answers(tests_file: str) -> None:
    rows = [
        chat("same", "Goethe did.", "who wrote FAUST ?"),
        chat("more", "Goethe did.", "Who wrote Faust? And when did he write it, and in which town?"),
        chat("B", "B", "Which of them is it, A or B?"),
        chat("answer", "Goethe", "Name a poet."),
        chat("why", "So.", "Why?"),
    ]
    assert run(*rows, against=(tests_file,)).rejected.height == 0  # three units are too few to mean anything
    path = Path(tests_file).with_name("short.jsonl")
    write(path, {"prompt": "Who wrote Faust in Weimar?", "answer": "Goethe"})
    rows += [
        chat("whole", "Goethe", "Who wrote Faust in Weimar"),
        chat("part", "x", "Who wrote Faust in Weimar? Tell me"),
    ]
    assert ids(run(*rows, against=(str(path),)).rejected) == ["whole"]


def test_decontaminate_looks_for_prompts_only_where_told(tests_file: str) -> None:
    row = chat("answer", ANSWER, "Tell me about buns.")
    assert run(row, against=(tests_file,), look_for="prompts").rejected.height == 0


def test_decontaminate_reads_arrays_gzip_folders_turns_and_named_fields(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "Solve:", "input": QUESTION}]), encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps({"turns": ["Hello you", CHINESE]}).encode()))
    odd = write(tmp_path.parent / f"{tmp_path.name}-odd.jsonl", {"stem": QUESTION, "question": "unrelated words here"})
    rows = (chat("en", "x", QUESTION), chat("zh", "x", CHINESE))
    outcome = run(*rows, against=(str(tmp_path),))
    assert ids(outcome.rejected) == ["en", "zh"]
    assert outcome.rejected["detail"][0].startswith("a.json row 0 instruction: ")
    assert outcome.rejected["detail"][1].startswith("b.jsonl.gz row 0 turns 2: ")
    assert ids(run(*rows, against=(odd,)).rejected) == []
    assert ids(run(*rows, against=(odd,), fields=("stem",)).rejected) == ["en"]


def test_decontaminate_against_a_file_without_known_fields_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"stem": QUESTION})
    with pytest.raises(SourceError, match=r"x\.jsonl: no evaluation item .* name its fields in `fields`"):
        run(chat("a", "x"), against=(path,))
    with pytest.raises(SourceError):
        run(chat("a", "x"), against=(str(tmp_path / "missing.jsonl"),))


def test_decontaminate_against_a_set_that_cannot_be_read_whole_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"question": QUESTION}) + "\n{'question': broken}\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"evaluation set x\.jsonl, row 1: .*mend the file"):
        run(chat("a", "x"), against=(str(path),))


def test_decontaminate_sees_a_changed_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"question": CHINESE})
    row = chat("a", "x", QUESTION)
    assert run(row, against=(path,)).rejected.height == 0
    write(tmp_path / "x.jsonl", {"question": QUESTION})
    os.utime(path, ns=(1, 1))
    assert run(row, against=(path,)).rejected.height == 1


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(8, 13),
    limit=st.sampled_from([0.0, 0.25, 0.5, 0.75]) | st.floats(0.0, 0.99),
    language=st.sampled_from(["en", "zh", "mixed"]),
)
@example(seed=1, n=8, limit=0.5, language="zh")  # Tülu 3
@example(seed=2, n=13, limit=0.0, language="en")  # GPT-3
@settings(deadline=None, max_examples=40)
def test_decontaminate_against_plain_python(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, limit: float, language: str
) -> None:
    draw = oracle.dice(seed)
    items = [oracle.sentence(draw, draw.randrange(4, 60), language) for _ in range(6)]
    rows = []
    for number in range(12):
        item = draw.choice(items)
        cut = sorted(draw.sample(range(len(item) + 1), 2))
        asked = oracle.sentence(draw, 8, "en") + " " + item[cut[0] : cut[1]] + " " + oracle.sentence(draw, 5, "zh")
        answered = oracle.perturbed(draw, item, "word", draw.choice([0.02, 0.1]))
        rows.append(chat(str(number), answered, draw.choice([asked, item])))
    path = write(tmp_path_factory.mktemp("eval") / "items.jsonl", *[{"question": item} for item in items])
    outcome = run(*rows, against=(path,), ngram=n, overlap=limit)
    best = {r["id"]: max(coverage(item, list(oracle.sides(r)), n) for item in items) for r in rows}
    expected = {name: share for name, share in best.items() if share > limit}
    told = dict(outcome.rejected.select("id", "score").rows())
    assert told == pytest.approx(expected)
    turns = {row["id"]: list(oracle.sides(row)) for row in rows}
    for name, detail in outcome.rejected.select("id", "detail").rows():
        named = re.match(r"items\.jsonl row (\d+) question: (\d+) of (\d+) units = [\d.]+ > \S+ “(.*)”$", detail)
        assert named is not None, detail
        item = items[int(named[1])]
        assert coverage(item, turns[name], n) == pytest.approx(told[name])  # the item that is named is the one
        assert int(named[2]) / int(named[3]) == pytest.approx(told[name])
        shared = oracle.units(named[4].removesuffix("…"))
        assert shared == oracle.units(item) or holds(oracle.units(item), shared, cut=named[4].endswith("…"))
        # A run of shared pieces may stand in several turns, or in pieces: its first n units stand as they are in one.
        first = shared[:n]
        assert any(holds(oracle.units(turn), first) for turn in turns[name])


def holds(units: list[str], run: list[str], *, cut: bool = False) -> bool:
    """Whether `run` stands in `units`; its last unit only in part, where the text was cut there."""
    whole, last = (run[:-1], run[-1]) if cut else (run, "")
    places = (at for at in range(len(units) - len(run) + 1) if units[at : at + len(whole)] == whole)
    return any(units[at + len(run) - 1].startswith(last) for at in places)


def test_decontaminate_of_one_unit_over_and_over_looks_at_each_place_once(tmp_path: Path) -> None:
    """Zeros in both: so many n-grams that are all the same would meet four billion times, 25 GB and minutes."""
    zeros = "0 " * 65_536
    path = write(tmp_path / "zeros.jsonl", {"question": zeros}, {"question": QUESTION})
    started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = run(chat("zeros", "none", zeros), chat("few", "none", "0 " * 40_000), against=(path,))
    assert outcome.rejected.select("id", "score").rows() == [("zeros", 1.0), ("few", 1.0)]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started < 500_000  # KiB


def test_decontaminate_in_portions_is_all_at_once(tests_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        chat(str(i), ANSWER if i % 2 else "x", QUESTION if i % 3 else f"clean question number {i} about other things")
        for i in range(30)
    ]
    frame, stage = conversations(*rows), Decontaminate(against=(tests_file,))
    whole = run_stage(stage, frame)
    assert whole.rejected.height == 25
    for most in (1, 30, 70):
        monkeypatch.setattr(decontaminate, "_MOST_HITS", most)
        assert run_stage(stage, frame).rejected.equals(whole.rejected)


def test_decontaminate_shard_by_shard_is_all_at_once(tests_file: str) -> None:
    rows = [
        chat(str(i), "x", QUESTION if i % 3 else f"clean question number {i} about other things") for i in range(10)
    ]
    frame, stage = conversations(*rows), Decontaminate(against=(tests_file,))
    whole = run_stage(stage, frame)
    parts = [run_stage(stage, frame.slice(at, 3)) for at in range(0, 10, 3)]
    assert pl.concat([part.kept for part in parts]).equals(whole.kept)
    assert pl.concat([part.rejected for part in parts]).equals(whole.rejected)


def test_decontaminate_of_an_empty_frame_is_empty(tests_file: str) -> None:
    assert run_stage(Decontaminate(against=(tests_file,)), pl.DataFrame(schema=CONVERSATIONS)).kept.height == 0


@needs_shared
def test_decontaminate_of_real_benchmarks_finds_their_items_and_spares_instruction_data() -> None:
    folder = SHARED / "data" / "eval"
    stage = Decontaminate(
        against=tuple(str(folder / n) for n in ("gsm8k_test.jsonl", "HumanEval.jsonl.gz", "mt_bench_question.jsonl"))
    )
    maths = [json.loads(line) for line in (folder / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = gzip.decompress((folder / "HumanEval.jsonl.gz").read_bytes()).decode().splitlines()
    code = [json.loads(line) for line in lines]
    leaks = [
        chat(f"maths{i}", row["answer"], "Solve it step by step: " + row["question"]) for i, row in enumerate(maths)
    ]
    leaks += [
        chat(f"code{i}", row["canonical_solution"], f"Complete this:\n```\n{row['prompt']}```")
        for i, row in enumerate(code)
    ]
    talks = [json.loads(line) for line in (folder / "mt_bench_question.jsonl").read_text(encoding="utf-8").splitlines()]
    leaks += [talk(f"talk{i}", row["turns"][0], "Let me see.", row["turns"][1], "So.") for i, row in enumerate(talks)]
    outcome = run_stage(stage, conversations(*leaks))
    assert ids(outcome.kept) == []
    others = set()
    for name, detail in outcome.rejected.select("id", "detail").rows():
        file, number, size, known = re.match(
            r"(\S+) row (\d+) .*: (\d+) of (\d+) units = 1\.00 > 0\.5: “.", detail
        ).groups()  # type: ignore[union-attr]
        kind = {"gsm8k_test.jsonl": "maths", "HumanEval.jsonl.gz": "code", "mt_bench_question.jsonl": "talk"}[file]
        assert size == known
        if name != f"{kind}{number}":
            others.add((name, f"{kind}{number}"))
    assert others == {("code61", "code56")}  # the same question of two kinds of brackets
    alpaca = json.loads((SHARED / "data" / "alpaca_data.json").read_text(encoding="utf-8"))[:5000]
    rows = [chat(str(i), row["output"], f"{row['instruction']}\n{row['input']}") for i, row in enumerate(alpaca)]
    assert run_stage(stage, conversations(*rows)).rejected.height <= 5
