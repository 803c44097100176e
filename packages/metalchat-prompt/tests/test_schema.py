"""Arguments are held against the schema of their tool."""

from typing import Any

import pytest
from metalchat_prompt._schema import problem


@pytest.mark.parametrize(
    ("schema", "good", "bad", "message"),
    [
        ({"type": "integer"}, [1, 2.0], [True, 1.5, "1"], "must be of type integer"),
        ({"type": ["string", "null"]}, ["a", None], [0], "must be of type string or null"),
        ({"enum": ["a", 1]}, ["a", 1], [True, "b"], "must be one of"),
        ({"const": {"a": [1]}}, [{"a": [1]}], [{"a": [True]}, {"a": []}], 'must be {"a": [1]}'),
        ({"minimum": 1, "maximum": 3}, [1, 3], [0, 4], "must be at"),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5], [0, 1], "must be"),
        ({"multipleOf": 0.1}, [0.3], [0.25], "must be a multiple of 0.1"),
        ({"minLength": 2, "maxLength": 3}, ["ab"], ["a", "abcd"], "must have at"),
        ({"pattern": "^[a-z]+$"}, ["ab"], ["A"], "must match"),
        ({"items": {"type": "string"}, "minItems": 1, "uniqueItems": True}, [["a"]], [[], [1], ["a", "a"]], "must"),
        ({"prefixItems": [{"type": "string"}], "items": False}, [["a"]], [["a", 1]], "'x[1]' may not be there"),
        ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, ["a", 5], [4], "must fit one of the schemas"),
        ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, [0, 4], [2], "must fit exactly one"),
        ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, [2], [4], "must be at most 3"),
        ({"not": {"type": "string"}}, [1], ["a"], "is what its schema rules out"),
        (
            {"properties": {"a": {}}, "additionalProperties": {"type": "null"}},
            [{"a": 1, "b": None}],
            [{"b": 1}],
            "'x.b'",
        ),
        ({"required": ["a"], "maxProperties": 1}, [{"a": 1}], [{}, {"a": 1, "b": 2}], "'x"),
        ({"$ref": "#/$defs/n"}, [1], ["a"], "must be of type number"),
        ({"$ref": "https://example.com/"}, [], [1], "may not be there"),
        (True, [1, None], [], ""),
    ],
)
def test_each_keyword_lets_the_good_pass_and_names_the_bad(
    schema: Any, good: list[Any], bad: list[Any], message: str
) -> None:
    root = {"properties": {"x": schema}, "$defs": {"n": {"type": "number"}}}
    for value in good:
        assert problem({"x": value}, root) is None
    for value in bad:
        found = problem({"x": value}, root)
        assert found is not None
        assert message in found
        assert "'x" in found


def test_a_schema_that_refers_to_itself_comes_to_an_end() -> None:
    schema = {"$ref": "#"}
    assert "nested too deeply" in str(problem({}, schema))
    doubling = {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}
    assert "fit one of" in str(problem({}, doubling))
    tree = {"type": "object", "additionalProperties": {"$ref": "#"}}
    assert problem({"a": {"b": {}}}, tree) is None
    assert problem({"a": {"b": 1}}, tree) == "'a.b' must be of type object"


def test_a_pattern_of_another_dialect_says_nothing() -> None:
    assert problem({"x": "a"}, {"properties": {"x": {"pattern": "\\p{L}"}}}) is None
