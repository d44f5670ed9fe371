"""YAML parser: plain scalars, rejected input, malicious input."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devopsellence.config import ConfigError, yaml_parser
from devopsellence.config.yaml_tree import Number, plain

quick = settings(max_examples=60)


def values(text: str) -> object:
    node, problems = yaml_parser.parse("f.yml", text)
    assert problems == []
    return plain(node)


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        yaml_parser.parse("f.yml", text)
    (finding,) = caught.value.findings
    return str(finding).removeprefix("f.yml:")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        ("NO", "NO"),
        ("true", True),
        ("False", False),
        ('"true"', "true"),
        ("a:", {"a": None}),
        ("~", None),
        ("null", None),
        ('""', ""),
        ("2024-01-31", "2024-01-31"),
        ("12:30:45", "12:30:45"),
        ("a: &x [b]\nc: *x", {"a": ["b"], "c": ["b"]}),
        ("<<: {a: b, c: d}\na: own", {"a": "own", "c": "d"}),
        (
            "x: &x {a: b}\ny: &y {a: c, d: e}\nz:\n  <<: [*x, *y]",
            {"x": {"a": "b"}, "y": {"a": "c", "d": "e"}, "z": {"a": "b", "d": "e"}},
        ),
        ('"<<": plain', {"<<": "plain"}),
        ("1: a\ntrue: b", {"1": "a", "true": "b"}),
        ("!!str 5", "5"),
        ("%YAML 1.1\n---\nyes", "yes"),
        ("--- a\n...\n", "a"),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_plain_words_are_read_as_yaml_1_2(written: str, meant: object) -> None:
    assert values(written) == meant


@pytest.mark.parametrize("written", ["1", "-1", "+1", "007", "0x1F", "0o17", "1.10", ".5", "5.", "1e3", ".inf", ".nan"])
def test_number_keeps_its_source_text(written: str) -> None:
    value = values(written)
    assert isinstance(value, Number)
    assert value == written


@pytest.mark.parametrize("written", ['"1"', "'1.5'", "1_000", "1.2.3", "0b1", "1:30", "--1", "e3", "0x", "1 2"])
def test_quoted_and_number_like_scalars_are_text(written: str) -> None:
    assert not isinstance(values(written), Number)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "1:1: is empty; write one, or run: devopsellence init"),
        ("# nothing but this\n", "2:1: is empty; write one, or run: devopsellence init"),
        ("a: 1\n\tb: 2\n", "2:1: is indented with a tab; YAML requires spaces"),
        ("a:\n  \t- b\n", "2:3: is indented with a tab; YAML requires spaces"),
        ("a: b: c\n", "1:5: is not valid YAML: mapping values are not allowed here"),
        ("a: 'b", "a closing quote or bracket may be missing"),
        ("a: @b", "1:4: is not valid YAML: found character '@' that cannot start any token (quote the value)"),
        ("a: [1", "1:6: is not valid YAML: expected ',' or ']'"),
        (
            "a: {{X}}-y",
            "1:9: is not valid YAML: expected <block end>, but found '<scalar>' (a value that begins with {{",
        ),
        ("a: 1\n---\nb: 2\n", "2:1: contains a second document; only one document per file is allowed"),
        (
            "a: !!python/object:os.system x",
            '1:4: has the tag "tag:yaml.org,2002:python/object:os.system"; tags are not',
        ),
        ("a: !secret x", '1:4: has the tag "!secret"; tags are not supported, remove the tag'),
        ("a: !!map {}", "1:4: has the tag"),
        ("a: *b", '1:4: has the alias "b", but no such anchor is defined before'),
        ("a: &b [*b]", '1:8: has the alias "b" inside the value of its own anchor'),
        ("a: &b {<<: *b}", 'has the alias "b" inside the value of its own anchor'),
        ("<<: 3", "1:1: has a merge key (<<) with a value that is not a map"),
        ("%YAML 2.0\n---\na: b", "is not valid YAML: found incompatible YAML document"),
        ('"\\UFFFFFFFF"', "is not valid YAML"),
        ("{" * 50, "1:33: is nested deeper than 32 levels"),
        ("[" * 100_000, "1:33: is nested deeper than 32 levels"),
        ("- &a " + "x" * 300_000 + "\n- *a" * 7, "7:3: is larger than 2 MiB with all aliases expanded"),
    ],
)
def test_unreadable_yaml_is_refused_with_place_and_fix(written: str, said: str) -> None:
    assert said in refusal(written)


def bomb(levels: int, wide: int) -> str:
    lines = ['a0: &a0 "lol"']
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * wide)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("aliases of aliases", bomb(30, 10)),
        (
            "merges of merges",
            "a0: &a0 {k: v}\n"
            + "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 9)),
        ),
        ("a chain of aliases, each a level deeper", bomb(500, 1)),
        (
            "aliases below deep nesting",
            "\n".join(f"a{n}: &a{n} {'[' * 20}{f'*a{n - 1}' if n else 'x'}{']' * 20}" for n in range(50)),
        ),
        ("very many small values", "[" + "1," * 100_000 + "]"),
        ("very many merges of an empty map", "a: &a {}\nb:\n" + "  <<: *a\n" * 70_000),
        ("merges within merges", "a: &a {x: 1}\nb:\n" + "  <<: {<<: *a}\n" * 40_000),
        (
            "merges of a wide map",
            f"a: &a {{{', '.join(f'k{n}: v' for n in range(10_000))}}}\n"
            + "\n".join(f"b{n}: {{<<: *a}}" for n in range(40_000)),
        ),
        (
            "a merge of a list of wide maps, again and again",
            "a: &a {k: v}\nl: &l [*a, *a]\n" + "b: {<<: *l}\n" * 80_000,
        ),
        ("very many pairs", "{" + "a: b," * 200_000 + "}"),
        ("deep maps", "{a: " * 200_000),
        ("deep lists", "- " * 500_000),
        ("deep keys", "? " * 500_000),
    ],
)
def test_huge_documents_are_rejected_quickly(what: str, text: str) -> None:
    said = refusal(text)
    limits = ("larger than 2 MiB", "nested deeper", "more than 50000 keys and values")
    assert any(limit in said for limit in limits), what


@pytest.mark.parametrize("tag", ["!" * 900_000, "!" + "a" * 900_000, "!<" + "a" * 900_000 + "> x", "a: !" + "b" * 2000])
def test_long_tag_is_refused_with_its_place(tag: str) -> None:
    assert "is not valid YAML: a tag is longer than 1024 characters" in refusal(tag)


@pytest.mark.parametrize(
    "value", ["x" * 900_000, '"' + "\\n" * 400_000 + '"', "'" + "''" * 400_000 + "'", ">\n" + " x\n" * 250_000]
)
def test_long_text_is_read(value: str) -> None:
    assert isinstance(values(f"a: {value}"), dict)


def test_limit_of_merges_names_the_line() -> None:
    wide = f"a: &a {{{', '.join(f'k{n}: v' for n in range(20_000))}}}"
    assert refusal(f"{wide}\nb:\n  <<: *a\n  c: d\n  <<: *a").startswith("5:3: is larger than 2 MiB")


@quick
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 30), max_size=12)), min_size=1, max_size=30))
def test_merges_and_aliases_stay_within_the_size(shape: list[tuple[bool, list[int]]]) -> None:
    """A document in which each node merges or lists earlier ones is read within the limits, or refused."""
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: {'v' * 100}" for n in range(300)) + "}"]
    for number, (merges, earlier) in enumerate(shape, 1):
        names = ", ".join(f"*a{one % number}" for one in earlier)
        lines.append(
            f"a{number}: &a{number} {{<<: [{names}]}}" if merges else f"a{number}: &a{number} {{k: [{names}]}}"
        )
    try:
        node, _ = yaml_parser.parse("f.yml", "\n".join(lines))
    except ConfigError as error:
        (finding,) = error.findings
        assert 1 < finding.line <= len(lines)
    else:
        assert len(json.dumps(plain(node))) <= yaml_parser.MAX_WEIGHT


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("a: 1\nb: 2\na: 3", "3:1 ('a',) is a duplicate key, first on line 1; remove one"),
        ("x:\n  a: 1\n  a: 3", "3:3 ('x', 'a') is a duplicate key, first on line 2; remove one"),
        ("{a: b}: c", "1:1 () has a key that is not text"),
        ("? [a, b]\n: c", "1:3 () has a key that is not text"),
        ("~: c", "1:1 () has a key that is not text"),
        (
            "p: {{APP}}",
            "1:5 ('p',) has a key that is not text; quote a key that begins with { or [, such as a template",
        ),
        ('a: "\\0"', "1:4 ('a',) contains a NUL or surrogate character"),
        ('a: ["\\ud800"]', "1:5 ('a', 0) contains a NUL or surrogate character"),
    ],
)
def test_recoverable_yaml_problem_is_reported_with_others(written: str, said: str) -> None:
    _, problems = yaml_parser.parse("f.yml", written)
    (problem,) = problems
    assert problem.mark
    assert f"{problem.mark.line}:{problem.mark.column} {problem.path} {problem.fact}".startswith(said)


def test_first_of_duplicate_keys_counts() -> None:
    node, _ = yaml_parser.parse("f.yml", "a: 1\na: 2")
    assert plain(node) == {"a": "1"}
