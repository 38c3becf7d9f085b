"""Files are read with the bounded readers of `storage`: a pipe does not block them, and a huge file does not fill the memory."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gpt2demo
from gpt2demo.errors import Error, TokenizerError
from gpt2demo.tokenization.char import CharTokenizer
from gpt2demo.tokenization.huggingface import read_tokenizer

PACKAGE = Path(gpt2demo.__file__).parent
METHODS = {"open", "read_text", "read_bytes"}
FUNCTIONS = {"open", "safe_open", "load_file", "InferenceSession", "ParquetFile"}
LOADERS = {"load", "fromfile", "memmap", "mmap", "from_file", "from_pretrained"}
MODULES = {"np", "numpy", "json", "torch", "onnx", "mmap", "Tokenizer"}
ALLOWED = {
    "testing": "reads files that the contract's tests have just written",
    "bench": "reads files and pipes of its own processes",
    "export/onnx/run.py": "a script for exported folders, which depends on onnxruntime alone",
    "data/tokens.py: _load": "maps a regular file, and reads the pages that it uses",
    "data/tokens.py: __init__": "opens its own file to append",
    "data/sources.py: open_source": "opens regular files alone; texts of any size are read in parts",
    "data/formats.py: _read_parquet": "reads a file opened by `open_source`",
    "engines/exported.py: _check_references": "maps a regular file: its checksum has been compared",
    "engines/session.py: cpu_threads": "reads a file of the kernel",
    "engines/hardware.py: _high_water_mark": "reads a file of the kernel",
    "memory.py: available_memory": "reads files of the kernel",
    "inspection/page.py: asset": "reads a file of this package",
    "export/onnx": "reads files that the export has just written",
    "runs/weights.py: open_tensors": "maps a regular file, whose size is compared with the memory",
}
"""File, folder, or file and function -> why it may open files itself."""


def readers() -> Iterator[tuple[str, str]]:
    """Yield file and function of every call in the package that may read a file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                calls = (node for node in ast.walk(function) if isinstance(node, ast.Call))
                yield from ((path.relative_to(PACKAGE).as_posix(), function.name) for call in calls if reads(call))


def reads(call: ast.Call) -> bool:
    """Return whether a call may read a file: not one that opens it for writing."""
    words = [argument.value for argument in [*call.args, *(k.value for k in call.keywords)] if isinstance(argument, ast.Constant)]
    if any(isinstance(word, str) and word[:1] in ("w", "x", "a") and len(word) <= 3 for word in words):
        return False
    if isinstance(call.func, ast.Name):
        return call.func.id in FUNCTIONS
    if not isinstance(call.func, ast.Attribute):
        return False
    owner = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
    return (call.func.attr in METHODS and owner != "os") or (call.func.attr in LOADERS and owner in MODULES)


def test_files_are_read_with_the_bounded_readers_alone() -> None:
    found = set(readers())
    allowed = {(file, name) for file, name in found for known in ALLOWED if f"{file}: {name}".startswith(known)}
    assert found == allowed, "use read_bytes, read_json or open_regular of gpt2demo.storage"
    unused = [known for known in ALLOWED if not any(f"{file}: {name}".startswith(known) for file, name in found)]
    assert unused == []


def replace_with_pipe(file: Path) -> None:
    os.mkfifo(file)


def replace_with_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def replace_with_huge(file: Path) -> None:
    with file.open("wb") as opened:
        opened.truncate(2**40)


def replace_with_bytes(file: Path) -> None:
    file.write_bytes(b"\xff\x00")


KINDS = [replace_with_pipe, replace_with_device, replace_with_huge, replace_with_bytes, Path.mkdir]


@pytest.mark.skipif(os.name == "nt", reason="needs named pipes and devices")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("replace", KINDS, ids=lambda kind: kind.__name__)
def test_a_vocabulary_of_another_kind_is_refused(tmp_path: Path, replace: Callable[[Path], None]) -> None:
    replace(tmp_path / "characters.json")
    with pytest.raises(TokenizerError, match=r"characters\.json: cannot be read \("):
        CharTokenizer.load(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="needs named pipes and devices")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("replace", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_tokenizer_file_of_another_kind_is_refused_or_ignored(
    tmp_path: Path, name: str, replace: Callable[[Path], None]
) -> None:
    for other in ("vocab.json", "merges.txt"):
        (tmp_path / other).write_text("{}", encoding="utf-8")
    (tmp_path / name).unlink(missing_ok=True)
    replace(tmp_path / name)
    with pytest.raises(Error) as raised:
        read_tokenizer(tmp_path)
    assert "\n" not in str(raised.value)
