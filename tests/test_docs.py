"""README.md and docs/ are correct: generated parts, examples, commands, links and named symbols.

A Python block is executed unless the line before it is `<!-- not run: REASON -->`. The blocks of a page run in order and share their names.
A line such as "Its tests, `test_it.py`:" before a block writes the block to a file of that name first.
"""

from __future__ import annotations

import ast
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from cogapp import Cog
from samples import SMALL, TEXT
from typer.main import get_command

import gpt2demo
from gpt2demo.cli.commands import app
from gpt2demo.config import PRESETS, TrainConfig
from gpt2demo.interfaces import SamplingContext
from gpt2demo.plugins import Registry

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))]
OTHERS = [
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "exports/README.md",
    *(p.relative_to(ROOT).as_posix() for p in ROOT.glob("plugins/*/README.md")),
]
RENEW = ["cog", "-r", "-I", "tests", "README.md", "docs/*.md"]
PLUGIN = "gpt2demo_my_min_p"
MACHINE = r"/(?:work|home|root|Users|tmp|mnt|opt)/|\b[A-Z]:\\|pypi|pythonhosted|registry\.npm|index-url|localhost:\d"

pytestmark = pytest.mark.usefixtures("one_thread")
each_page = pytest.mark.parametrize("page", PAGES)
each_file = pytest.mark.parametrize("page", [*PAGES, *OTHERS])


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Attributes:
        line: the line of its first line of code, from 1.
        before: the nearest line above it that is not empty.
    """

    page: str
    line: int
    language: str
    text: str
    before: str

    @property
    def reason_not_run(self) -> str | None:
        marked = re.fullmatch(r"<!-- not run: (.+) -->", self.before)
        return marked[1] if marked else None

    @property
    def file(self) -> str | None:
        named = re.search(r"`([\w.]+\.(?:py|toml))`:$", self.before)
        return named[1] if named else None


@cache
def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def blocks(page: str, language: str) -> list[Block]:
    found, before, opened = [], "", None
    for number, line in enumerate(read(page).splitlines(), 1):
        if opened and line == "```":
            found.append(Block(page, opened[0], opened[1], "\n".join(opened[2]) + "\n", before))
            before, opened = line, None
        elif opened:
            opened[2].append(line)
        elif line.startswith("```"):
            opened = (number + 1, line[3:], [])
        elif line.strip():
            before = line
    assert opened is None, f"{page}: the block in line {opened and opened[0]} has no end"
    return [block for block in found if block.language == language]


def prose(page: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)


# ---------------------------------------------------------------------------------------------- generated parts


def test_generated_parts_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with redirect_stdout(io.StringIO()) as output:
        failed = Cog().main(["cog", "--check", "-I", "tests", *PAGES])
    assert not failed, f"run `.venv/bin/{' '.join(RENEW)}`\n{output.getvalue()}"


def test_contributing_names_the_command_that_renews_them() -> None:
    assert " ".join(RENEW) in read("CONTRIBUTING.md")


# ---------------------------------------------------------------------------------------------- Python examples


@pytest.fixture(scope="module")
def readme_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Run the Python example of the README with a tiny preset `nano`; return the folder and the output.

    Further examples use its text, `my.txt`, and its run, `mine`.
    """
    folder = tmp_path_factory.mktemp("readme")
    (folder / "my.txt").write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_tiny_preset(monkeypatch)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("GPT2DEMO_RUNS_DIR", str(folder / "runs"))
        yield folder, execute(blocks("README.md", "python")[:1])


@pytest.fixture
def workplace(readme_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder with the text `my.txt` and the run `mine`."""
    copytree(readme_run[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop(PLUGIN, None)


def use_tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    nano = PRESETS["nano"]
    model = nano.model.with_changes(n_layer=1, n_embd=16, n_head=2, n_positions=32)
    train = nano.train.with_changes(steps=SMALL["steps"], eval_batches=1, eval_every=10, sample_tokens=20)
    monkeypatch.setitem(PRESETS, "nano", nano.model_copy(update={"model": model, "train": train}))


def execute(found: list[Block]) -> str:
    """Execute blocks in one namespace, as a reader would type them; return what they print."""
    names: dict[str, Any] = {"__name__": "example"}
    with redirect_stdout(io.StringIO()) as output:
        for block in found:
            if block.file:
                Path(block.file).write_text(block.text, encoding="utf-8")
            if not block.reason_not_run:
                code = "\n" * (block.line - 1) + block.text  # so that a traceback shows the line of the page
                exec(compile(code, block.page, "exec"), names)
    return output.getvalue()


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md" and blocks(page, "python")])
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_python_examples_run(page: str, workplace: Path) -> None:
    execute(blocks(page, "python"))


def test_the_readme_trains_and_generates(readme_run: tuple[Path, str]) -> None:
    folder, output = readme_run
    assert "Ended(status='finished'" in output
    assert "top-p" in output
    assert (folder / "runs" / "mine" / "run.json").is_file()


@pytest.mark.parametrize("page", ["README.md", "docs/plugins.md"])
def test_the_example_plugin_is_a_sampler(page: str) -> None:
    example = next(block for block in blocks(page, "python") if "my-min-p" in block.text)
    names: dict[str, Any] = {"__name__": "example"}
    exec(example.text, names)
    sampler = names["gpt2demo_samplers"]()["my-min-p"]
    context = SamplingContext(torch.zeros(1, 1, dtype=torch.int64), 1)
    kept = sampler(threshold=0.1)(torch.tensor([[5.0, 4.0, 0.0]]), context).isfinite()
    assert kept.tolist() == [[True, True, False]]


def test_the_example_plugin_is_found_by_its_entry_point(workplace: Path) -> None:
    (module,) = [block for block in blocks("docs/plugins.md", "python") if block.file == f"{PLUGIN}.py"]
    (project,) = blocks("docs/plugins.md", "toml")
    execute([module])
    points = tomllib.loads(project.text)["project"]["entry-points"]["gpt2demo"]
    registry = Registry([EntryPoint(name, value, "gpt2demo") for name, value in points.items()])
    assert registry.part("samplers", "my-min-p").__module__ == PLUGIN
    assert not [plugin.error for plugin in registry.plugins if plugin.error]


def test_the_tests_of_the_example_plugin_pass(workplace: Path) -> None:
    names = save_example_plugin(workplace)
    names["test_unlikely_tokens_are_ruled_out"]()
    contract = names["TestContract"]()
    for name in dir(contract):
        if name.startswith("test_options"):  # the others draw examples, which takes longer
            getattr(contract, name)()


@pytest.mark.slow
def test_the_whole_contract_holds_for_the_example_plugin(workplace: Path) -> None:
    save_example_plugin(workplace)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_min_p.py"]
    environment = {**os.environ, "PYTHONPATH": str(workplace), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=workplace, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def save_example_plugin(folder: Path) -> dict[str, Any]:
    """Write the files of the example; return the names that its test module defines."""
    saved = [block for block in blocks("docs/plugins.md", "python") + blocks("docs/plugins.md", "toml") if block.file]
    assert {block.file for block in saved} == {f"{PLUGIN}.py", "pyproject.toml", "test_my_min_p.py"}
    for block in saved:
        (folder / str(block.file)).write_text(block.text, encoding="utf-8")
    return runpy.run_path(str(folder / "test_my_min_p.py"))


# ---------------------------------------------------------------------------------------------- shell examples


def commands(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each `gpt2demo …` of the shell blocks, as written and as words."""
    for block in blocks(page, "sh"):
        for line in block.text.splitlines():
            words = shlex.shlex(line, posix=True, punctuation_chars=";")
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if word == ";":
                    if command[:1] == ["gpt2demo"]:
                        yield f"{page}: {line}", command[1:]
                    command = []
                else:
                    command.append(word)


@each_page
def test_shell_examples_are_valid_commands(page: str) -> None:
    program = get_command(app)
    for line, words in commands(page):
        try:
            context = program.make_context("gpt2demo", words)
            name, command, rest = program.resolve_command(context, [*context._protected_args, *context.args])  # type: ignore[attr-defined]
            command.make_context(name, rest, parent=context)
        except Exception as error:
            raise AssertionError(f"{line}\n{error}") from None


def test_the_shell_examples_use_every_command() -> None:
    used = {words[0] for page in PAGES for _, words in commands(page)}
    assert get_command(app).commands.keys() - used <= {"install", "uninstall"}  # type: ignore[attr-defined]


def test_the_first_shell_blocks_install_and_test() -> None:
    """`.ci/run` executes the second shell block of the README."""
    install, test = (block.text.strip() for block in blocks("README.md", "sh")[:2])
    assert install.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e . &&")
    assert install.endswith("-m gpt2demo")
    assert test.startswith('python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ".[dev]" &&')
    assert test.endswith("pytest")
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@each_page
def test_every_block_has_a_language_and_marks_have_a_reason(page: str) -> None:
    assert set(re.findall(r"^```(\w*)$", read(page), re.MULTILINE)) <= {"", "sh", "python", "toml", "text"}
    assert read(page).count("<!-- not run") == len(
        re.findall(r"^<!-- not run: \S.{9,} -->\n```python$", read(page), re.MULTILINE)
    )


# ---------------------------------------------------------------------------------------------- links and names


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub derives them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@each_file
def test_links_lead_to_files_and_headings(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        assert file.resolve().is_relative_to(ROOT), f"{page}: {target} leads out of the repository"
        if anchor:
            assert anchor in anchors(file.resolve().relative_to(ROOT).as_posix()), f"{page}: {target}"


@each_page
def test_every_page_is_linked_from_the_readme_and_the_index(page: str) -> None:
    if page.startswith("docs/course/") and page != "docs/course/README.md":
        assert f"({page.removeprefix('docs/course/')})" in read("docs/course/README.md")
    elif page.startswith("docs/") and page != "docs/README.md":
        assert f"({page})" in read("README.md")
        assert f"({page.removeprefix('docs/')})" in read("docs/README.md")


@each_file
def test_no_path_of_a_machine_and_no_package_registry(page: str) -> None:
    assert re.findall(MACHINE, read(page)) == []


def lookups() -> list[tuple[str, str]]:
    """Return file and symbol of each row in the table "Where to look"."""
    return re.findall(
        r"^\| Where[^|]*\| \[([\w/.]+)\]\(\.\./[\w/.]+\) \| `([\w.]+)` \|$", read("docs/architecture.md"), re.MULTILINE
    )


@pytest.mark.parametrize(("file", "symbol"), lookups())
def test_the_table_of_places_names_existing_symbols(file: str, symbol: str) -> None:
    node: Any = ast.parse(read(file))
    for name in symbol.split("."):
        node = next((inner for inner in node.body if getattr(inner, "name", None) == name), None)
        assert node is not None, f"{file} has no {symbol}; correct the table in docs/architecture.md"


def test_the_table_of_places_is_read_whole() -> None:
    assert len(lookups()) == len(re.findall(r"^\| Where", read("docs/architecture.md"), re.MULTILINE)) > 20


def test_no_package_reexports_the_name_of_one_of_its_modules() -> None:
    """docs/architecture.md says so: such a name would be the module or the function, depending on what was imported first."""
    for init in (ROOT / "gpt2demo").rglob("__init__.py"):
        modules = {path.stem for path in init.parent.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
        body = ast.parse(init.read_text(encoding="utf-8")).body
        names = {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
        names |= {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert not names & modules, f"{init}: {names & modules}"


def test_the_version_is_the_same_everywhere() -> None:
    assert f'version = "{gpt2demo.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"## {gpt2demo.__version__}" in read("CHANGELOG.md")


def test_the_page_of_the_original_program_lists_its_settings() -> None:
    """They are the preset `seed`'s."""
    seed, page = PRESETS["seed"], read("docs/original.md")
    model, train = seed.model, seed.train
    assert f"{model.n_layer} layers, {model.n_head} heads, width {model.n_embd}, dropout {model.dropout:g}" in page
    assert f"{model.n_positions} tokens" in page
    assert f"{train.batch_size} sequences" in page
    assert f"{train.epochs:g} epochs" in page
    assert (train.learning_rate, train.schedule, train.weight_decay, train.grad_clip) == (3e-4, "constant", 0, 0)
    assert seed.tokenizer == "byte"
    assert TrainConfig.model_fields["optimizer"].default == "adamw", "without weight decay it is Adam"
