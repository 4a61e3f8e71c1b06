"""The model to train: loaded or described, fitted to the version's tokenizer, and given adapters where wanted."""

from __future__ import annotations

import contextlib
import difflib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from sft_data.errors import MissingExtraError, TrainError
from sft_data.store.manifest import Manifest, TokenizerEntry
from sft_data.train.config import RandomModel, TrainConfig, model_folder
from sft_data.train.packs import Survey

__all__ = [
    "add_adapters",
    "build_model",
    "check_tokenizer",
    "load_model",
    "tokenizer_of",
    "vocabulary_size",
]

SMALL_MODEL = 5_000_000  # parameters


def tokenizer_of(manifest: Manifest, version: Path) -> TokenizerEntry:
    """What the manifest tells of the tokenizer; TrainError for a version without tokens."""
    if manifest.tokenizer is None:
        raise TrainError(f"{version} holds conversations only; add `tokenize` and `pack` to its pipeline")
    return manifest.tokenizer


def vocabulary_size(version: Path, entry: TokenizerEntry) -> int:
    """One more than the largest id of the version's tokenizer, added tokens included."""
    path = version / "tokenizer" / "tokenizer.json"
    if not path.is_file():
        return entry.vocab_size
    return 1 + max(_vocabulary(path).values())


def _vocabulary(path: Path) -> dict[str, int]:
    vocabulary: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    return vocabulary


def build_model(
    config: TrainConfig,
    version: Path,
    entry: TokenizerEntry,
    found: Survey,
    *,
    attention: str | None,
    dtype: torch.dtype,
) -> Any:  # noqa: ANN401 - any causal language model
    """The model on the CPU, with room for every token and every position of the packs."""
    vocabulary = vocabulary_size(version, entry)
    if isinstance(config.model, RandomModel):
        context = max(found.longest, entry.pack_length or 0)
        model = random_model(config.model, vocabulary=vocabulary, context=context, entry=entry, attention=attention)
    else:
        model = load_model(config.model, attention, dtype)
        check_tokenizer(config.model, version)
    _fit_vocabulary(model, vocabulary, config.new_tokens)
    if found.largest_id >= model.get_input_embeddings().weight.shape[0]:
        raise TrainError(f"the packs hold token {found.largest_id}, which the version's tokenizer does not have")
    sees = getattr(model.config, "max_position_embeddings", None)
    if sees is not None and found.longest > sees:
        raise TrainError(
            f"the longest example has {found.longest} tokens but the model sees at most {sees}; "
            f"set `tokenize.max_length: {sees}` in the pipeline, or train a model with a longer context"
        )
    model.config.use_cache = False  # a cache switches the detection of packed examples off
    return model


def random_model(
    described: RandomModel, *, vocabulary: int, context: int, entry: TokenizerEntry, attention: str | None = None
) -> Any:  # noqa: ANN401
    """A model as described, with random weights."""
    known = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    if described.architecture not in known:
        near = difflib.get_close_matches(described.architecture, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; examples: llama, mistral, qwen3, gemma2, gpt2"
        raise TrainError(f"model.architecture: transformers has no causal model {described.architecture!r}{hint}")
    # Some compute the size of a head, others have a default for it that fits no small model.
    computed = isinstance(getattr(CONFIG_MAPPING[described.architecture], "head_dim", None), property)
    settings = AutoConfig.for_model(
        described.architecture,
        vocab_size=vocabulary,
        hidden_size=described.hidden_size,
        intermediate_size=described.intermediate_size,
        num_hidden_layers=described.layers,
        num_attention_heads=described.heads,
        num_key_value_heads=described.heads,
        **({} if computed else {"head_dim": described.hidden_size // described.heads}),
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=entry.stop_token_ids[0] if entry.stop_token_ids else None,
        pad_token_id=entry.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(described.seed)
        return AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            settings, attn_implementation=attention, dtype=torch.float32
        )


def load_model(name: str, attention: str | None = None, dtype: torch.dtype | None = None) -> Any:  # noqa: ANN401
    """A causal language model from a folder, a run's folder or the local cache; never from the network."""
    try:
        return AutoModelForCausalLM.from_pretrained(
            model_folder(name),
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, ImportError) as error:
        told = " ".join(str(error).split())[:300]
        raise TrainError(
            f"model {name!r} cannot be loaded: give a folder with config.json and weights, or a hub model that is "
            f"already in the local cache (`hf download {name}` puts it there). transformers says: {told}"
        ) from error


def check_tokenizer(name: str, version: Path) -> None:
    """Refuse a model whose own tokenizer gives the version's ids another meaning."""
    theirs, ours = Path(model_folder(name)) / "tokenizer.json", version / "tokenizer" / "tokenizer.json"
    if not theirs.is_file() or not ours.is_file():
        return
    meaning = {number: token for token, number in _vocabulary(ours).items()}
    differ = [(n, token) for token, n in _vocabulary(theirs).items() if meaning.get(n) != token]
    if differ:
        number, token = min(differ)
        raise TrainError(
            f"the version was made with another tokenizer than the model's: id {number} is {meaning.get(number)!r} in "
            f"the data and {token!r} in the model ({len(differ)} such ids). Build the version with the tokenizer in "
            f"{theirs.parent}"
        )


def _fit_vocabulary(model: Any, vocabulary: int, new_tokens: str) -> None:  # noqa: ANN401
    room = model.get_input_embeddings().weight.shape[0]
    if vocabulary <= room:
        return
    if new_tokens == "refuse":
        raise TrainError(
            f"the version's tokenizer has {vocabulary} tokens but the model only {room}; set `new_tokens: resize` to "
            f"add {vocabulary - room} embeddings, or build the version with the model's own tokenizer"
        )
    model.resize_token_embeddings(vocabulary)


def add_adapters(model: Any, config: TrainConfig) -> Any:  # noqa: ANN401
    """`model` with frozen weights and the adapters that `config` describes."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise MissingExtraError("Training adapters", "train") from error
    lora = config.lora
    settings = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # typed int, used as a factor
        lora_dropout=lora.dropout,
        target_modules=lora.target if isinstance(lora.target, str) else list(lora.target),
        use_rslora=config.method == "rslora",
        use_dora=config.method == "dora",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return get_peft_model(model, settings)
        except ValueError as error:
            raise TrainError(f"lora.target: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Messages and bars of transformers off: everything that matters is told by `progress` or raised."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            # What these libraries call deprecated in each other is nothing that a person can act on.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate)\b")
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to", module=r"peft\b")  # peft corrects it
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def calm_threads(model: Any) -> Iterator[None]:  # noqa: ANN401
    """One thread for a small model on a CPU: its operations are too short to be shared.

    A model of 0.1 million parameters took 3 to 5 times the processor time on two threads, and on a machine where
    others worked too, 5 to 40 times as long, because the threads wait for each other many thousand times a second.
    """
    threads = torch.get_num_threads()
    small = sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL
    calm = small and next(model.parameters()).device.type == "cpu"
    torch.set_num_threads(1 if calm else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
