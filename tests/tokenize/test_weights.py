"""Loss weights of the data, from the file to the loss: each against numbers worked out by hand or by a plain loop."""

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sft_data import build as build_module
from sft_data.build import BuildResult, build
from sft_data.chat.preview import preview, render_preview
from sft_data.pack.shards import write_stream
from sft_data.pipeline import Pipeline
from sft_data.stage import run_stage
from sft_data.store.layout import arrow_batches, stream_files
from sft_data.store.verify import verify
from sft_data.tokenize.stage import Tokenize
from tests.frames import codes, conversations, talk, turn
from tests.store.versions import reseal
from tests.tokenize.makers import byte_tokenizer
from tests.tokenize.reading import text_of, tokenized
from tests.trees import ROOT, hashes

SAMPLES = str(ROOT / "samples" / "tokenizer")


def runs(folder: str, outcome: Any, row: int = 0) -> list[tuple[str, float]]:
    """Stretches of one weight of a row: what they say, and the weight. Read from the token table alone."""
    ids, labels, weights = outcome.tables["tokens"].row(row)
    assert all((label == -100) == (weight == 0) for label, weight in zip(labels, weights, strict=True))
    edges = [0, *(i for i in range(1, len(ids)) if weights[i] != weights[i - 1]), len(ids)]
    return [(text_of(folder, ids[a:b]), weights[a]) for a, b in pairwise(edges)]


# The stage.


def test_rows_of_weight_one_and_zero_get_no_column(tmp_path: Path):
    folder = byte_tokenizer(tmp_path)
    rows = [talk("a", "q", "yes"), talk("b", "q", turn("assistant", "no", weight=0.0), "q", "yes")]
    assert tokenized(folder, *rows).tables["tokens"].columns == ["input_ids", "labels"]


def test_weight_of_a_turn_stands_beside_its_tokens_with_the_stop_token(tmp_path: Path):
    folder = byte_tokenizer(tmp_path)
    first, second = turn("assistant", "there", weight=0.25), turn("assistant", "here", weight=1.5)
    outcome = tokenized(folder, talk("a", "where", first, "where", second))
    learnt = [run for run in runs(folder, outcome) if run[1]]
    assert learnt == [("there<|im_end|>", 0.25), ("here<|im_end|>", 1.5)]
    assert outcome.edited.height == 0


def test_weights_of_row_and_turn_multiply_and_zero_silences(tmp_path: Path):
    folder = byte_tokenizer(tmp_path)
    half, none = turn("assistant", "one", weight=0.5), turn("assistant", "two", weight=0.0)
    outcome = tokenized(folder, talk("a", "q", half, "q", none, "q", "three") | {"weight": 4.0})
    assert [run for run in runs(folder, outcome) if run[1]] == [("one<|im_end|>", 2.0), ("three<|im_end|>", 4.0)]
    assert [span["weight"] for span in outcome.tables["sidecar"]["spans"][0]] == [2.0, 4.0]


def test_row_of_weight_zero_is_rejected(tmp_path: Path):
    outcome = tokenized(byte_tokenizer(tmp_path), talk("a", "q", "yes") | {"weight": 0.0})
    assert codes(outcome.rejected) == {"a": "nothing-to-train"}


def test_weights_whose_product_is_no_weight_are_rejected(tmp_path: Path):
    rows = [talk("a", "q", turn("assistant", "yes", weight=1e29)) | {"weight": 1e29}]
    assert codes(tokenized(byte_tokenizer(tmp_path), *rows).rejected) == {"a": "weight-too-large"}


def test_training_on_all_leaves_out_turns_of_weight_zero_whoever_speaks(tmp_path: Path):
    folder = byte_tokenizer(tmp_path)
    asked, said = turn("user", "where", weight=0.0), turn("assistant", "there", weight=0.5)
    outcome = tokenized(folder, talk("a", "hello", "yes", asked, said), train_on="all")
    assert runs(folder, outcome) == [
        ("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>", 1.0),
        ("\n<|im_start|>user\nwhere<|im_end|>\n<|im_start|>assistant\n", 0.0),
        ("there<|im_end|>", 0.5),
        ("\n", 1.0),
    ]


# A version.


def rows() -> list[dict[str, Any]]:
    """Forty chats; every fifth has a turn of another weight, the last one alone stands in the last shard of 13."""
    made = []
    for n in range(40):
        messages = [
            {"role": "user", "content": f"Say the number {n}."},
            {"role": "assistant", "content": f"The number is {n}, {'very ' * (n % 4)}simple.", "weight": 1.0},
        ]
        if n % 5 == 4:
            messages[1]["weight"] = (0.5, 0.1, 2.0)[n % 3]
        made.append({"messages": messages})
    return made


def build_rows(folder: Path, data: list[dict[str, Any]], **options: Any) -> BuildResult:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    pipeline = Pipeline.model_validate(
        {
            "name": "weighted",
            "sources": [{"name": "chats", "path": str(path), "format": "messages"}],
            "split": {"validation": 0.3},
            "tokenize": {"tokenizer": SAMPLES, "max_length": 256},
            "pack": {"max_length": 256},
        }
    )
    return build(pipeline, folder / "store", **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return build_rows(tmp_path_factory.mktemp("weighted"), rows())


def table(built: BuildResult, name: str, split: str) -> pl.DataFrame:
    files = stream_files(Path(built.path), name, split)
    return pl.concat([batch for path in files for batch in arrow_batches(path)])


def test_every_file_of_a_weighted_version_has_the_column_and_verify_finds_it_whole(built: BuildResult):
    for split in ("train", "validation"):
        assert table(built, "tokens", split).columns == ["input_ids", "labels", "loss_weights"]
        assert table(built, "packs", split).columns == ["input_ids", "labels", "loss_weights", "seq_lengths"]
    assert verify(Path(built.path)).problems == []


def test_version_has_the_weights_of_its_data(built: BuildResult):
    wanted = {float(np.float32(row["messages"][1]["weight"])) for row in rows()}
    found = {
        w for split in ("train", "validation") for row in table(built, "packs", split)["loss_weights"] for w in row
    }
    assert found == wanted | {0.0}


def test_weighted_version_is_the_same_bytes_with_other_shards(
    built: BuildResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build_module, "LIGHT_ROWS", 0)
    other = build_rows(tmp_path, rows(), shard_rows=13)
    assert other.fingerprint == built.fingerprint
    before, after = hashes(Path(built.path)), hashes(Path(other.path))
    assert {n: h for n, h in after.items() if n.endswith(".arrow")} == {
        n: h for n, h in before.items() if n.endswith(".arrow")
    }


def test_weights_of_one_everywhere_are_the_same_bytes_as_none(tmp_path: Path):
    plain = [{"messages": [{k: m[k] for k in ("role", "content")} for m in row["messages"]]} for row in rows()]
    ones = [{"messages": [m | {"weight": 1.0} for m in row["messages"]]} for row in plain]
    a, b = (build_rows(tmp_path / name, data) for name, data in (("plain", plain), ("ones", ones)))
    streams = [{n: h for n, h in hashes(Path(r.path)).items() if n.endswith(".arrow")} for r in (a, b)]
    assert streams[0] == streams[1]


@pytest.mark.parametrize("name", ["tokens", "packs"])
def test_verify_finds_a_weight_that_is_not_its_spans(built: BuildResult, tmp_path: Path, name: str):
    shutil.copytree(Path(built.path).parent.parent, tmp_path / "store")
    folder = tmp_path / "store" / "weighted" / "v1"
    [path] = stream_files(folder, name, "train")
    frame = pl.concat(list(arrow_batches(path)))
    weights = frame["loss_weights"].to_list()
    weights[1][frame["labels"][1].to_list().index(frame["input_ids"][1][-2])] *= 3
    path.unlink()
    write_stream(path, frame.with_columns(loss_weights=pl.Series(weights, dtype=pl.List(pl.Float32))))
    reseal(folder)
    assert any("loss weights" in problem and name in problem for problem in verify(folder).problems)


def test_preview_shows_weights_in_text_and_page(built: BuildResult):
    folder = Path(built.path)
    found = preview(folder, n=40)
    for row in found.rows:
        assert row.weights is not None
        [span] = row.spans
        assert {w for w, label in zip(row.weights, row.labels, strict=True) if label != -100} == {span.weight}
    page = render_preview(found)
    assert ", weight 0.5" in page
    assert page.count('class="w') == sum(w not in (0, 1) for row in found.rows for w in row.weights or [])


# The loss.


def test_step_loss_is_the_weighted_mean_over_the_whole_step(built: BuildResult, tmp_path: Path):
    torch = pytest.importorskip("torch", reason="needs the extra `train`")
    from transformers import AutoModelForCausalLM

    from sft_data.evaluate import evaluate
    from sft_data.train import RandomModel, TrainConfig, train

    torch.set_num_threads(1)
    packs = table(built, "packs", "train")
    results = {
        (loss, cut): train(
            TrainConfig(
                model=RandomModel(hidden_size=16, intermediate_size=16), max_steps=1, learning_rate=1e-30, loss=loss,
                batch_packs=cut, gradient_accumulation=packs.height // cut, warmup=0,
            ),
            Path(built.path), tmp_path / f"{loss}{cut}",
        )
        for loss, cut in (("token-mean", 1), ("conversation-mean", packs.height))
    }  # fmt: skip
    model: Any = AutoModelForCausalLM.from_pretrained(results["token-mean", 1].model)

    def examples(name: str, split: str) -> list[tuple[list[int], list[int], list[float]]]:
        found = []
        for row in table(built, name, split).iter_rows(named=True):
            start = 0
            for size in row.get("seq_lengths", [len(row["input_ids"])]):
                found.append(tuple(row[k][start : start + size] for k in ("input_ids", "labels", "loss_weights")))
                start += size
        return found

    def sums(example: tuple[list[int], list[int], list[float]]) -> tuple[float, float, int]:
        ids, labels, weights = example
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
        at = [i for i, label in enumerate(labels) if label != -100]
        return -sum(weights[i] * float(logs[i - 1, ids[i]]) for i in at), sum(weights[i] for i in at), len(at)

    told = [sums(example) for example in examples("packs", "train")]
    by_token = sum(s for s, _, _ in told) / sum(w for _, w, _ in told)
    by_talk = sum(s / n for s, _, n in told) / sum(w / n for _, w, n in told)
    assert results["token-mean", 1].history[0].loss == pytest.approx(by_token, abs=1e-5)
    assert results["conversation-mean", packs.height].history[0].loss == pytest.approx(by_talk, abs=1e-5)
    held = [sums(example) for example in examples("tokens", "validation")]
    found = evaluate(results["token-mean", 1].model, Path(built.path)).metrics
    assert found.weighted_loss == pytest.approx(sum(s for s, _, _ in held) / sum(w for _, w, _ in held), abs=1e-5)
    assert not math.isclose(found.loss, found.weighted_loss or 0.0, abs_tol=1e-4)


def test_weights_that_differ_from_the_labels_are_refused_by_training(built: BuildResult, tmp_path: Path):
    pytest.importorskip("torch", reason="needs the extra `train`")
    from sft_data.errors import TrainError
    from sft_data.train import RandomModel, TrainConfig, train

    shutil.copytree(built.path, tmp_path / "v1")
    [path] = stream_files(tmp_path / "v1", "packs", "train")
    frame = pl.concat(list(arrow_batches(path)))
    path.unlink()
    write_stream(path, frame.with_columns(loss_weights=pl.col("loss_weights").list.eval(0 * pl.element())))
    with pytest.raises(TrainError, match="loss_weights and labels differ"):
        train(TrainConfig(model=RandomModel(hidden_size=16), max_steps=1), tmp_path / "v1", tmp_path / "run")


def test_stage_over_an_empty_frame_has_no_weights():
    outcome = run_stage(Tokenize(tokenizer=SAMPLES), conversations())
    assert outcome.tables["tokens"].columns == ["input_ids", "labels"]
