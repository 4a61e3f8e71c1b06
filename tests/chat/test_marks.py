from hypothesis import given
from hypothesis import strategies as st

from sft_data.chat.marks import TEXT_END, TEXT_START, TURN_END, TURN_START, cut_marked, split_turns

plain = st.text(st.sampled_from("ab é🎉\n"), max_size=5)


@given(st.lists(st.tuples(plain, plain), max_size=5), plain)
def test_turn_marks_come_off_and_leave_their_spans(turns, tail):
    text = "".join(f"{before}{TURN_START}{said}{TURN_END}" for before, said in turns) + tail
    unmarked, spans = split_turns(text)
    assert unmarked == "".join(before + said for before, said in turns) + tail
    assert [unmarked[start:end] for start, end in spans] == [said for _, said in turns]


def test_turn_marks_that_do_not_pair_are_refused():
    for text in (TURN_START, TURN_END, f"{TURN_START}{TURN_START}a{TURN_END}{TURN_END}", f"{TURN_END}{TURN_START}"):
        assert split_turns(text) is None


@given(st.lists(st.tuples(plain, plain), max_size=5), plain, st.lists(st.integers(0, 60), max_size=5))
def test_text_marks_cut_a_text_into_pieces_that_are_the_text(parts, tail, edges):
    text = "".join(f"{before}{TEXT_START}{said}{TEXT_END}" for before, said in parts) + tail
    pieces = cut_marked(text, edges)
    assert "".join(piece for piece, _ in pieces) == text.replace(TEXT_START, "").replace(TEXT_END, "")
    assert [piece for piece, marked in pieces if marked] == [said for _, said in parts if said]


def test_edges_cut_plain_pieces_and_no_marked_one():
    pieces = cut_marked(f"ab{TEXT_START}cd{TEXT_END}ef", [1, 3, 4, 5])
    assert pieces == [("a", False), ("b", False), ("cd", True), ("e", False), ("f", False)]


def test_text_marks_that_do_not_pair_are_refused():
    for text in (TEXT_START, TEXT_END, f"{TEXT_START}a{TEXT_START}b{TEXT_END}"):
        assert cut_marked(text) is None
