"""Plugins: found through entry points and loaded in isolation; a broken one is listed and does not affect the others."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from installing import SAMPLER, install, points
from samples import SMALL_OPTIONS, Cli, assert_one_line_error

from gpt2demo import hookspecs, plugins
from gpt2demo.errors import PluginError
from gpt2demo.plugins import BUILTINS, KINDS, Registry
from gpt2demo.runs.folder import Run

ROOT = Path(__file__).parents[2]
BROKEN = {
    "import error": ("import nothing_of_that_name", "nothing_of_that_name"),
    "syntax error": ("def (", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "SystemExit"),
    "misspelled hook": (
        "from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_sampler(): return {}",
        "did you mean gpt2demo_samplers?",
    ),
    "hook without the decorator": ("def gpt2demo_samplers(): return {}", "gpt2demo_samplers() has no @hookimpl"),
    "message raises": (
        "class Odd(Exception):\n    def __str__(self): raise RuntimeError('again')\nraise Odd",
        "Odd: its message raises RuntimeError",
    ),
    "not a part": (
        "from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(): return {'mine': dict}",
        "sampler 'mine': dict is not a subclass of gpt2demo.interfaces.Sampler",
    ),
    "not a tokenizer": (
        "from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_tokenizers(): return {'mine': dict}",
        "tokenizer 'mine': dict has no method train()",
    ),
    "not a function": (
        "from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_optimizers(): return {'mine': None}",
        "optimizer 'mine': is None, not a function",
    ),
    "wrong argument": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(x): return {}", "gpt2demo_samplers"),
    "hook raises": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(): raise KeyError('oops')", "oops"),
    "does not return a dict": ("from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(): return ['x']", "not a dict"),
    "shadows a built-in": (SAMPLER.format(cls="Mine", name="temperature"), "'temperature': the name of a built-in part"),
}


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
    for command in ("generate", "train"):
        done = cli(command, "--help", env={"PYTHONPATH": str(site), "COLUMNS": "200"})
        named = re.search(r"plugins: ([^;]*); `gpt2demo plugins` lists what they provide", " ".join(done.stdout.split()))
        assert named is not None
        assert "gpt2demo-calm" in named.group(1).split(", "), "beside any others that are installed"
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


# ---------------------------------------------------------------------------------------------- output and time


def test_what_a_plugin_prints_is_not_a_result(invoke: Cli, site: Path, run_copy: Run, fresh_plugins: None) -> None:
    code = SAMPLER.format(cls="Loud", name="loud").replace("return logits", "print('calling'); return logits")
    install(site, "loud", f"import sys\nstdout = sys.stdout\nprint('importing')\nstdout.write('again\\n')\n{code}")
    listed = invoke("plugins", "--json")
    assert {"gpt2demo_samplers": ["loud"]} in [plugin["hooks"] for plugin in json.loads(listed.stdout)]
    assert listed.stderr == "importing\nagain\n"
    done = invoke("generate", "mine", "--sampler", "loud", "--max-new-tokens", 2, "--json")
    assert len(json.loads(done.stdout)["ids"]) == 2
    assert done.stderr == "calling\ncalling\n"


def test_the_time_of_a_slow_import_is_listed(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "fast", SAMPLER.format(cls="Fast", name="fast"))
    install(site, "slow", "import time\ntime.sleep(0.2)\n" + SAMPLER.format(cls="Slow", name="slow"))
    monkeypatch.setattr("gpt2demo.plugins.loading.SLOW_SECONDS", 0.15)
    fast, slow = Registry(points(site)).plugins[-2:]
    assert fast.seconds is None
    assert slow.seconds
    assert slow.seconds >= 0.2


# ---------------------------------------------------------------------------------------------- names and versions


@pytest.mark.parametrize("name", ["my sampler", "a:b", "a,b", "Upper", "@chain", "-x", "a=b", "a/b", "ü", "a\\n", ".x"])
def test_a_name_that_cannot_be_typed_is_refused(site: Path, name: str) -> None:
    install(site, "odd", SAMPLER.format(cls="Odd", name=name))
    registry = Registry(points(site))
    assert registry.plugins[-1].status == "failed"
    assert "invalid name; use lower-case letters" in str(registry.plugins[-1].error)
    assert len(registry.parts("samplers")) == len(Registry().parts("samplers"))


def test_an_empty_name_is_refused(site: Path) -> None:
    install(site, "odd", SAMPLER.format(cls="Odd", name=""))
    assert "not a dict with names as keys" in str(Registry(points(site)).plugins[-1].error)


def test_a_clash_marks_both_plugins_as_failed(site: Path) -> None:
    for name in ("one", "two", "three"):
        install(site, name, SAMPLER.format(cls="Same", name="same"))
    failed = {plugin.distribution: plugin.error for plugin in Registry(points(site)).plugins if plugin.status == "failed"}
    assert failed.keys() == {"gpt2demo-one", "gpt2demo-two", "gpt2demo-three"}
    assert all("samplers 'same': also provided by gpt2demo-" in str(error) for error in failed.values())


@pytest.mark.parametrize(
    ("requires", "status"), [("gpt2demo>=99", "failed"), ("gpt2demo>=0.0.1", "loaded"), ("GPT2Demo<0", "failed")]
)
def test_a_plugin_for_another_version_is_not_imported(site: Path, requires: str, status: str) -> None:
    install(site, "other", SAMPLER.format(cls="Other", name="other"), requires)
    plugin = Registry(points(site)).plugins[-1]
    assert plugin.status == status
    assert ("gpt2demo_other" in sys.modules) == (status == "loaded")
    if status == "failed":
        assert str(plugin.error).startswith(f"requires gpt2demo{requires[8:]}, this is ")


def test_an_optional_hook_may_be_unknown(site: Path) -> None:
    hook = "\n@hookimpl(optionalhook=True)\ndef gpt2demo_of_a_later_version(): return {}\n"
    install(site, "later", SAMPLER.format(cls="Later", name="later") + hook)
    plugin = Registry(points(site)).plugins[-1]
    assert (plugin.status, plugin.error) == ("loaded", None)


def test_an_unknown_name_shows_the_plugin_of_that_name_first(site: Path) -> None:
    install(site, "broken", "import nothing_of_that_name")
    install(site, "wanted", "import another_missing_module")
    with pytest.raises(PluginError, match=r"^unknown sampler 'wanted': gpt2demo-wanted 1.5 failed: .*another_missing_module"):
        Registry(points(site)).part("samplers", "wanted")


def test_a_refused_part_shows_its_own_cause(site: Path) -> None:
    install(site, "broken", "import nothing_of_that_name")
    install(site, "parts", "from gpt2demo import hookimpl\n@hookimpl\ndef gpt2demo_samplers(): return {'mine': dict}")
    with pytest.raises(PluginError, match=r"^sampler 'mine': gpt2demo-parts 1.5 failed: .*dict is not a subclass"):
        Registry(points(site)).part("samplers", "mine")
