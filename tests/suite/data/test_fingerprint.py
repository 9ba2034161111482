"""Fingerprints of data: one line says what differs."""

import pytest

from multimax.suite.data.fingerprint import difference, digest


@pytest.mark.parametrize(
    ("here", "there", "said"),
    [
        ({"a": "x"}, {"a": "x"}, None),
        ({"classes": ["cat", "dog"]}, {"classes": ["bus", "dog"]}, "classes: cat here, bus in the run"),
        ({"classes": ["cat", "dog"]}, {"classes": ["dog", "cat"]}, "classes: in another order here than in the run"),
        ({"n": {"cat": 1, "dog": 2}}, {"n": {"cat": 1}}, "n: dog 2 here, nothing else in the run"),
        ({}, {"text": "5 tokens"}, "text: nothing else here, 5 tokens in the run"),
        ({"c": list("abcdefg")}, {"c": []}, "c: a, b, c, d, e and 2 more here, nothing else in the run"),
    ],
)
def test_the_first_difference_is_named(here, there, said):
    assert difference(here, there) == said


def test_a_digest_knows_order_and_bounds():
    assert len({digest(parts) for parts in ([b"ab", b"c"], [b"a", b"bc"], [b"c", b"ab"], [b"abc"], [])}) == 5
