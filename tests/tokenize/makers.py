"""Small tokenizers made in the test: a few merges are enough to see where tokens begin and end."""

import json
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "the quick brown fox jumps over the lazy dog and says hello to everybody who is there",
    "user assistant system tool hello world answer question what is it the answer is here",
    "line one\nline two\n\nline three\n\n\n  indented text\n\n\n    more indented text",
] * 20

CHATML = (
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m['role'] + '\n' }}"
    "{%- if m['role'] == 'assistant' %}"
    "{%- generation %}{{- m['content'] + '<|im_end|>' }}{%- endgeneration %}"
    "{%- else %}{{- m['content'] + '<|im_end|>' }}{%- endif %}{{- '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
UNMARKED = CHATML.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")

# Reasoning is shown in the last turn only, as Qwen3 does it.
STRIPPING = (
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m['role'] + '\n' }}"
    "{%- if m.reasoning_content and loop.last %}{{- '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{%- endif %}"
    "{{- m['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

# Calls of tools behind the content.
CALLING = (
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{%- for call in m.tool_calls or [] %}"
    "{{- call.function.name + call.function.arguments|tojson }}"
    "{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@lru_cache(maxsize=1)
def _byte_level() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(text, special=True) for text in SPECIALS],
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return tokenizer.to_str()


def byte_tokenizer(
    folder: Path,
    template: str | None = CHATML,
    *,
    bos: bool = False,
    normalizer: normalizers.Normalizer | None = None,
    trim_offsets: bool = False,
    **config: str,
) -> str:
    """A folder with a byte-level BPE tokenizer of the GPT-2 kind."""
    tokenizer = Tokenizer.from_str(_byte_level())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))]
        )
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return write(folder, tokenizer, template, **config)


def sentencepiece_tokenizer(folder: Path, template: str = CHATML) -> str:
    """A folder with a BPE tokenizer that puts a space in front and falls back to bytes, of the Llama 2 kind."""
    alphabet = sorted({c for text in CORPUS for c in text if c not in " \n"} | {"▁"})
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet, "▁t", "he", "▁the", "an", "▁an"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "n"), ("▁", "an")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token=SPECIALS[0]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return write(folder, tokenizer, template)


def write(folder: Path, tokenizer: Tokenizer, template: str | None, **config: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return str(folder)
