"""Imports point upstream only, at the top of the file; what is imported late is listed here with its reason."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sft_data"

# Rooms in the order of the river. A room may import the rooms before it, and itself.
RIVER = [
    ["errors"],
    ["disk"],
    ["config_file"],
    ["words"],
    ["hashing"],
    ["row_sizes"],
    ["schema"],
    ["stage"],
    ["fingerprint"],
    ["store.manifest", "store.layout"],
    ["sources"],
    ["formats"],
    [
        "clean",
        "annotate",
        "filters",
        "privacy",
        "dedup",
        "evaluation_sets",
        "decontaminate",
        "sizes",
        "scores",
        "mix",
        "selection",
        "split",
    ],
    ["chat", "tokenize", "pack"],
    ["cells"],
    ["engine"],
    ["pipeline"],
    ["catalogue"],
    ["store", "report"],
    ["steps", "plan"],
    ["against"],
    ["reuse"],
    ["assemble", "publishing", "build", "check", "starter", "progress"],
    ["train", "evaluate", "export", "chat.preview"],
    ["screens"],
    ["web"],
    ["cli"],
    ["__main__"],
]
HEAVY = {
    *(
        "torch",
        "transformers",
        "prefect",
        "peft",
        "accelerate",
        "datasets",
        "datasketch",
        "ray",
        "starlette",
        "uvicorn",
    ),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def rank(module: str) -> int:
    found = -1
    best = ""
    for level, names in enumerate(RIVER):
        for name in names:
            fits = module == name or module.startswith(name + ".")
            if fits and len(name) > len(best):
                found, best = level, name
    return found


def name_of(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_imports(tree: ast.Module) -> list[str]:
    found = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module] if node.module != "sft_data" else [f"sft_data.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def test_every_room_has_its_place_in_the_river():
    assert [name_of(p) for p in modules() if name_of(p) and rank(name_of(p)) < 0] == []


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_upstream(path: Path):
    own = name_of(path)
    wrong = [
        target
        for target in top_imports(ast.parse(path.read_text()))
        if target.startswith("sft_data.") and rank(target.removeprefix("sft_data.")) > rank(own)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_heavy_libraries_are_imported_only_inside_train_evaluate_and_web(path: Path):
    own = name_of(path)
    if own.split(".")[0] in {"train", "evaluate", "web"}:
        return
    imported = {target.split(".")[0] for target in top_imports(ast.parse(path.read_text()))}
    assert imported & HEAVY == set()


@pytest.mark.parametrize("module", ["sft_data.build", "sft_data.cli", "sft_data.train.config", "sft_data.pipeline"])
def test_curation_needs_neither_torch_nor_prefect(module: str):
    program = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
