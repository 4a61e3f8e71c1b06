"""What exactly will the model be trained on: rows or a pack of a version token by token, the trained ones told apart.

They are read from the version's own files and spelt with the version's own tokenizer: nothing is rendered again.
"""

from sft_data.chat.preview.page import render_preview
from sft_data.chat.preview.read import (
    Preview,
    PreviewPack,
    PreviewRow,
    PreviewSegment,
    PreviewSpan,
    preview,
    preview_pack,
)
from sft_data.chat.preview.terminal import print_preview

__all__ = [
    "Preview",
    "PreviewPack",
    "PreviewRow",
    "PreviewSegment",
    "PreviewSpan",
    "preview",
    "preview_pack",
    "print_preview",
    "render_preview",
]
