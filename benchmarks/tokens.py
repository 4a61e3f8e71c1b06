"""Tokenizing with loss masks against its peers: CPU seconds on one thread, from conversations to ids and labels.

    python benchmarks/tokens.py --data ../shared/data/alpaca_data.json --tokenizer ../shared/tokenizers/gpt2_chatml

Every contender runs in a process of its own, loads its tokenizer and does a few rows before the clock starts, and gets
the same conversations. `sft-data` does everything the stage does: rendering, both derivations, the proof on the tokens,
labels, sidecar, and writing the Arrow file. The two engines only encode texts that are rendered already: they are the
floor. TRL and LLaMA-Factory are left out where they are not installed; they start from a loaded Arrow dataset.
LLaMA-Factory asks for other versions: `--llama-factory-python` names the Python of an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARD = 8192
ONE_THREAD = dict.fromkeys(
    ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
) | {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

Rows = list[list[dict[str, str]]]


def conversations(data: Path) -> Rows:
    """Question and answer of every row of an Alpaca file."""
    return [
        [
            {"role": "user", "content": "\n".join(part for part in (row["instruction"], row.get("input")) if part)},
            {"role": "assistant", "content": row["output"]},
        ]
        for row in json.loads(data.read_text(encoding="utf-8"))
    ]


def ours(rows: Rows, tokenizer: str) -> Callable[[], tuple[int, int]]:
    """The stage over shards, as a build runs it."""
    import polars as pl

    from sft_data.pack.shards import write_stream
    from sft_data.schema import CONVERSATIONS, MESSAGE, conform
    from sft_data.tokenize.stage import Tokenize

    empty = dict.fromkeys(MESSAGE.to_schema())
    frame = conform(
        pl.DataFrame(
            {"id": [str(n) for n in range(len(rows))], "messages": [[empty | m for m in row] for row in rows]},
            schema={"id": pl.String, "messages": CONVERSATIONS["messages"]},
        ),
        CONVERSATIONS,
    ).with_columns(weight=pl.lit(1.0, dtype=pl.Float32))
    stage = Tokenize(tokenizer=tokenizer, max_length=2**20)
    stage.apply(frame.head(100))

    def run() -> tuple[int, int]:
        tokens = trained = 0
        with tempfile.TemporaryDirectory() as folder:
            for start in range(0, frame.height, SHARD):
                outcome = stage.apply(frame[start : start + SHARD])
                write_stream(Path(folder) / f"{start}.arrow", outcome.tables["tokens"])
                tokens += outcome.tables["sidecar"]["tokens"].sum()
                trained += outcome.tables["sidecar"]["trained"].sum()
        return tokens, trained

    return run


def transformers_rows(rows: Rows, tokenizer: str) -> Callable[[], tuple[int, int]]:
    """What most scripts do."""
    loaded = _transformers(tokenizer)

    def run() -> tuple[int, int]:
        tokens = trained = 0
        for row in rows:
            told = loaded.apply_chat_template(row, return_dict=True, return_assistant_tokens_mask=True)
            tokens += len(told["input_ids"])
            trained += sum(told["assistant_masks"])
        return tokens, trained

    return run


def trl(rows: Rows, tokenizer: str) -> Callable[[], tuple[int, int]]:
    """Making a trainer prepares its data; the model is as small as can be."""
    import datasets
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    loaded = _transformers(tokenizer)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(loaded), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
        )
    )
    data = datasets.Dataset.from_dict({"messages": rows})
    datasets.disable_caching()
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(), assistant_only_loss=True, max_length=None, bf16=False, use_cpu=True, report_to=[]
    )

    def run() -> tuple[int, int]:
        done = SFTTrainer(model, args=settings, train_dataset=data, processing_class=loaded).train_dataset
        flat = done.data.column("input_ids").combine_chunks().flatten()
        name = "assistant_masks" if "assistant_masks" in done.column_names else "labels"
        import numpy as np

        mask = done.data.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return len(flat), int((mask != -100).sum() if name == "labels" else np.sum(mask))

    return run


def llama_factory(rows: Rows, tokenizer: str) -> Callable[[], tuple[int, int]]:
    """LLaMA-Factory's supervised preparation with its ChatML template, mapped over a dataset as its loader does it."""
    import types
    from importlib.machinery import ModuleSpec

    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):  # it only reads sound with it
        sys.modules["torchaudio"] = types.ModuleType("torchaudio")
        sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)
    import datasets
    from llamafactory.data.processor import SupervisedDatasetProcessor
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    datasets.disable_progress_bars()
    datasets.disable_caching()
    loaded = _transformers(tokenizer)
    settings = DataArguments(template="chatml", cutoff_len=2**20)
    template = get_template_and_fix_tokenizer(loaded, settings)
    processor = SupervisedDatasetProcessor(template=template, tokenizer=loaded, processor=None, data_args=settings)
    nothing = [None] * len(rows)
    columns = {"_prompt": [row[:-1] for row in rows], "_response": [row[-1:] for row in rows]}
    columns |= {"_system": [""] * len(rows), "_tools": [""] * len(rows)}
    columns |= {"_images": nothing, "_videos": nothing, "_audios": nothing}
    data = datasets.Dataset.from_dict(columns)

    def run() -> tuple[int, int]:
        done = data.map(processor.preprocess_dataset, batched=True, remove_columns=data.column_names)
        labels = done.data.column("labels").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return len(labels), int((labels != -100).sum())

    return run


def _rendered(rows: Rows, tokenizer: str) -> list[str]:
    from sft_data.chat.marks import split_turns
    from sft_data.tokenize.tokenizer import load_tokenizer

    template = load_tokenizer(tokenizer).template
    return [(split_turns(template.render(row)) or ("", []))[0] for row in rows]


def hf_engine(rows: Rows, tokenizer: str) -> Callable[[], tuple[int, int]]:
    """The reference engine on rendered texts."""
    from tokenizers import Tokenizer

    texts, engine = _rendered(rows, tokenizer), Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    return lambda: (sum(len(e) for e in engine.encode_batch(texts, add_special_tokens=False)), 0)


def fast_engine(rows: Rows, tokenizer: str) -> Callable[[], tuple[int, int]]:
    """The fast engine on rendered texts."""
    import fastokens

    texts, engine = _rendered(rows, tokenizer), fastokens.Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    return lambda: (len(engine.encode_batch_flat(texts)[0]) // 4, 0)


def _transformers(tokenizer: str) -> Any:  # noqa: ANN401
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer)


CONTENDERS = {
    "sft-data": ours,
    "encode_batch": hf_engine,
    "fastokens": fast_engine,
    "transformers": transformers_rows,
    "trl": trl,
    "llama-factory": llama_factory,
}
TOLD = {
    "sft-data": "the whole stage, with proofs, written",
    "encode_batch": "Hugging Face tokenizers, encoding alone",
    "fastokens": "the fast engine, encoding alone",
    "transformers": "apply_chat_template with mask, row by row",
    "trl": "SFTTrainer's preparation, assistant_only_loss",
    "llama-factory": "its supervised preparation, ChatML",
}


def child(name: str, data: Path, tokenizer: str) -> None:
    """One contender, as JSON on the last line."""
    warnings.simplefilter("ignore")
    rows = conversations(data)
    try:
        run = CONTENDERS[name](rows, tokenizer)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    began = time.process_time()  # once per process: engines remember words, so a second pass would flatter them
    tokens, trained = run()
    cpu = time.process_time() - began
    print(json.dumps({"cpu": cpu, "rows": len(rows), "tokens": tokens, "trained": trained}))


def once(words: list[str]) -> dict[str, Any]:
    """What one process told."""
    told = subprocess.run(words, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    lines = told.stdout.strip().splitlines()
    if told.returncode or not lines:
        return {"failed": (told.stderr.strip().splitlines() or ["no output"])[-1]}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def main() -> None:
    """Run every contender in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "alpaca_data.json")
    parser.add_argument("--tokenizer", default=str(ROOT.parent / "shared" / "tokenizers" / "gpt2_chatml"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--llama-factory-python", default=sys.executable, help="Python of an environment that has it")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.data, options.tokenizer)
        return
    print(f"{'contender':14} {'CPU s':>7} {'rows/CPU-s':>11} {'tokens':>10} {'trained':>10} {'x ours':>7}")
    own = None
    for name in options.only:
        python = options.llama_factory_python if name == "llama-factory" else sys.executable
        words = [python, __file__, "--child", name, "--data", str(options.data)]
        words += ["--tokenizer", options.tokenizer]
        result = min((once(words) for _ in range(options.repeats)), key=lambda told: told.get("cpu", 0.0))
        if "failed" in result:
            print(f"{name:14} failed: {result['failed']}")
            continue
        if "missing" in result:
            print(f"{name:14} left out: {result['missing']}")
            continue
        own = own or (result["cpu"] if name == "sft-data" else None)
        ratio = f"{result['cpu'] / own:7.1f}" if own else ""
        print(
            f"{name:14} {result['cpu']:7.2f} {result['rows'] / result['cpu']:11,.0f} {result['tokens']:10,} "
            f"{result['trained']:10,} {ratio}  {TOLD[name]}"
        )


if __name__ == "__main__":
    main()
