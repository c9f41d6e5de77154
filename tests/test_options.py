"""Names with options: what is parsed, and the sentences for what cannot be."""

import jax.numpy as jnp
import pytest

from flowjax import options, paths, samplers, typing

KNOWN = {"plain": {}, "two": {"first": 1.0, "second": 0.5}}


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("plain", ("plain", {})),
        ("two", ("two", {})),
        ("two:", ("two", {})),
        ("two:second=2e-3", ("two", {"second": 2e-3})),
        ("two:second=2,first=-1", ("two", {"second": 2.0, "first": -1.0})),
        ("two:3", ("two", {"first": 3.0})),
        ("two:3,second=4", ("two", {"first": 3.0, "second": 4.0})),
    ],
)
def test_names_and_options_are_parsed(text, parsed):
    assert options.parse("thing", text, KNOWN) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tow", "unknown thing 'tow'; did you mean two.*Known: plain, two"),
        ("", "unknown thing ''"),
        ("plain:first=1", "thing 'plain:first=1': plain has no option 'first'; expected none: plain"),
        ("plain:1", "plain has no option '1'; expected none: plain"),
        ("two:third=1", "two has no option 'third'; expected first or second, e.g. two:first=1.0"),
        ("two:first=1,2", "two has no option '2'"),
        ("two:first=x", "thing 'two:first=x': first is 'x'; expected a finite number"),
        ("two:first=", "first is ''; expected a finite number"),
        ("two:first", "two has no option 'first'|first is ''"),
    ],
)
def test_what_cannot_be_parsed_is_an_error(text, message):
    with pytest.raises(typing.InputError, match=message):
        options.parse("thing", text, KNOWN)


def test_the_options_of_a_function_are_its_numbers():
    assert options.numbers(lambda x, y=1.0, *, a=0.5, b=2, path=paths.linear, c=None: x) == {"a": 0.5, "b": 2}
    assert {name: options.numbers(grid) for name, grid in samplers.GRIDS.items()}["shifted"] == {"shift": 3.0}


def test_tuples_name_functions_of_numbers_and_of_each_other():
    known = {"sum": lambda a, b: a + b, "two": lambda: 2, "array": jnp.asarray}
    assert options.call("number", ("sum", 1, ("sum", ("two",), 3)), known) == 6
    assert options.call("number", ["sum", 1, ["two"]], known) == 3
    assert options.call("number", jnp.sin, known) is jnp.sin
    for value, message in (
        (("sun", 1, 2), "a number is a tuple .*here \\('sun', 1, 2\\); names: sum, two, array"),
        ((), "a number is a tuple"),
        ("two", "a number is a tuple"),
        (("sum", 1), "number \\('sum', 1\\): .*missing"),
    ):
        with pytest.raises(typing.InputError, match=message):
            options.call("number", value, known)
