"""Specifications of samplers, datasets and tokenizers: `NAME:key=value,key=value`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2demo.config import format_spec, parse_spec
from gpt2demo.errors import SettingError


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ("x", {}),
        ("x:", {}),
        ("x: a = 1 , b=2,", {"a": "1", "b": "2"}),
        ("x:a=b=c", {"a": "b=c"}),
        ('x:a="1,2",b=3', {"a": "1,2", "b": "3"}),
        ('x:a = " b" ', {"a": " b"}),
        (r'x:a="\"\\n"', {"a": r"\"\n".removeprefix("\\")}),
        ('x:a=5",b=1', {"a": '5"', "b": "1"}),
        ('x:a=""', {"a": ""}),
    ],
)
def test_a_quoted_value_may_contain_commas(spec: str, options: dict[str, str]) -> None:
    assert parse_spec(spec) == ("x", options)


@pytest.mark.parametrize("spec", ["x:a", "x:=1", "x:a=1,a=2", "x:a=1,2", 'x:a="1,2'])
def test_an_option_without_a_value_is_refused(spec: str) -> None:
    with pytest.raises(SettingError, match="expected NAME:key=value"):
        parse_spec(spec)


@given(st.dictionaries(st.sampled_from(["a", "b", "c_d"]), st.text(st.sampled_from('a",\\= \n:é'))))
def test_formatted_options_are_read_back(options: dict[str, str]) -> None:
    assert parse_spec(format_spec("x", options)) == ("x", options)
