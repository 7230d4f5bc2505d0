from __future__ import annotations

import pytest

from mosaicvi.store import strict_json


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"a": 1, "a": 1}', "twice"),
        ('[{"b": {"a": 1, "a": 2}}]', "twice"),
        ("NaN", "NaN is not"),
        ("[-Infinity]", "Infinity is not"),
        ("1e999", "too large"),
        ("1" * 101, "digits"),
        ("[" * 65 + "]" * 65, "deeper"),
        ('{"a":' * 65 + "1" + "}" * 65, "deeper"),
        ("[" + "0," * 1_000_001 + "0]", "values"),
        ("{", "not JSON"),
        ('{"a": "\x01"}', "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("[1] 2", "not JSON"),
    ],
)
def test_ambiguous_json_is_refused(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        strict_json.parse(text.encode())
    assert "\n" not in str(caught.value)


def test_brackets_in_texts_are_not_depth() -> None:
    value = {"a": "[" * 100, 'b\\"{': ["]" * 100, '\\"' + "{" * 100]}
    assert strict_json.parse(strict_json.canonical(value)) == value
