"""Texts that a page might interpret instead of showing, and a plugin that puts them wherever a plugin can."""

from __future__ import annotations

from pathlib import Path

PAYLOADS = (
    *("$$x^2$$", "$x$", r"\(x\)", r"\[x\]", "${window.bad=1}", "`${window.bad=1}`", "{{7*7}}", "{{{value}}}", "{% raw %}"),
    "<script>window.bad=1</script>",
    "<img src=x onerror=window.bad=1>",
    "<img src=http://evil.example/a>",
    "<svg onload=window.bad=1>",
    "</textarea></pre></div><script>window.bad=1</script>",
    "<iframe src=http://evil.example/b></iframe>",
    "<style>body{display:none}</style>",
    "<a href=javascript:window.bad=1>x</a>",
    *("<b>bold</b>", "<!-- x -->", "<![CDATA[x]]>", "&amp;", "&lt;b&gt;", "&#65;", "&nbsp;x", "a & b"),
    *("**bold**", "_it_ *it*", "# heading", "- item", "1. item", "`code`", "~~x~~", "---", ":smile:"),
    *("[x](http://evil.example/c)", "![x](http://evil.example/d)", "http://evil.example/e", "<http://evil.example/f>"),
    *(
        "a\u202eb",
        "\u200fa\u200e",
        "a\u2066b\u2069",
        "\u061ca",
        "a\ufeffb",
        "a\u200b\u200d",
        "e\u0301",
        "\U0001f468\u200d\U0001f469",
    ),
    *("a\u0001b\u001bc", "a\u007fb\u0085c", "\"q\" 'r'", r"\n \u0041", "%3Cb%3E", '{"a": 1}', "null", "__proto__"),
)
"""One line each."""
SPACED = (
    "```\ncode\n```",
    "| a | b |\n|---|---|",
    "  two  spaces  ",
    "a\tb",
    "\n\nlines\n\n",
    "a\r\nb\rc",
    "a\x0bb\x0cc\u2028d",
    "\u00a0x",
)
"""Texts with line breaks and several spaces, which single-line elements need not keep."""
SAMPLES = ["\n".join((*PAYLOADS, *SPACED)[at : at + 4]) for at in range(0, len(PAYLOADS + SPACED), 4)]
"""All of them in a few texts."""

PLUGIN = f"""
import gradio as gr
from pydantic import Field, create_model
from gpt2demo import hookimpl
from gpt2demo.interfaces import Dataset, Sampler

PAYLOADS = {PAYLOADS!r}

class Base(Sampler):
    def __call__(self, logits, context):
        return logits

def sampler(text):
    cls = create_model("Hostile", __base__=Base, option=(str, Field(text, description=text)))
    cls.__doc__ = text
    return cls

def broken():
    raise ValueError(" ".join(PAYLOADS[:20]))

@hookimpl
def gpt2demo_samplers():
    return {{f"s{{number}}": sampler(text) for number, text in enumerate(PAYLOADS)}}

@hookimpl
def gpt2demo_tabs():
    return {{"<b>$$x$$ **tab** ${{window.bad=1}}": broken}}
"""


def install(folder: Path) -> None:
    """Install the plugin in a folder of PYTHONPATH."""
    about = folder / "gpt2demo_hostile-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: gpt2demo-hostile\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[gpt2demo]\nhostile = gpt2demo_hostile\n", encoding="utf-8")
    (folder / "gpt2demo_hostile.py").write_text(PLUGIN, encoding="utf-8")
