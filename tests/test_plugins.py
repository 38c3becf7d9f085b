"""Plugins: found through entry points, each in its own guard; one that is broken is listed and everything else goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest
from samples import Cli

from gpt2demo import hookspecs, plugins
from gpt2demo.errors import PluginError
from gpt2demo.plugins import BUILTINS, KINDS, Registry

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
    "misspelt hook": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_sampler(): return {}", "gpt2demo_sampler"),
    "wrong argument": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(x): return {}", "gpt2demo_samplers"),
    "hook raises": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(): raise KeyError('oops')", "oops"),
    "gives no dict": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(): return ['x']", "not a dict"),
    "shadows a built-in": (SAMPLER.format(cls="Mine", name="temperature"), "'temperature': a built-in has this name"),
}


def install(folder: Path, name: str, code: str) -> Path:
    """What pip leaves behind, without pip: a module and the metadata of its distribution."""
    folder.mkdir(exist_ok=True)
    module = f"gpt2demo_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gpt2demo-{name}\nVersion: 1.5\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[gpt2demo]\n{name} = {module}\n", encoding="utf-8")
    return folder


def points(folder: Path) -> list[EntryPoint]:
    return [point for found in distributions(path=[str(folder)]) for point in found.entry_points if point.group == "gpt2demo"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is searched for modules, as site-packages is."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("gpt2demo_")]:
        del sys.modules[name]


def test_the_built_in_parts_come_through_the_hooks() -> None:
    registry = Registry()
    assert [plugin.module for plugin in registry.plugins] == list(BUILTINS)
    assert all(plugin.status == "loaded" for plugin in registry.plugins)
    assert {"byte", "char"} <= registry.parts("tokenizers").keys()
    assert {"temperature", "top-k", "top-p"} <= registry.parts("samplers").keys()
    assert "tales" in registry.parts("datasets")
    assert "adamw" in registry.parts("optimizers")
    assert "onnx" in registry.parts("exporters")


def test_a_plugin_gives_its_parts(site: Path) -> None:
    install(site, "calm", SAMPLER.format(cls="Calm", name="calm"))
    registry = Registry(points(site))
    assert registry.part("samplers", "calm").__name__ == "Calm"
    listed = registry.plugins[-1]
    assert (listed.distribution, listed.version, listed.module) == ("gpt2demo-calm", "1.5", "gpt2demo_calm")
    assert listed.hooks == {"gpt2demo_samplers": ["calm"]}


@pytest.mark.parametrize(("code", "cause"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_listed_with_its_cause_and_the_rest_goes_on(site: Path, code: str, cause: str) -> None:
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


def test_two_owners_of_one_name_are_refused_by_name(site: Path) -> None:
    install(site, "one", SAMPLER.format(cls="One", name="same"))
    install(site, "two", SAMPLER.format(cls="Two", name="same"))
    registry = Registry(points(site))
    with pytest.raises(PluginError, match="gpt2demo-one 1.5 and gpt2demo-two 1.5 ; uninstall one of them"):
        registry.part("samplers", "same")


def test_an_unknown_name_says_which_there_are_and_what_failed(site: Path) -> None:
    install(site, "broken", "import nothing_of_that_name")
    with pytest.raises(PluginError, match=r"sampler 'nope'.*temperature.*gpt2demo-broken 1.5 failed"):
        Registry(points(site)).part("samplers", "nope")


def test_a_hook_that_sees_events_is_told_all_and_switched_off_when_it_raises(site: Path, tmp_path: Path) -> None:
    watcher = (
        "from gpt2demo import hookimpl\nseen = []\n@hookimpl\ndef gpt2demo_training_event(run, event): seen.append((run, event))"
    )
    install(site, "watcher", watcher)
    install(
        site, "angry", "from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_training_event(event): raise OSError('no room')"
    )
    registry = Registry(points(site))
    assert [len(registry.training_event(tmp_path, n)) for n in range(3)] == [1, 0, 0]
    assert sys.modules["gpt2demo_watcher"].seen == [(tmp_path, 0), (tmp_path, 1), (tmp_path, 2)]


def test_the_program_goes_on_with_a_broken_plugin_installed(cli: Cli, text_file: Path, tmp_path: Path) -> None:
    """The real thing: a broken distribution on the path of the real command line."""
    site = install(tmp_path / "site", "broken", "raise RuntimeError('broken on purpose')")
    env = {"PYTHONPATH": str(site)}
    assert cli("--help", env=env).returncode == 0
    trained = cli(
        "train",
        text_file,
        "--run",
        "a",
        "--steps",
        2,
        "--n-embd",
        16,
        "--n-head",
        2,
        "--n-layer",
        1,
        "--eval-batches",
        1,
        env=env,
    )
    assert trained.returncode == 0, trained.stderr
    assert cli("generate", "a", "--max-new-tokens", 3, env=env).returncode == 0
    listed = json.loads(cli("plugins", "--json", env=env).stdout)
    (broken,) = [plugin for plugin in listed if plugin["distribution"] == "gpt2demo-broken"]
    assert (broken["status"], broken["version"]) == ("failed", "1.5")
    assert "broken on purpose" in broken["error"]
    wanted = cli("generate", "a", "--sampler", "broken", env=env)
    assert wanted.returncode == 2
    assert "broken on purpose" in wanted.stderr
    without = json.loads(cli("plugins", "--json", "--no-plugins", env=env).stdout)
    assert {plugin["distribution"] for plugin in without} == {"gpt2demo"}


def test_an_installed_plugin_is_named_in_the_help(cli: Cli, tmp_path: Path) -> None:
    site = install(tmp_path / "site", "calm", SAMPLER.format(cls="Calm", name="calm"))
    assert "calm" in cli("generate", "--help", env={"PYTHONPATH": str(site)}).stdout
    assert "calm" not in cli("generate", "--help").stdout


@pytest.mark.parametrize("kind", KINDS)
def test_every_hook_has_a_way_to_ask_for_it(kind: str) -> None:
    assert hasattr(hookspecs, f"gpt2demo_{kind}")
    assert isinstance(getattr(plugins, kind)(), dict)


def test_every_hook_is_documented() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for name in vars(hookspecs):
        if name.startswith("gpt2demo_"):
            assert name in page
