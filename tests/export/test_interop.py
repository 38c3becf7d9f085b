"""Other programs load the folder of `gpt2demo export --onnx` without changes and generate the same tokens.

Bare onnxruntime is always tested. The other programs (`pytest -m interop`) are installed in separate environments, which are kept in
pytest's cache or in GPT2DEMO_INTEROP_DIR; if one cannot be installed, its tests are skipped with the installer's last message. A script
in `interop/` runs in each environment. It does not import gpt2demo; it reads a request and returns the generated ids.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import onnx
import pytest
import torch
from playwright.sync_api import Page, Route, sync_playwright
from samples import decided_model

import gpt2demo
from gpt2demo.engines.onnx import OnnxEngine
from gpt2demo.export.export import export_model
from gpt2demo.runs.checkpoint import load_tokenizer, save_tokenizer
from gpt2demo.runs.weights import save_checkpoint
from gpt2demo.tokenization.bpe import BpeTokenizer
from gpt2demo.tokenization.byte import ByteTokenizer

PEERS = {
    "plain": ["onnxruntime>=1.31,<2", "numpy>=2,<3", "tokenizers>=0.22,<1"],
    "genai": ["onnxruntime-genai>=0.18,<0.19"],
    "optimum": [f"torch=={torch.__version__.partition('+')[0]}", "optimum-onnx[onnxruntime]>=0.1,<0.2"],
}
"""Packages in the environment of each program."""
TRANSFORMERS_JS = "@huggingface/transformers@~4.3.1"

SCRIPTS = Path(__file__).parents[1] / "interop"
PROMPTS = [[5], [40, 41, 255], np.random.default_rng(3).integers(0, 255, 17).tolist()]
"""Prompts of different lengths. One is a single id; one ends with the highest id, which is genai's end-of-text id."""
COUNT = 24
TEXTS = ["Line 12: the quick Zoë 🦊\n\tsaid", "the quick", "  two  <b> spaces'll "]

Rows = list[list[int]]

interop = [pytest.mark.interop, pytest.mark.timeout(1800)]  # installing takes minutes
all_dtypes = pytest.mark.parametrize("dtype", [pytest.param(dtype, marks=interop) for dtype in ("fp32", "int8", "int4", "fp16")])
without_fp16 = pytest.mark.parametrize("dtype", [pytest.param(dtype, marks=interop) for dtype in ("fp32", "int8", "int4")])
text_tokenizers = pytest.mark.parametrize("tokenizer", [pytest.param(name, marks=interop) for name in ("byte", "bpe")])


class Request(TypedDict):
    """JSON input of a script. Its output has the ids generated after each prompt, in several modes."""

    folder: str
    prompts: Rows
    count: int
    texts: list[str]  # for the runtime's own tokenizer
    search: dict[str, Any]  # search settings of genai that differ from genai_config.json


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that trains a model until its text varies: `runs("byte")`."""
    folder = tmp_path_factory.mktemp("interop")
    lines = (f"Line {n}: the quick brown fox jumps over {n % 7} lazy dogs, said Zoë.\n" for n in range(300))
    (folder / "text.txt").write_text("".join(lines), encoding="utf-8")
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 48, "batch_size": 8}

    @functools.cache
    def run(tokenizer: str) -> Path:
        settings = {**shape, "steps": 200, "learning_rate": 5e-3, "eval_batches": 1, "threads": 1}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GPT2DEMO_RUNS_DIR", str(folder))
            list(gpt2demo.train(folder / "text.txt", run=tokenizer, tokenizer=tokenizer, **settings))
        return folder / tokenizer

    return run


@pytest.fixture(scope="module")
def exports(runs, tmp_path_factory) -> Callable[..., Path]:
    """Return a function that exports it: `exports("int8")`."""
    folder = tmp_path_factory.mktemp("exports")

    @functools.cache
    def export(dtype: str, tokenizer: str = "byte") -> Path:
        return export_model(runs(tokenizer), dtype=dtype, output=folder / f"{tokenizer}-{dtype}", report=lambda line: None)

    return export


def greedy(folder: Path, count: int | None = COUNT) -> Rows:
    """Return the ids that our engine generates after the prompts: `count`, or up to the end of the context."""
    engine, rows = OnnxEngine(folder, "cpu"), []
    for prompt in PROMPTS:
        engine.reset()
        ids = [int(engine.feed(np.array([prompt])).argmax())]
        while len(ids) < (count or engine.n_positions - len(prompt)):
            ids.append(int(engine.feed(np.array([ids[-1:]])).argmax()))
        rows.append(ids)
    assert len(set(rows[0])) > 10  # a repetitive text would hide a wrong position or mask
    assert rows[0] != rows[1] != rows[2]
    return rows


def request_for(folder: Path, **search: Any) -> Request:
    return {"folder": str(folder), "prompts": PROMPTS, "count": COUNT, "texts": TEXTS, "search": search}


def run_script(python: str | Path, script: str, request: Request) -> dict[str, Any]:
    """Run a script in another environment and return its result."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "PYTHONUTF8": "1"}
    command = [python, SCRIPTS / script]
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, env=environment, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------------------------------- bare onnxruntime


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function that exports a model with random weights, which saves the time of a training: `untrained("int8")`."""
    folder = tmp_path_factory.mktemp("untrained")
    save_tokenizer(ByteTokenizer(), "byte", folder / "tokenizer")
    model = decided_model(48)
    optimizer = torch.optim.SGD(model.parameters())
    source = save_checkpoint(
        folder / "checkpoints", model, folder / "tokenizer", optimizer, {"step": 0, "validation_loss": None}
    ).path
    quiet = {"samplers": ["temperature"], "report": lambda line: None}
    return functools.cache(lambda dtype: export_model(source, dtype=dtype, output=folder / dtype, **quiet))


@pytest.mark.parametrize("dtype", ["fp32", "int8", "fp16"])
def test_bare_onnxruntime_generates_the_same_tokens(untrained, dtype):
    """The cache grows by concatenation. Prompts are read at once, in chunks, and in a batch padded on the left."""
    result = run_script(sys.executable, "bare.py", request_for(untrained(dtype)))
    assert not result.pop("modules")
    expected = greedy(untrained(dtype))
    assert result == {"alone": expected, "chunked": expected, "batch": expected}


def test_a_tokenizer_json_has_every_key_that_transformers_js_requires():
    names = {"normalizer", "pre_tokenizer", "post_processor", "decoder", "model"}
    for tokenizer in (ByteTokenizer(), BpeTokenizer.train(TEXTS, vocab_size=260)):
        assert names <= json.loads(tokenizer.tokenizer_json()).keys()


def test_an_int8_model_uses_only_operators_that_browsers_have(untrained):
    """The onnxruntime for WebAssembly that transformers.js loads has no `GatherBlockQuantized`."""
    model = onnx.load(untrained("int8") / "model.onnx")
    assert {node.op_type for node in model.graph.node if node.domain == "com.microsoft"} == {
        "GroupQueryAttention",
        "SkipLayerNormalization",
        "FastGelu",
        "MatMulNBits",
    }


# ---------------------------------------------------------------------------------------------- separate environments


@pytest.fixture(scope="session")
def place(pytestconfig) -> Path:
    """Return the folder in which the environments are kept between test runs."""
    return Path(os.environ.get("GPT2DEMO_INTEROP_DIR") or pytestconfig.cache.mkdir("interop")).absolute()


@pytest.fixture(scope="session")
def peer(place) -> Callable[[str], Path]:
    """Return a function that installs a program's environment on the first call and returns its Python: `peer("genai")`."""
    return functools.cache(lambda name: environment(place / name, PEERS[name]))


def environment(folder: Path, requirements: list[str]) -> Path:
    """Create a virtual environment with packages; return its Python."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    finished = folder / "requirements.txt"  # written last
    if not finished.is_file() or finished.read_text() != "\n".join(requirements):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements])
        finished.write_text("\n".join(requirements))
    return python


def install(command: list[str | Path]) -> str:
    """Run an installer and return its output. If it fails, skip the test with its last message."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot be installed: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout


# ---------------------------------------------------------------------------------------------- run.py


@all_dtypes
def test_run_py_needs_only_onnxruntime_numpy_and_tokenizers(exports, peer, dtype):
    """With a temperature of 0 it is greedy."""
    folder = exports(dtype)
    command = [peer("plain"), folder / "run.py", "Line 12", "--temperature.value", "0"]
    done = subprocess.run(command, capture_output=True, check=False)
    expected = "".join(gpt2demo.load(folder, device="cpu").generate("Line 12", max_new_tokens=200, temperature=0))
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().rstrip("\r\n") == f"Line 12{expected}".rstrip("\n")


# ---------------------------------------------------------------------------------------------- Optimum


@all_dtypes
def test_optimum_generates_the_same_tokens(exports, peer, dtype):
    """Single prompts, with and without bound buffers, and a batch padded on the left; its tokenizer returns our ids."""
    result = run_script(peer("optimum"), "with_optimum.py", request_for(exports(dtype)))
    encoded, expected = result.pop("encoded"), greedy(exports(dtype))
    assert result == {"alone": expected, "bound": expected, "batch": expected}
    assert encoded == ids_of(exports(dtype))


def ids_of(folder: Path) -> Rows:
    """Return the ids of the texts from our tokenizer."""
    tokenizer, _ = load_tokenizer(folder / "tokenizer")
    return [tokenizer.encode(text) for text in TEXTS]


# ---------------------------------------------------------------------------------------------- onnxruntime-genai


@all_dtypes
@pytest.mark.parametrize("shared", [None, False])
def test_genai_generates_the_same_tokens(exports, peer, dtype, shared):
    """With one buffer for past and present, as in its configuration, and with a growing past.

    Prompts at once, in chunks, after rewinding, up to the end of the context, and in a batch padded on the right.
    """
    search = {} if shared is None else {"past_present_share_buffer": shared}
    result = run_script(peer("genai"), "with_genai.py", request_for(exports(dtype), **search))
    expected = greedy(exports(dtype))
    modes = ("alone", "chunked", "rewound", "batch")
    assert {mode: result[mode] for mode in modes} == dict.fromkeys(modes, expected)
    assert result["full"] == greedy(exports(dtype), count=None)


@text_tokenizers
def test_genai_has_the_same_tokenizer(exports, peer, tokenizer):
    folder = exports("fp32", tokenizer)
    result = run_script(peer("genai"), "with_genai.py", request_for(folder))
    assert result["encoded"] == ids_of(folder)
    assert result["streamed"] == TEXTS


# ---------------------------------------------------------------------------------------------- transformers.js


@pytest.fixture(scope="session")
def packages(place) -> dict[str, Path]:
    """Download and unpack transformers.js and its onnxruntime for browsers. Their code only runs in the browser."""
    if not shutil.which("npm"):
        pytest.skip("cannot be installed: npm is not in PATH")
    transformers = unpacked(TRANSFORMERS_JS, place / "transformers.js")
    version = json.loads((transformers / "package.json").read_text(encoding="utf-8"))["dependencies"]["onnxruntime-web"]
    return {
        "transformers": transformers / "dist",
        "ort": unpacked(f"onnxruntime-web@{version}", place / "onnxruntime-web") / "dist",
    }


def unpacked(package: str, folder: Path) -> Path:
    """Download and unpack an npm package; return its folder."""
    finished = folder / "requirements.txt"  # written last
    if not finished.is_file() or finished.read_text() != package:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        archive = install([shutil.which("npm"), "pack", package, "--pack-destination", folder]).split()[-1]
        with tarfile.open(folder / archive) as opened:
            opened.extractall(folder, filter="data")
        finished.write_text(package)
    return folder / "package"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without logging."""

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine during the block; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def page_of(site: str) -> Iterator[tuple[Page, list[str]]]:
    """Open a page in Chromium that can reach only one site; yield the page and the list of blocked URLs."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("Chromium is not in PATH")
    blocked: list[str] = []

    def guard(route: Route) -> None:
        if route.request.url.startswith((f"{site}/", "blob:", "data:")):
            route.continue_()
        else:
            blocked.append(route.request.url)
            route.abort()

    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    arguments += ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]  # a GPU emulated on the CPU
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=arguments) as browser:
        page = browser.new_page()
        page.route("**/*", guard)
        page.goto(f"{site}/index.html")
        page.wait_for_function("'run' in window")
        yield page, blocked


def in_browser(folder: Path, packages: dict[str, Path], site: Path, device: str = "wasm") -> dict[str, Any]:
    """Run transformers.js on an export, which is served without changes; return the result."""
    site.mkdir()
    for name, target in {**packages, "models": folder.parent, "interop": SCRIPTS}.items():
        (site / name).symlink_to(target, target_is_directory=True)
    (site / "index.html").write_text('<script type="module" src="/interop/transformers.mjs"></script>')
    request = {**request_for(folder), "folder": folder.name, "options": {"subfolder": "", "device": device}}
    with served(site) as address, page_of(address) as (page, blocked):
        if device == "webgpu" and not page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
            pytest.skip("this Chromium has no WebGPU")
        result = page.evaluate("request => run(request)", request)
    assert not blocked
    return result


NEAR_TIE = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.05, "int4": 0.05}
"""Kernels for browsers round 8-bit activations differently. If two logits are closer than this, either may be the largest."""


def assert_same_tokens(folder: Path, rows: Rows, near_tie: float) -> None:
    """Check the ids generated after each prompt, up to the first near-tie of a row."""
    engine = OnnxEngine(folder, "cpu")
    for prompt, ids, expected in zip(PROMPTS, rows, greedy(folder), strict=True):
        different = [index for index, (a, b) in enumerate(zip(ids, expected, strict=True)) if a != b]
        if different:
            engine.reset()
            logits = engine.feed(np.array([prompt + expected[: different[0]]]))[0]
            assert logits[expected[different[0]]] - logits[ids[different[0]]] < near_tie


@all_dtypes
def test_transformers_js_generates_the_same_tokens(exports, packages, tmp_path, dtype):
    """In a browser without a network, on WebAssembly; single prompts and a batch padded on the left."""
    result = in_browser(exports(dtype), packages, tmp_path / "site")
    for mode in ("alone", "batch"):
        assert_same_tokens(exports(dtype), result[mode], NEAR_TIE[dtype])


@without_fp16
def test_transformers_js_generates_the_same_tokens_on_webgpu(exports, packages, tmp_path, dtype):
    """The GPU is emulated on the CPU; it has no float16."""
    result = in_browser(exports(dtype), packages, tmp_path / "site", "webgpu")
    for mode in ("alone", "batch"):
        assert_same_tokens(exports(dtype), result[mode], NEAR_TIE[dtype])


@text_tokenizers
def test_transformers_js_has_the_same_tokenizer(exports, packages, tmp_path, tokenizer):
    folder = exports("fp32", tokenizer)
    result = in_browser(folder, packages, tmp_path / "site")
    assert result["encoded"] == ids_of(folder)
    assert result["decoded"] == TEXTS
    text = "".join(gpt2demo.load(folder, device="cpu").generate(TEXTS[1], max_new_tokens=COUNT, temperature=0))
    assert result["text"] == TEXTS[1] + text
