"""Command-line options made from settings: the name, range and help of each option are those of the pydantic field."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gpt2demo.cli.printing import results_only
from gpt2demo.config import accepts_auto, limits, plain_type
from gpt2demo.plugins import installed
from gpt2demo.sampling import gpt2demo_samplers
from gpt2demo.training.optimizers import gpt2demo_optimizers
from gpt2demo.training.schedule import gpt2demo_schedules

Command = TypeVar("Command", bound=Callable[..., Any])

ALIASES = {  # the original program's names
    "n_embd": "--embed-dim",
    "n_head": "--num-heads",
    "n_layer": "--num-layers",
    "n_positions": "--max-seq-len",
    "epochs": "--num-epochs",
}
BUILT_IN: dict[str, Callable[[], Collection[str]]] = {
    "samplers": gpt2demo_samplers,
    "optimizer": gpt2demo_optimizers,
    "schedule": gpt2demo_schedules,
}
SINGULAR = {"samplers": "--sampler", "peers": "--peer", "dtypes": "--dtype", "stop_tokens": "--stop-token"}


def with_settings(*models: type[BaseModel], only: Collection[str] = ()) -> Callable[[Command], Command]:
    """Decorate a command with an option for each field of some settings; the values are passed in its `**settings`.

    A value is the string that was typed, or None if the option was not used. The settings class parses and validates it, so
    that the command line, the web page and Python report the same error.

    Args:
        models: the settings classes.
        only: names of the fields to include; default: all.
    """

    def decorate(command: Command) -> Command:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
        fields = {name: field for model in models for name, field in model.model_fields.items() if not only or name in only}
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, field))
            for name, field in fields.items()
        ]
        command.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]  # Typer reads it
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
        return command

    return decorate


def given(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings whose options were passed."""
    return {name: value for name, value in settings.items() if value not in (None, [])}


def _annotation(name: str, field: FieldInfo) -> Any:
    """Return the type of a field's option: `Annotated[str | None, typer.Option("--n-layer", metavar="N", help=…)]`."""
    kind, repeated = plain_type(field.annotation)
    names = [SINGULAR.get(name, f"--{name.replace('_', '-')}"), *([ALIASES[name]] if name in ALIASES else [])]
    if kind is bool:
        names[0] += f"/--no-{names[0].removeprefix('--')}"
        return Annotated[bool | None, typer.Option(*names, help=_help(name, field), show_default=False)]
    metavar = "|".join(get_args(kind)) if get_origin(kind) is Literal else {int: "N", float: "X"}.get(kind, "TEXT")
    metavar += "|auto" if accepts_auto(field) else ""
    option = typer.Option(*names, metavar=metavar, help=_help(name, field), show_default=False)
    return Annotated[list[str] | None, option] if repeated else Annotated[str | None, option]


def _range(field: FieldInfo) -> str:
    """Return the range of a field in words: "1 to 256", "above 0"."""
    bounds = limits(field)
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    below = "to" if "le" in bounds else "to below"
    if low is not None and high is not None and high < 1e9:
        return f"{'above ' if 'gt' in bounds else ''}{low:g} {below} {high:g}"
    return "" if low is None else f"above {low:g}" if "gt" in bounds else f"at least {low:g}"


def _help(name: str, field: FieldInfo) -> str:
    """Return a field's description and range; for a part, the available names instead of a range."""
    if name in BUILT_IN:
        return f"{field.description}; {available(BUILT_IN[name]())}"
    words = _range(field)
    return f"{field.description} [{words}]" if words else field.description or ""


def available(built_in: Collection[str]) -> str:
    """Return the built-in names and the installed plugins. What these provide is known only after importing them."""
    plugins = sorted({point.dist.name if point.dist else point.name for point in installed()})
    hint = f"; plugins: {', '.join(plugins)}; `gpt2demo plugins` lists what they provide" if plugins else ""
    return f"built in: {', '.join(sorted(built_in))}{hint}"


class ResultsCommand(typer.core.TyperCommand):
    """A command that writes only its results to stdout, whatever plugins print."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with results_only():
            return super().invoke(ctx)


class AnywhereGroup(typer.core.TyperGroup):
    """A command group whose options are also accepted after a command: `gpt2demo runs --debug` is `gpt2demo --debug runs`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move the group's options before the command. Arguments after `--` stay in place."""
        end = args.index("--") if "--" in args else len(args)
        front, rest, words = [], [], iter(args[:end])
        values = {
            name: not getattr(parameter, "is_flag", False)
            for parameter in self.params
            for name in parameter.opts
            if name != "--version"
        }
        for word in words:
            name = word.partition("=")[0]
            if name not in values or name == "--help":
                rest.append(word)
                continue
            front.append(word)
            if values[name] and "=" not in word:
                front += [value] if (value := next(words, None)) is not None else []
        parsed: list[str] = super().parse_args(ctx, [*front, *rest, *args[end:]])
        return parsed
