import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer

from sft_data.errors import ConfigError
from sft_data.mix import Mix, targets
from sft_data.schema import CONVERSATIONS
from sft_data.sizes import sizes
from sft_data.stage import apply_decision, run_dataset_stage
from tests.frames import chat, conversations, ids
from tests.trees import ROOT


def rows(**sizes: int) -> pl.DataFrame:
    return conversations(
        *[chat(f"{name}:{i}", "x" * 10, "yy", source=name) for name, n in sizes.items() for i in range(n)]
    )


def kept(frame: pl.DataFrame, **how: object) -> dict[str, int]:
    outcome = run_dataset_stage(Mix.model_validate(how), frame)
    assert outcome.kept.height + outcome.rejected.height == frame.height
    return dict(outcome.kept["source"].value_counts().sort("source").iter_rows())


def test_mix_without_settings_keeps_everything() -> None:
    assert kept(rows(a=30, b=7)) == {"a": 30, "b": 7}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"shares": {"a": 0.5}}, {"a": 40, "b": 40}),
        ({"shares": {"a": 0.2}}, {"a": 15, "b": 60}),
        ({"shares": {"a": 0.2, "b": 0.8}}, {"a": 15, "b": 60}),
        ({"weights": {"b": 2.0}}, {"a": 20, "b": 60}),
        ({"weights": {"a": 0.5}}, {"a": 20, "b": 60}),
        ({"weights": {"a": 0.0}}, {"b": 60}),
        ({"temperature": 1e12}, {"a": 40, "b": 40}),
        ({"temperature": 2.0, "total": 50}, {"a": 22, "b": 28}),  # sqrt(40) : sqrt(60)
        ({"total": 50}, {"a": 20, "b": 30}),
        ({"total": 500}, {"a": 40, "b": 60}),
        ({"shares": {"a": 0.9}, "total": 50}, {"a": 40, "b": 10}),  # a gives all it has, b fills up
        ({"caps": {"b": 5}}, {"a": 40, "b": 5}),
        ({"total": 10, "floors": {"a": 8}}, {"a": 8, "b": 2}),
        ({"total": 10, "floors": {"a": 8, "b": 7}}, {"a": 8, "b": 7}),  # floors hold in any case
        ({"total": 50, "caps": {"b": 5}}, {"a": 40, "b": 5}),
        ({"total": 40, "caps": {"b": 5}}, {"a": 35, "b": 5}),
        ({"caps": {"b": 5}, "floors": {"b": 9}}, {"a": 40, "b": 9}),
        ({"shares": {"a": 0.0}}, {"b": 60}),
    ],
)
def test_mix_of_forty_and_sixty_rows(how: dict[str, object], expected: dict[str, int]) -> None:
    assert kept(rows(a=40, b=60), **how) == expected


def test_mix_by_characters_counts_characters() -> None:
    assert kept(rows(a=10, b=10), measure="characters", caps={"a": 59}) == {"a": 4, "b": 10}  # 12 characters each


def test_mix_by_another_column_groups_its_nulls() -> None:
    frame = conversations(*[chat(str(i), "x", category=["code", "chat", None][i % 3]) for i in range(30)])
    outcome = run_dataset_stage(Mix(by="category", caps={"code": 2, "(none)": 3}), frame)
    assert dict(outcome.kept["category"].value_counts().iter_rows()) == {"code": 2, "chat": 10, None: 3}


def test_mix_tells_how_much_of_the_group_stays() -> None:
    outcome = run_dataset_stage(Mix(caps={"a": 1}), rows(a=3))
    assert set(outcome.rejected.select("code", "detail").rows()) == {("mixed-out", "a: 1 of 3 rows stay")}


def test_mix_of_less_is_a_part_of_a_mix_of_more() -> None:
    frame = rows(a=50, b=50)
    small, large = (set(ids(run_dataset_stage(Mix(total=n), frame).kept)) for n in (20, 60))
    assert small < large


def test_mix_with_another_seed_keeps_other_rows() -> None:
    frame = rows(a=50)
    assert ids(run_dataset_stage(Mix(total=20, seed=1), frame).kept) != ids(
        run_dataset_stage(Mix(total=20, seed=2), frame).kept
    )


def test_mix_does_not_depend_on_the_order_of_rows_or_the_cut_into_shards() -> None:
    frame, stage = rows(a=20, b=30), Mix(shares={"a": 0.3}, total=25)
    whole = run_dataset_stage(stage, frame)
    assert set(ids(run_dataset_stage(stage, frame.reverse()).kept)) == set(ids(whole.kept))
    decision = stage.decide([stage.sketch(frame.slice(at, 7)) for at in range(0, 50, 7)])
    assert apply_decision(stage, frame, decision).kept.equals(whole.kept)


SIZES = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 1000), min_size=1)


@given(SIZES, st.integers(1, 3000), st.floats(0.2, 20.0))
@settings(deadline=None)
def test_targets_with_a_total_meet_it_wherever_there_is_enough(sizes: dict[str, int], total: int, heat: float) -> None:
    takes = targets(sizes, Mix(total=total, temperature=heat))
    assert all(0 <= takes[group] <= sizes[group] for group in sizes)
    assert sum(takes.values()) == min(total, sum(sizes.values()))


@given(SIZES, st.integers(1, 3000), st.data())
@settings(deadline=None)
def test_targets_within_limits_are_at_one_level(sizes: dict[str, int], total: int, data: st.DataObject) -> None:
    """Oracle: one level for all, found by bisection, at which each group gives its part of it within its limits."""
    floors = {g: data.draw(st.integers(0, size)) for g, size in sizes.items()}
    caps = {g: data.draw(st.integers(0, size)) for g, size in sizes.items()}
    takes = targets(sizes, Mix(total=total, floors=floors, caps=caps))

    def at(level: float) -> dict[str, float]:
        return {g: max(floors[g], min(level * size, caps[g])) for g, size in sizes.items()}

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(at(middle).values()) > total else (middle, high)
    assert takes == pytest.approx(at(low), abs=1.001)
    least, most = sum(at(0.0).values()), sum(at(1.0).values())
    assert sum(takes.values()) == min(max(total, least), max(most, least))


def test_share_that_is_next_to_nothing_divides_as_any_other() -> None:
    assert targets({"a": 1, "b": 3}, Mix(total=2, shares={"b": 1e-308}, caps={"a": 0})) == {"a": 0, "b": 2}


@given(SIZES, st.integers(1, 3000), st.floats(0.0, 1.0), st.data())
@settings(deadline=None)
def test_shares_are_exact_as_long_as_they_and_the_others_have_enough(
    sizes: dict[str, int], total: int, share: float, data: st.DataObject
) -> None:
    sizes = {**sizes, "named": data.draw(st.integers(0, 3000))}
    caps = {g: data.draw(st.integers(0, size)) for g, size in sizes.items() if g != "named"}
    takes = targets(sizes, Mix(total=total, shares={"named": share}, caps=caps))
    others = sum(caps.values())
    if sizes["named"] >= total * share and others >= total * (1 - share):
        assert takes["named"] == pytest.approx(total * share, abs=1.0)
        assert sum(takes.values()) == total
    elif 0 < share < 1:  # a share of all leaves the others none
        assert sum(takes.values()) == min(total, others + sizes["named"])  # who has more makes up for the others


def test_general_data_keeps_its_part_where_a_group_has_too_little() -> None:
    frame = rows(new=300, few=10, chat=100, web=300)
    how: dict[str, object] = {"general": ["chat", "web"], "replay": 0.1, "total": 200, "weights": {"few": 30.0}}
    assert kept(frame, **how) == {"chat": 5, "few": 10, "new": 170, "web": 15}


@given(SIZES, st.data())
@settings(deadline=None)
def test_targets_without_a_total_have_the_wanted_shares(sizes: dict[str, int], data: st.DataObject) -> None:
    weights = {group: data.draw(st.floats(0.1, 5.0)) for group in sizes}
    takes = targets(sizes, Mix(weights=weights))
    wanted = {group: sizes[group] * weights[group] for group in sizes}
    assert any(takes[group] == sizes[group] for group in sizes)  # the largest such mix
    for group in sizes:
        assert takes[group] == pytest.approx(
            wanted[group] * sum(takes.values()) / sum(wanted.values()), abs=len(sizes) + 1
        )


def test_mix_that_names_a_group_that_is_not_there_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"no row has source `c`; there is a, b"):
        kept(rows(a=3, b=3), caps={"c": 5})
    with pytest.raises(ConfigError, match="no column `topic`"):
        kept(rows(a=3), by="topic")


def test_mix_with_shares_above_one_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"shares and replay add up to 1\.1"):
        Mix(shares={"a": 0.6, "b": 0.5})


def test_mix_of_an_empty_frame_is_empty() -> None:
    assert run_dataset_stage(Mix(caps={"a": 3}), pl.DataFrame(schema=CONVERSATIONS)).kept.height == 0


def mixed(frame: pl.DataFrame, **how: object) -> dict[str, tuple[int, float]]:
    """Group -> rows kept, copies of each."""
    found = run_dataset_stage(Mix.model_validate(how), frame).kept.group_by("source").agg(pl.len(), pl.mean("copies"))
    return {name: (rows, copies) for name, rows, copies in found.iter_rows()}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"repeat": 4.0}, {"a": (20, 1.0), "b": (80, 1.0)}),  # nothing asks for a repeat
        ({"shares": {"a": 0.5}, "repeat": 4.0}, {"a": (20, 4.0), "b": (80, 1.0)}),
        ({"shares": {"a": 0.5}, "repeat": 2.0}, {"a": (20, 2.0), "b": (40, 1.0)}),
        ({"temperature": 1e12, "repeat": 10.0}, {"a": (20, 4.0), "b": (80, 1.0)}),
        ({"total": 150, "repeat": 2.0}, {"a": (20, 1.5), "b": (80, 1.5)}),
        ({"floors": {"a": 50}, "repeat": 3.0}, {"a": (20, 2.5), "b": (80, 1.0)}),
        ({"shares": {"a": 0.5}, "repeat": 4.0, "caps": {"a": 30}}, {"a": (20, 1.5), "b": (80, 1.0)}),
    ],
)
def test_mix_repeats_groups_that_are_too_small(how: dict[str, object], expected: dict[str, object]) -> None:
    assert mixed(rows(a=20, b=80), **how) == expected


def test_mix_replays_general_data_beside_the_new() -> None:
    frame = rows(new=90, chat=100, web=300)
    found = kept(frame, general=["chat", "web"], replay=0.1)
    assert found == {"new": 90, "chat": 2, "web": 8}  # a tenth of 100, divided as the groups are


@given(SIZES, st.floats(1.0, 8.0), st.data())
@settings(deadline=None)
def test_targets_with_repeats_never_pass_the_limit_nor_lose_the_shares(
    sizes: dict[str, int], repeat: float, data: st.DataObject
) -> None:
    weights = {group: data.draw(st.floats(0.1, 5.0)) for group in sizes}
    takes = targets(sizes, Mix(weights=weights, repeat=repeat))
    wanted = {group: sizes[group] * weights[group] for group in sizes}
    for group, size in sizes.items():
        assert takes[group] <= size * repeat
        share = wanted[group] / sum(wanted.values())
        assert takes[group] == pytest.approx(share * sum(takes.values()), abs=len(sizes) + 1)
    assert sum(takes.values()) >= sum(targets(sizes, Mix(weights=weights)).values())


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"replay": 0.1}, "belong together"),
        ({"general": ["a"]}, "belong together"),
        ({"general": ["a"], "replay": 0.1, "shares": {"a": 0.2}}, "`a` stands in `general` and in `shares`"),
        ({"measure": "tokens"}, "`measure: tokens` and `tokenizer`"),
    ],
)
def test_mix_with_settings_that_contradict_each_other_is_refused(how: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Mix.model_validate(how)


def test_mix_counts_tokens_by_the_tokenizer_or_estimates_them() -> None:
    frame = conversations(chat("en", "The moon is round.", "Say something."), chat("zh", "月亮是圆的。", "说点什么。"))
    real = sizes(frame, "tokens", str(ROOT / "samples" / "tokenizer"))
    model = Tokenizer.from_file(str(ROOT / "samples" / "tokenizer" / "tokenizer.json"))
    for row, (prompt, answer) in enumerate([("Say something.", "The moon is round."), ("说点什么。", "月亮是圆的。")]):
        assert real[row] == len(model.encode(f"\n{prompt}\n{answer}", add_special_tokens=False).ids)
    # 34 bytes of English: 9; 4 + 5 Chinese characters and 2 stops (3 bytes each) and 2 line ends: 9 + 2
    assert sizes(frame, "estimated-tokens", "").to_list() == [9, 11]
    with pytest.raises(ConfigError, match=r"no tokenizer\.json in 'nowhere'"):
        sizes(frame, "tokens", "nowhere")


@given(st.data())
@settings(deadline=None, max_examples=20)
def test_any_mix_conserves_rows_and_knows_neither_their_order_nor_their_shards(data: st.DataObject) -> None:
    frame = rows(**data.draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 12), min_size=1)))
    groups = frame["source"].unique().sort().to_list()
    how: dict[str, object] = {
        "temperature": data.draw(st.sampled_from([1.0, 3.0])),
        "total": data.draw(st.one_of(st.none(), st.integers(1, 40))),
        "repeat": data.draw(st.sampled_from([1.0, 2.5])),
        "caps": data.draw(st.dictionaries(st.sampled_from(groups), st.integers(0, 12), max_size=2)),
        "measure": data.draw(st.sampled_from(["rows", "characters"])),
        "seed": data.draw(st.integers(0, 3)),
    }
    stage = Mix.model_validate(how)
    whole = run_dataset_stage(stage, frame)
    assert sorted(ids(whole.kept) + ids(whole.rejected)) == sorted(ids(frame))
    cut = data.draw(st.integers(1, frame.height))
    decision = stage.decide([stage.sketch(frame.slice(at, cut)) for at in range(0, frame.height, cut)])
    assert apply_decision(stage, frame, decision).kept.equals(whole.kept)
    turned = run_dataset_stage(stage, frame.reverse())
    assert set(ids(turned.kept)) == set(ids(whole.kept))
    assert whole.kept.filter(pl.col("copies") > how["repeat"]).is_empty()
    smaller = run_dataset_stage(stage.model_copy(update={"caps": dict.fromkeys(groups, 3)}), frame)
    for group in groups:  # what a cap takes from one group the others may make up for, each along its own draws
        few, many = sorted(({i for i in ids(m.kept) if i.startswith(f"{group}:")} for m in (smaller, whole)), key=len)
        assert few <= many
    if stage.total is None and not stage.caps:
        assert set(ids(smaller.kept)) <= set(ids(whole.kept))
