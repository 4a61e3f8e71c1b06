import random
import zlib

import pytest

from sft_data.filters.garbled import Garbled
from sft_data.stage import run_stage
from tests.frames import chat, codes, conversations, ids, talk

WORDS = ["river", "stone", "lamp", "winter", "quiet", "market", "paper", "garden", "seven", "yellow", "letter"]
PROSE = " ".join(random.Random(5).choices(WORDS, k=400))


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("The caf\ufffd is op\ufffdn.", "replacement-characters"),
        ("x" * 99 + "\ufffd", None),
        ("Z\u0327\u0335\u0320\u0337\u0321algo", "stacked-marks"),
        ("e\u0301\u0323\u0302\u0303", None),
        ("ที่นี่ สวัสดี हिन्दी שָׁלוֹם", None),
        ("and the " * 200, "repetition"),
        ("好的" * 300, "repetition"),
        ("and the " * 50, None),  # too short to judge
        (PROSE, None),
        ("\n".join(f"| {i} | {i * i} | {i**3} |" for i in range(80)), None),
    ],
)
def test_garbled_text_is_dropped_and_whole_text_is_kept(answer: str, code: str | None):
    assert codes(run_stage(Garbled(), conversations(chat("a", answer))).rejected).get("a") == code


def test_garbled_looks_for_damage_in_prompts_and_for_loops_in_answers_only():
    frame = conversations(
        talk("damaged", "Wh\ufffdt?", "Yes."),
        talk("quoted", "What is wrong here: " + "ha " * 500, "It repeats itself."),
        talk("earlier", "q", "ha " * 500, "q", "Fine."),
    )
    outcome = run_stage(Garbled(), frame)
    assert codes(outcome.rejected) == {"damaged": "replacement-characters", "earlier": "repetition"}
    assert ids(outcome.kept) == ["quoted"]


def test_garbled_ratio_is_that_of_zlib():
    answer = "0123456789abcdef" * 60
    ratio = len(zlib.compress(answer.encode())) / len(answer)
    frame = conversations(chat("a", answer))
    assert ids(run_stage(Garbled(min_ratio=ratio), frame).kept) == ["a"]
    rejected = run_stage(Garbled(min_ratio=ratio + 1e-6), frame).rejected
    assert rejected["detail"][0].startswith(f"packs to {round(ratio, 4)} <")
