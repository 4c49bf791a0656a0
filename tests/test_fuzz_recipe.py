"""Whatever a recipe's text holds, it is read or refused in one line, at once.

`fuzzing` says how to fuzz for longer.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from fuzzing import fuzz
from hypothesis import strategies as st

from curate.errors import RecipeError
from curate.recipe import load, load_recipe, parse
from curate.recipe.limits import MOST_BYTES
from curate.recipe.structs import Recipe
from curate.recipe.text import read_yaml

SECONDS = 5.0
"""Processor time far above what any text takes here, and far below what an unbounded one would."""

BASE = {
    "name": "tiny",
    "tokenizer": {"path": "tokenizer.json", "eos": None, "backend": "auto"},
    "domains": [
        {"name": "wiki", "paths": ["w.jsonl"], "weight": None, "max_epochs": 2, "license": "MIT",
         "metadata": {"year": 2024}},
        {"name": "code", "paths": "c", "text": "content", "id": "id", "reader": "auto"},
    ],
    "budget_tokens": 1000,
    "mixture": {"method": "temperature", "temperature": 2, "kl": 0.1, "at_tokens": 1e9,
                "weights": {"wiki": 1, "code": 2}, "floors": {"wiki": 0.1}, "level": 3,
                "keep": {"wiki": 1, "code": 2},
                "objective": {"target": "wiki"}, "replicates": 3, "trust_region": True,
                "evidence": {"runs": ["a.csv"], "alike": {"text": ["wiki", "c*"]}}},
    "sequence_length": 128, "window": "L", "packing": "concat", "max_epochs": 1.5,
    "validation": {"documents": 0.1, "key": 3},
    "output": {"format": "megatron", "dir": "out", "shard_tokens": 100, "options": {"a": 1}},
    "counting": {"memory_mb": 64},
    "proxy": {"preset": "nano", "runs": 3, "tokens": 100, "learning_rate": 0.1},
    "base": ".",
    "limits": {"lost_share": 0.5},
    "exclude": "ids.txt",
    "duplicates": {"exact": "normalised", "near": {"bands": 20, "rows": 5, "ngram": 4},
                   "within": [["wiki", "code"]], "order": ["code"]},
    "decontaminate": {"sets": {"quiz": {"path": "q.jsonl", "text": ["q"]}, "test": "t.parquet"},
                      "action": "remove", "ngram": 9, "coverage": 0.6, "common": 100},
    "stages": [
        {"name": "early", "budget_tokens": 600, "where": None,
         "schedule": {"from": {"wiki": 1}, "to": {"code": 1}, "shape": "step", "steps": 4}},
        {"name": "late", "budget_tokens": 400, "sequence_length": 64, "window": "L+1"},
    ],
    "schedule": None,
    "cache": "cache", "seed": 7, "on_shortfall": "error", "on_bad_record": "error",
}  # fmt: skip

HOSTILE = [
    None, True, -1, 0, 2**63, -(2**63) - 1, 10**30, 10**4000, 1e308, 5e-324, float("inf"),
    float("nan"), -0.0, "", "\0", "\ud800", "\udc80", "\x1b[31m", "\u202e", "a" * 5000, "../..",
    "no", "1e400", ".inf", "<<", "=", "~", "2024-01-05", "1:30", "010", [], {}, [[]], {"": None},
    [None], {"a": {"b": {"c": {}}}}, "/dev/zero", "%s{}[", "-", "[", "{", "&a", "*a", "!!set",
]  # fmt: skip


def outcome(read):
    """Read, and return the recipe or the error, which must be one line made in good time."""
    started = time.process_time()
    try:
        result = read()
    except RecipeError as error:
        result = error
        assert "\n" not in str(error), str(error)
        assert len(str(error)) < 20_000, str(error)[:300]
    assert time.process_time() - started < SECONDS
    return result


def places(value, path=()):
    """List the way to every key and value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def with_value(path, value):
    changed = json.loads(json.dumps(BASE))
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return changed


leaves = st.one_of(
    st.sampled_from(HOSTILE),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.dates().map(str),
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
fragments = st.sampled_from(
    [":", ": ", "\n", "\n  ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "<<: ", "!!", "!!set ",
     "? ", "|", ">", "'", '"', "\\", "\\ud800", "\t", "#", "%", "---\n", "...", "name", "domains",
     "1e9", "0x", "9" * 200, ".inf", "\ufeff", "\x85", "~", "=", "no", "@", "`", "\x00", "\x1b"]
)  # fmt: skip


@fuzz(path=st.sampled_from(list(places(BASE))), value=values)
def test_any_value_in_any_field(path, value):
    changed = with_value(path, value)
    loaded = outcome(lambda: load_recipe(changed))
    if not isinstance(loaded, RecipeError):
        assert len(loaded.hash) == 32
        assert load_recipe(changed).hash == loaded.hash
    key = ".".join(map(str, path))
    outcome(lambda: load_recipe(BASE, {key: value}))


@fuzz(st.lists(fragments | st.text(max_size=4), max_size=40).map("".join))
def test_any_text(text):
    outcome(lambda: parse(text, Path()))
    outcome(lambda: parse(yaml.safe_dump(BASE), Path(), (text, f"seed={text}")))


@fuzz(
    st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True), st.integers(0, 30), fragments | st.text(max_size=5)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_damaged_recipe(edits):
    text = yaml.safe_dump(BASE)
    for place, cut, inserted in edits:
        at = int(place * len(text))
        text = text[:at] + inserted + text[at + cut :]
    outcome(lambda: parse(text, Path()))


LAUGHS = "[&a0 [x,x,x,x,x,x,x,x,x]" + "".join(
    f", &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)
)
MERGES = "m0: &m0 {a: 1, b: 2}\n" + "".join(
    f"m{n}: &m{n} {{<<: [{','.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 14)
)
DOMAIN = "name: x\ntokenizer: {path: t, eos: null}\nbudget_tokens: 5\ndomains: [{name: a, paths: p"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"name: {LAUGHS}]", "name: more than 100,000 values, counting those that aliases repeat"),
        (f"{DOMAIN}, metadata: {{k: {LAUGHS}]}}}}]", "domains: more than 100,000 values"),
        ("a: &a [*a]", "a: more than 50 lists or mappings inside one another"),
        ("a: &a {b: *a}", "a: more than 50 lists or mappings"),
        ("a: &a {<<: *a}", "unknown key 'a'"),
        ("\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000)).replace("*a0", "x"),
         "a2999: more than 50 lists or mappings"),
        ("\n".join(f"a{n}: &a{n} {{<<: *a{n - 1}, k{n}: 1}}" for n in range(1, 900))
         .replace("*a0", "{x: 1}"), "counting those that aliases repeat"),
        ("[" * 900 + "]" * 900, "more than 50 lists or mappings inside one another"),
        ("[" * 100_000, "mix.yaml:1: not valid YAML ("),
        ("{a: " * 5000, "more than 50 lists or mappings"),
        ("? " * 5000, "more than 50 lists or mappings"),
        ("\n".join(" " * n + "a:" for n in range(500)), "more than 50 lists or mappings"),
        ("a: [" + "1," * 200_000 + "1]", "more than 100,000 values"),
        ("[" + "1," * 1_000_000 + "1]", "the recipe: more than 100,000 values"),
        ("budget_tokens: 0x" + "f" * 6000, "mix.yaml:1: not valid YAML (a whole number of 6,002"),
        ("seed: " + "9" * 3_000_000, "mix.yaml:1: not valid YAML (a whole number of 3,000,000"),
        ('{"seed": ' + "9" * 3_000_000 + "}", "a whole number of 3,000,000 characters"),
        ("seed: 18446744073709551616", "seed: expected a whole number of at most 64 bits"),
        ("a: 1e400", "a: expected a finite number; found inf"),
        ("a: [-.inf]", "a[0]: expected a finite number; found -inf"),
        ('{"a": NaN}', "a: expected a finite number; found nan"),
        ('a: {"b\\0": 1}', "a: a key: found text with a NUL character"),
        ('a: "x\\0"', "a: found text with a NUL character, which no file name may hold"),
        ('{"a": "\\ud800"}', "a: found text with half of a surrogate pair"),
        ("a: \ud800", "not valid YAML (it holds half of a surrogate pair)"),
        (f"? {'k' * 2000}\n: 1", "a key: expected at most 1,000 characters"),
        (f"a: !<{'x' * 100_000}> 1", "could not determine a constructor for the tag 'xxx"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("a: !!set {b}", "could not determine a constructor for the tag"),
        ("\tname: x", "mix.yaml:1: not valid YAML (found character"),
    ],
)  # fmt: skip
def test_texts_without_bounds(text, expected):
    message = outcome(lambda: parse(text, Path(), (), "mix.yaml"))
    assert isinstance(message, RecipeError)
    assert expected in str(message)
    assert len(str(message)) < 500


def test_merges_that_double_in_size():
    merged = outcome(lambda: read_yaml(f"{MERGES}last: *m13", "mix.yaml"))
    # PyYAML 6.0.3 merges a key once, and 6.0 as often as it is repeated, which is refused.
    assert "more than 100,000 values" in str(merged) or merged["last"] == {"a": 1, "b": 2}


def test_plain_words_are_text():
    text = "{a: no, b: Off, c: 2024-01-05, d: 1:30, e: 010, f: =, g: true, h: 0x10, i: ~, j: 1.}"
    assert read_yaml(text, "x") == {
        "a": "no", "b": "Off", "c": "2024-01-05", "d": "1:30", "e": "010", "f": "=", "g": True,
        "h": 16, "i": None, "j": 1.0,
    }  # fmt: skip


def test_a_domain_called_no():
    text = (
        DOMAIN.replace("name: a", "name: no") + "}]\nmixture: {trust_region: no, weights: {no: 1}}"
    )
    recipe = parse(text, Path()).recipe
    assert recipe.domains[0].name == "no"
    assert recipe.mixture.trust_region is False
    assert recipe.mixture.weights == {"no": 1}


def test_without_libyaml():
    """PyYAML's own parser obeys the same bounds."""
    script = """
import yaml
yaml.__with_libyaml__ = False
from curate.errors import RecipeError
from curate.recipe.text import _Parser, read_yaml
assert _Parser.__name__ == "_PythonParser"
assert read_yaml("{a: [1, &x no], b: *x}", "x") == {"a": [1, "no"], "b": "no"}
for text in ("a: [1, 2", "{a: " * 5000, "a: \\x00", "a: [" + "1," * 100_000, "a: 1\\na: 2"):
    try:
        read_yaml(text, "x")
    except RecipeError as error:
        print(error)
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    lines = printed.stdout.splitlines()
    assert len(lines) == 5
    assert "more than 50 lists" in lines[1]
    assert "more than 100,000 values" in lines[3]
    assert "x:2: not valid YAML (the key 'a' is given twice)" in lines[4]


def test_emoji_in_json():
    text = json.dumps({**BASE, "cache": "\U0001f600"})
    assert "\\ud83d" in text
    assert parse(text, Path()).recipe.cache == "\U0001f600"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("domains.0.metadata" + ".x" * 500 + "=1", "domains: more than 50 lists or mappings"),
        ("domains." + "9" * 5000 + ".id=1", "; there are wiki, code"),
        (f"seed={LAUGHS}]", "more than 100,000 values"),
        ("seed=" + "9" * 5000, "a whole number of 5,000 characters"),
    ],
)
def test_overrides_without_bounds(override, expected):
    message = str(outcome(lambda: load_recipe(BASE, [override])))
    assert expected in message
    assert len(message) < 700


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"seed": "\udc80"}, "seed: expected a whole number, got text; found '\\udc80'"),
        ({"domains": ["\udc80"]}, "domains[0]: expected a mapping, got text; found '\\udc80'"),
        ({"mixture.weights.wiki": "\udc80"}, "mixture.weights[wiki]: expected a number, got text"),
    ],
)
def test_bytes_where_no_text_may_be(override, expected):
    assert str(outcome(lambda: load_recipe(BASE, override))).startswith(f"recipe: {expected}")


def test_mappings_without_bounds():
    endless: list = []
    endless.append(endless)
    deep: dict = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for value in (endless, deep, 10**5000, {1, 2}, float("nan"), b"\xff"):
        assert isinstance(outcome(lambda value=value: load_recipe({"name": value})), RecipeError)


def test_files_that_are_no_recipe(tmp_path):
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(100_000_000)
    for path in (large, Path("/dev/zero"), tmp_path, Path("a\0b")):
        message = outcome(lambda path=path: load(path))
        assert isinstance(message, RecipeError)
        assert str(message).startswith(f"{path}: ")
    assert "larger than 4 MiB" in str(outcome(lambda: load(large)))
    assert MOST_BYTES == 4 << 20


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "bom.yaml"
    path.write_text("\ufeff" + yaml.safe_dump(BASE), "utf-8")
    assert outcome(lambda: load(path)).recipe.name == "tiny"


def test_every_field_is_among_those_fuzzed():
    assert set(Recipe.__struct_fields__) == set(BASE)
