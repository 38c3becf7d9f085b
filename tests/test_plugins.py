"""Plugins: found through entry points and loaded in isolation; a broken one is listed and does not affect the others."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest
from samples import SMALL_OPTIONS, Cli, assert_one_line_error

from gpt2demo import hookspecs, plugins
from gpt2demo.errors import PluginError
from gpt2demo.plugins import BUILTINS, KINDS, Registry
from gpt2demo.runs.folder import Run

ROOT = Path(__file__).parent.parent
SAMPLER = """
from gpt2demo import hookimpl
from gpt2demo.interfaces import Sampler

class {cls}(Sampler):
    def __call__(self, logits, context):
        return logits

@hookimpl
def gpt2demo_samplers():
    return {{"{name}": {cls}}}
"""

BROKEN = {
    "import error": ("import nothing_of_that_name", "nothing_of_that_name"),
    "syntax error": ("def (", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "SystemExit"),
    "misspelled hook": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_sampler(): return {}", "gpt2demo_sampler"),
    "wrong argument": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(x): return {}", "gpt2demo_samplers"),
    "hook raises": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(): raise KeyError('oops')", "oops"),
    "does not return a dict": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(): return ['x']", "not a dict"),
    "shadows a built-in": (SAMPLER.format(cls="Mine", name="temperature"), "'temperature': the name of a built-in part"),
}


def install(folder: Path, name: str, code: str) -> Path:
    """Install a plugin into a folder like pip does: a module and the metadata of its distribution."""
    folder.mkdir(exist_ok=True)
    module = f"gpt2demo_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gpt2demo-{name}\nVersion: 1.5\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[gpt2demo]\n{name} = {module}\n", encoding="utf-8")
    return folder


def points(folder: Path) -> list[EntryPoint]:
    """Return the entry points of the plugins in a folder."""
    return [point for found in distributions(path=[str(folder)]) for point in found.entry_points if point.group == "gpt2demo"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Add a folder to the module search path, like site-packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("gpt2demo_")]:
        del sys.modules[name]


def test_built_in_parts_are_registered_through_the_hooks() -> None:
    registry = Registry()
    assert [plugin.module for plugin in registry.plugins] == list(BUILTINS)
    assert all(plugin.status == "loaded" for plugin in registry.plugins)
    assert {"byte", "char"} <= registry.parts("tokenizers").keys()
    assert {"temperature", "top-k", "top-p"} <= registry.parts("samplers").keys()
    assert "tales" in registry.parts("datasets")
    assert "adamw" in registry.parts("optimizers")
    assert "onnx" in registry.parts("exporters")


def test_a_plugin_provides_its_parts(site: Path) -> None:
    install(site, "calm", SAMPLER.format(cls="Calm", name="calm"))
    registry = Registry(points(site))
    assert registry.part("samplers", "calm").__name__ == "Calm"
    listed = registry.plugins[-1]
    assert (listed.distribution, listed.version, listed.module) == ("gpt2demo-calm", "1.5", "gpt2demo_calm")
    assert listed.hooks == {"gpt2demo_samplers": ["calm"]}


@pytest.mark.parametrize(("code", "cause"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_listed_with_its_cause_and_the_others_work(site: Path, code: str, cause: str) -> None:
    install(site, "broken", code)
    install(site, "zealous", SAMPLER.format(cls="Zealous", name="zealous"))
    registry = Registry(points(site))
    broken = next(plugin for plugin in registry.plugins if plugin.distribution == "gpt2demo-broken")
    assert broken.status == "failed"
    assert broken.error
    assert cause in broken.error
    assert "\n" not in broken.error
    assert {"temperature", "zealous"} <= registry.parts("samplers").keys()
    assert registry.part("samplers", "temperature").__module__ == "gpt2demo.sampling.basic"


def test_a_name_that_two_plugins_provide_is_refused(site: Path) -> None:
    install(site, "one", SAMPLER.format(cls="One", name="same"))
    install(site, "two", SAMPLER.format(cls="Two", name="same"))
    registry = Registry(points(site))
    with pytest.raises(PluginError, match="provided by both gpt2demo-one 1.5 and gpt2demo-two 1.5; uninstall one of them"):
        registry.part("samplers", "same")


def test_an_unknown_name_lists_the_available_names_and_failed_plugins(site: Path) -> None:
    install(site, "broken", "import nothing_of_that_name")
    with pytest.raises(PluginError, match=r"sampler 'nope'.*temperature.*gpt2demo-broken 1.5 failed"):
        Registry(points(site)).part("samplers", "nope")


def test_training_events_reach_every_plugin_until_it_raises(site: Path, tmp_path: Path) -> None:
    hook = "from gpt2demo import hookimpl\nseen = []\n@hookimpl\ndef gpt2demo_training_event"
    install(site, "observer", f"{hook}(run, event): seen.append((run, event))")
    install(site, "raising", f"{hook}(event): raise OSError('disk full')")
    registry = Registry(points(site))
    (failure,) = registry.training_event(tmp_path, 0)
    assert "gpt2demo-raising 1.5 failed and is disabled: gpt2demo_training_event() raised OSError: disk full" in failure
    assert [registry.training_event(tmp_path, event) for event in (1, 2)] == [[], []]
    assert sys.modules["gpt2demo_observer"].seen == [(tmp_path, 0), (tmp_path, 1), (tmp_path, 2)]


def test_the_program_works_with_a_broken_plugin_installed(cli: Cli, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(install(tmp_path / "site", "broken", "raise RuntimeError('broken on purpose')"))}
    done = cli("plugins", "--json", env=env)
    assert done.returncode == 0, done.stderr
    (broken,) = [plugin for plugin in json.loads(done.stdout) if plugin["distribution"] == "gpt2demo-broken"]
    assert (broken["status"], broken["version"]) == ("failed", "1.5")
    assert "broken on purpose" in broken["error"]


@pytest.mark.usefixtures("fresh_plugins")
def test_a_broken_plugin_is_reported_only_where_it_is_used(invoke: Cli, site: Path, text_file: Path, run_copy: Run) -> None:
    install(site, "broken", "raise RuntimeError('broken on purpose')")
    assert invoke("train", text_file, *SMALL_OPTIONS, "--steps", 2).returncode == 0
    assert invoke("generate", "mine", "--max-new-tokens", 3).returncode == 0
    assert_one_line_error(invoke("generate", "mine", "--sampler", "broken"), 2, "broken on purpose")


@pytest.mark.usefixtures("fresh_plugins")
def test_no_plugins_loads_built_in_parts_only(invoke: Cli, site: Path) -> None:
    install(site, "calm", SAMPLER.format(cls="Calm", name="calm"))
    listed = json.loads(invoke("plugins", "--json", "--no-plugins").stdout)
    assert {plugin["distribution"] for plugin in listed} == {"gpt2demo"}


def test_an_installed_plugin_is_named_in_the_help(cli: Cli, invoke: Cli, tmp_path: Path) -> None:
    site = install(tmp_path / "site", "calm", SAMPLER.format(cls="Calm", name="calm"))
    assert "calm" in cli("generate", "--help", env={"PYTHONPATH": str(site)}).stdout
    assert "calm" not in invoke("generate", "--help").stdout


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_hook_and_a_function_that_lists_it(kind: str) -> None:
    assert hasattr(hookspecs, f"gpt2demo_{kind}")
    assert isinstance(getattr(plugins, kind)(), dict)


def test_every_hook_is_documented() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for name in vars(hookspecs):
        if name.startswith("gpt2demo_"):
            assert name in page
