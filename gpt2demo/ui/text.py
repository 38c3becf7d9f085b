"""Text for the page, shown exactly as it is: escaped, and without formatting."""

from __future__ import annotations

import re

_SPECIAL = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;", "\0": "\ufffd"}  # HTML has no NUL
_ESCAPED = str.maketrans(_SPECIAL)
_SPACED = str.maketrans({**_SPECIAL, "\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})
_FORMATTED = re.compile(r"`.+`|\[.+\]\(.+\)|\*.+\*|(?<!\w)_.+_(?!\w)|__.+__", re.DOTALL)
_SIMILAR = str.maketrans("`*_", "\u02cb\u2217\u02cd")


def escape(text: str) -> str:
    """Return HTML that shows this text."""
    return well_formed(text).translate(_ESCAPED).replace("\r", "&#13;")


def exactly(text: str) -> str:
    """Return HTML that shows this text in a gr.Chatbot, which would strip line breaks and leading space."""
    first = f"&#{ord(text[0])};" if text[:1].isspace() else text[:1].translate(_SPACED)
    return well_formed(first + text[1:].translate(_SPACED))


def unformatted(text: str) -> str:
    """Return a help text that looks the same without formatting.

    Gradio shows the `info` of a component with inline Markdown, which cannot be switched off or escaped: marks become similar
    characters, and links are broken by an invisible one.
    """
    return _FORMATTED.sub(lambda found: found[0].translate(_SIMILAR).replace("](", "]\u2060("), text)


def well_formed(text: str) -> str:
    r"""Return a text with lone surrogates, which cannot be written as UTF-8, replaced.

    >>> well_formed("a\ud800b")
    'a�b'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
