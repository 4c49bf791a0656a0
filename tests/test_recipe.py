"""Recipes: what is taken, and that every refusal names the field and the way out."""

import copy
import inspect
from pathlib import Path

import msgspec
import pytest
import yaml

from curate.errors import RecipeError
from curate.pipeline.check import unused_weights
from curate.recipe import (
    CountingRecipe,
    DomainRecipe,
    MixtureRecipe,
    OutputRecipe,
    Recipe,
    TokenizerRecipe,
    TrainTokenizer,
    ValidationRecipe,
    descriptions,
    load,
    parse,
    schema,
)
from curate.recipe.text import ALIASES, BAD_RECORD_ALIASES

FULL = """
name: my-mix
tokenizer: {path: tokenizer.json, eos: "<|endoftext|>", backend: fastokens}
domains:
  - name: wiki
    paths: [data/wiki/*.jsonl.zst]
    weight: 0.25
    max_epochs: 4
    text: body
    id: key
    reader: jsonl
    glob: "*.txt"
    license: CC-BY-SA-4.0
    metadata: {origin: dumps}
  - name: c4.en
    paths: data/c4
    weight: 0.75
mixture: {method: manual, measure: joint, temperature: 2}
budget_tokens: 10_000_000_000
sequence_length: 2048
max_epochs: 1.5
validation: {documents: 0.01, key: 3}
on_shortfall: repeat
on_bad_record: error
output: {format: npy, dir: out, shard_tokens: 1000}
counting: {memory_mb: 64}
cache: cache
seed: 7
"""

SMALL = {
    "name": "tiny",
    "tokenizer": {"path": "tokenizer.json", "eos": "<|endoftext|>"},
    "domains": [{"name": "wiki", "paths": "w.jsonl"}, {"name": "code", "paths": ["c"]}],
    "budget_tokens": 1000,
}


def read(value, tmp_path, *overrides):
    text = value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False)
    return parse(text, tmp_path, overrides, "mix.yaml")


def changed(**fields):
    return {**copy.deepcopy(SMALL), **fields}


def fault(value, tmp_path, *overrides):
    with pytest.raises(RecipeError) as caught:
        read(value, tmp_path, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_field_is_read(tmp_path):
    loaded = read(FULL, tmp_path)
    assert loaded.recipe == Recipe(
        name="my-mix",
        tokenizer=TokenizerRecipe(
            path="tokenizer.json", eos="<|endoftext|>", backend="fastokens"
        ),
        domains=[
            DomainRecipe(
                name="wiki",
                paths=["data/wiki/*.jsonl.zst"],
                weight=0.25,
                max_epochs=4,
                text="body",
                id="key",
                reader="jsonl",
                glob="*.txt",
                license="CC-BY-SA-4.0",
                metadata={"origin": "dumps"},
            ),
            DomainRecipe(name="c4.en", paths="data/c4", weight=0.75),
        ],
        mixture=MixtureRecipe(method="manual", measure="joint", temperature=2),
        budget_tokens=10**10,
        sequence_length=2048,
        max_epochs=1.5,
        validation=ValidationRecipe(documents=0.01, key=3),
        on_shortfall="repeat",
        on_bad_record="error",
        output=OutputRecipe(format="npy", dir="out", shard_tokens=1000),
        counting=CountingRecipe(memory_mb=64),
        cache="cache",
        seed=7,
    )  # fmt: skip
    assert loaded.notices == []
    assert loaded.base == tmp_path


def test_defaults_are_those_of_the_design(tmp_path):
    recipe = read(SMALL, tmp_path).recipe
    assert recipe.mixture.method == "natural"
    assert recipe.max_epochs == 1
    assert recipe.validation.documents == 0.005
    assert (recipe.on_shortfall, recipe.on_bad_record) == ("error", "quarantine")
    assert recipe.output.format == "megatron"
    assert recipe.seed == 42
    assert recipe.sequence_length is None


def test_paths_start_from_the_recipe(tmp_path):
    path = tmp_path / "recipes" / "mix.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(SMALL), "utf-8")
    loaded = load(path, ("seed=5",))
    assert loaded.recipe.seed == 5
    assert loaded.base == path.parent.resolve()
    assert loaded.cache_dir == loaded.base / ".curate"
    assert loaded.output_dir == loaded.base / "out" / "tiny"
    elsewhere = load(path, (f"output.dir={tmp_path}/there", "cache=../shared"))
    assert elsewhere.output_dir == tmp_path / "there"
    assert elsewhere.cache_dir.resolve() == (tmp_path / "shared").resolve()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match=r"absent\.yaml: No such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(RecipeError, match="a directory, not a recipe"):
        load(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: für".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.yaml: not UTF-8 text"):
        load(latin)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2", "mix.yaml:1: not valid YAML ("),
        ("name: a\nname: b", "mix.yaml:2: not valid YAML (the key 'name' is given twice)"),
        ("a:\n  - {b: 1, c: 2,\n     b: 3}", "mix.yaml:3: not valid YAML (the key 'b' is given"),
        ("a: !!timestamp 2024-13-45", "mix.yaml:1: not valid YAML (could not determine"),
        ("a: \x00", "mix.yaml: not valid YAML (unacceptable character #x0000"),
        ("? [a]\n: 2", "mix.yaml:1: not valid YAML (found unhashable key)"),
        ("a: !!python/object:os.system x", "mix.yaml:1: not valid YAML (could not determine"),
        ("a: 1\n---\nb: 2", "mix.yaml:2: not valid YAML (but found another document)"),
        ("", "mix.yaml: a recipe is a mapping of keys; try `curate schema`"),
        ("- a", "mix.yaml: a recipe is a mapping of keys; try `curate schema`"),
    ],
)
def test_text_that_is_no_recipe(text, expected, tmp_path):
    assert expected in fault(text, tmp_path)


def test_merge_keys_are_not_duplicates(tmp_path):
    text = """
name: tiny
tokenizer: {train: {vocab_size: 512}}
domains:
  - &common {name: wiki, paths: w, license: MIT}
  - {<<: *common, name: code}
budget_tokens: 5
"""
    code = read(text, tmp_path).recipe.domains[1]
    assert (code.name, code.paths, code.license) == ("code", "w", "MIT")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1e9", 10**9), ("1.5e9", 15 * 10**8), ("2E+3", 2000), ("1_000e3", 10**6),
     ("10_000_000_000", 10**10), ("1e18", 10**18), ("+.5e1", 5), ("7.0", 7)],
)  # fmt: skip
def test_numbers_as_people_write_them(text, expected, tmp_path):
    lines = yaml.safe_dump(changed(budget_tokens="HERE")).replace("HERE", text)
    budget = read(lines, tmp_path).recipe.budget_tokens
    assert budget == expected
    assert isinstance(budget, int)
    assert read(SMALL, tmp_path, f"budget_tokens={text}").recipe.budget_tokens == expected


def test_whole_floats_are_taken_wherever_a_whole_number_is_wanted(tmp_path):
    text = """
name: tiny
tokenizer: {train: {vocab_size: 5e2, sample_bytes: 1e6}}
domains: [{name: wiki, paths: w, max_epochs: 2}]
budget_tokens: 1e6
sequence_length: 1e3
output: {shard_tokens: 1e8}
"""
    recipe = read(text, tmp_path).recipe
    assert recipe.tokenizer.train == TrainTokenizer(vocab_size=500, sample_bytes=10**6)
    assert (recipe.sequence_length, recipe.output.shard_tokens) == (1000, 10**8)
    assert isinstance(recipe.domains[0].max_epochs, float)
    message = fault(SMALL, tmp_path, "budget_tokens=1.5")
    assert message == ("mix.yaml: budget_tokens: expected a whole number, got a number; found 1.5")


RECIPE_ALIASES = {
    "domains": SMALL["domains"], "budget_tokens": 77, "sequence_length": 16,
    "mixture": {"method": "uniform"},
}  # fmt: skip
DOMAIN_ALIASES = {
    "name": "web", "paths": "w.jsonl", "weight": 0.5, "max_epochs": 3.0, "metadata": {"a": "b"},
}  # fmt: skip


@pytest.mark.parametrize("alias", ALIASES["recipe"])
def test_recipe_aliases(alias, tmp_path):
    ours = ALIASES["recipe"][alias]
    expected = read(changed(**{ours: RECIPE_ALIASES[ours]}), tmp_path)
    value = changed(**{alias: RECIPE_ALIASES[ours]})
    value.pop(ours, None)
    loaded = read(value, tmp_path)
    assert loaded.recipe == expected.recipe
    assert loaded.notices == [f"{alias} is read as {ours}"]
    assert loaded.hash == expected.hash
    both = {**value, ours: RECIPE_ALIASES[ours]}
    assert fault(both, tmp_path) == (
        f"mix.yaml: {alias} means {ours}, which is given too: keep one"
    )


@pytest.mark.parametrize("alias", ALIASES["domain"])
def test_domain_aliases(alias, tmp_path):
    ours = ALIASES["domain"][alias]
    domain = {"name": "web", "paths": "p", ours: DOMAIN_ALIASES[ours]}
    manual = {"method": "manual"}
    expected = read(changed(domains=[domain], mixture=manual), tmp_path)
    other = dict(domain)
    other[alias] = other.pop(ours)
    loaded = read(changed(domains=[other], mixture=manual), tmp_path)
    assert loaded.recipe == expected.recipe
    where = "domains[0]" if ours == "name" else "domains[web]"
    assert loaded.notices == [f"{where}.{alias} is read as {where}.{ours}"]
    message = fault(changed(domains=[{**domain, alias: 1}]), tmp_path)
    assert f"domains[web].{alias} means domains[web].{ours}, which is given too" in message


@pytest.mark.parametrize("alias", BAD_RECORD_ALIASES)
def test_bad_record_aliases(alias, tmp_path):
    loaded = read(changed(on_bad_record=alias), tmp_path)
    assert loaded.recipe.on_bad_record == BAD_RECORD_ALIASES[alias]
    assert loaded.notices == [f"on_bad_record: '{alias}' is read as 'quarantine'"]


def test_weights_that_no_method_uses_are_noticed(tmp_path):
    assert unused_weights(read(FULL, tmp_path)) == []
    assert unused_weights(read(FULL, tmp_path, "mixture.method=uniform")) == [
        "the domains' weights do not shape the mixture: mixture.method is uniform, not manual"
    ]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("budget_token", 5, "unknown key 'budget_token'; did you mean 'budget_tokens'? (known"),
        ("zzz", 5, "unknown key 'zzz' (known here: name, tokenizer, domains, budget_tokens"),
        (1, 5, "unknown key '1' (known here"),
        ("tokenizer", {"eso": 1}, "unknown key 'tokenizer.eso'; did you mean 'eos'?"),
        ("tokenizer", {"train": {"vocab": 1}}, "'tokenizer.train.vocab'; did you mean 'vocab_si"),
        ("mixture", {"metod": 1}, "unknown key 'mixture.metod'; did you mean 'method'?"),
        ("validation", {"document": 1}, "'validation.document'; did you mean 'documents'?"),
        ("output", {"fromat": 1}, "unknown key 'output.fromat'; did you mean 'format'?"),
        ("counting", {"memory": 1}, "unknown key 'counting.memory'; did you mean 'memory_mb'?"),
        ("domains", [{"name": "a", "wait": 1}], "unknown key 'domains[a].wait'; did you mean 'w"),
        ("domains", [{"reeder": 1}], "unknown key 'domains[0].reeder'; did you mean 'reader'?"),
    ],
)
def test_unknown_keys_at_every_level(field, value, expected, tmp_path):
    assert expected in fault(changed(**{"name": "tiny"}) | {field: value}, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("name", "a b", "name: expected 1 to 100 letters, digits and . _ + -, the first a letter"),
        ("name", "ok\n", "name: expected 1 to 100 letters, digits and . _ + -"),
        ("name", "x" * 101, "name: expected 1 to 100 letters, digits and . _ + -"),
        ("name", 7, "name: expected text, got a whole number; found 7"),
        ("mixture", {"weights": {True: 1}}, "key must be text; write numbers, true and false in"),
        ("name", False, "name: expected text, and YAML reads false as a truth value: put it in qu"),
        ("domains", [{"name": False, "paths": "a"}], "domains[0].name: expected text, and YAML r"),
        ("domains", [{"name": "a", "paths": True}], "].paths: expected text, and YAML reads true"),
        ("budget_tokens", 0, "budget_tokens: expected a whole number >= 1; found 0"),
        ("budget_tokens", "10B", "budget_tokens: expected a whole number, got text; found '10B'"),
        ("sequence_length", 0, "sequence_length: expected a whole number >= 1; found 0"),
        ("max_epochs", 0, "max_epochs: expected a number > 0.0; found 0"),
        ("max_epochs", float("nan"), "max_epochs: expected a finite number; found nan"),
        ("domains", [], "domains: expected a list of length >= 1; found []"),
        ("domains", [{"name": "a"}], "domains[a].paths is missing"),
        ("domains", [{"paths": "a"}], "domains[0].name is missing"),
        ("domains", [{"name": "a", "paths": 5}], "domains[a].paths: expected text or a list, got"),
        ("domains", [{"name": "a", "paths": []}], "domains[a].paths is missing or empty; name a"),
        ("domains", [{"name": "a", "paths": ""}], "domains[a].paths is missing or empty"),
        ("domains", [{"name": "a", "paths": ["x", ""]}], "domains[a].paths is missing or empty"),
        ("domains", [{"name": "a", "paths": "p", "weight": -1}], "domains[a].weight: expected a n"),
        ("domains", [{"name": "a", "paths": "p"}] * 2, "domains: two are called 'a'; rename one"),
        ("domains", [{"name": n, "paths": "p"} for n in "Aa"], "'A' and 'a' differ only in case"),
        ("domains", ["a"], "domains[0]: expected a mapping, got text; found 'a'"),
        ("mixture", 5, "mixture: expected a mapping, got a whole number; found 5"),
        ("mixture", {"temperature": 0}, "mixture.temperature: expected a number > 0.0; found 0"),
        ("mixture", {"weights": {"wiki": 1, "code": -1}}, "mixture.weights[code]: expected a numb"),
        ("mixture", {"weights": {"wiki": "x"}}, "mixture.weights[wiki]: expected a number, got te"),
        ("mixture", {"weights": {1: 0.5}}, "mixture.weights: every key must be text; write numb"),
        ("mixture", {"weights": {"wikki": 1}}, "mixture.weights names no domain 'wikki'; did you "
         "mean 'wiki'? (known: wiki, code)"),
        ("mixture", {"floors": {"wikki": 0.1}}, "mixture.floors names no domain 'wikki'; did you "
         "mean 'wiki'? (known: wiki, code)"),
        ("mixture", {"caps": {"cod": 0.1}}, "mixture.caps names no domain 'cod'; did you mean"),
        ("mixture", {"prior": {"cod": 0.1}}, "mixture.prior names no domain 'cod'; did you mean"),
        ("mixture", {"prior": "unifrom"}, "mixture.prior: cannot be 'unifrom'; did you mean 'unif"),
        ("mixture", {"caps": {"wiki": 30}}, "mixture.caps[wiki]: expected a number <= 1.0; found"),
        ("mixture", {"floors": {"wiki": -1}}, "mixture.floors[wiki]: expected a number >= 0.0"),
        ("mixture", {"floors": {"wiki": 0.7, "code": 0.5}}, "mixture.floors: they sum to 1.2, more "
         "than 1. Lower them, for instance to 0.83 of what they are"),
        ("mixture", {"caps": {"wiki": 0.7, "code": 0.2}}, "mixture.caps: every domain has one, and "
         "they sum to 0.9, less than 1. Raise them, or leave one out"),
        ("mixture", {"floors": {"wiki": 0.5}, "caps": {"wiki": 0.4}}, "mixture.floors: 'wiki' must"
         " have at least 0.5, but mixture.caps allows it at most 0.4. Lower the floor or raise"),
        ("validation", {"documents": 1}, "validation.documents: expected a number < 1.0; found 1"),
        ("validation", {"documents": -0.1}, "validation.documents: expected a number >= 0.0"),
        ("on_shortfall", "eror", "on_shortfall: cannot be 'eror'; did you mean 'error'? (known: er"
         "ror, repeat, redistribute)"),
        ("mixture", {"kl": "automatic"}, "mixture.kl: cannot be 'automatic'; did you mean 'auto'? ("
         "known: auto, a number)"),
        ("mixture", {"objective": {"weights": "nois"}}, "mixture.objective.weights: cannot be 'noi"
         "s'; did you mean 'noise'? (known: noise, a mapping)"),
        ("mixture", {"kl": [1]}, "mixture.kl: expected a number or text or nothing, got a list"),
        ("on_bad_record", ["a"], "on_bad_record: cannot be '['a']' (known: error, quarantine)"),
        ("output", {"shard_tokens": 0}, "output.shard_tokens: expected a whole number >= 1"),
        ("output", None, "output: expected a mapping, got nothing; found None"),
        ("counting", {"memory_mb": 2}, "counting.memory_mb: expected a whole number >= 16; found"),
        ("cache", 5, "cache: expected text, got a whole number; found 5"),
        ("seed", "x" * 100, f"seed: expected a whole number, got text; found '{'x' * 39}…"),
        ("tokenizer", {"eos": None}, "tokenizer needs exactly one of path, hub and train; found n"),
        ("tokenizer", {"path": "a", "hub": "b", "eos": None}, "found path and hub"),
        ("tokenizer", {"path": "a"}, 'tokenizer.eos is missing: name the token that ends a docume'),
        ("tokenizer", {"hub": "a/b"}, "or eos: null for none"),
        ("tokenizer", {"path": "a", "eos": 3}, "tokenizer.eos: expected text or nothing, got a wh"),
        ("tokenizer", {"path": "a", "eos": None, "backend": "fast"}, "tokenizer.backend: cannot be"
         " 'fast'; did you mean 'fastokens'? (known: auto, tokenizers, fastokens, gigatoken)"),
        ("tokenizer", {"train": {}}, "tokenizer.train.vocab_size is missing"),
        ("tokenizer", {"train": {"vocab_size": 100}}, "tokenizer.train.vocab_size: expected a who"),
        ("tokenizer", {"train": {"vocab_size": 300}, "eos": None}, "tokenizer.eos: a trained tok"),
    ],
)  # fmt: skip
def test_values_that_cannot_be(field, value, expected, tmp_path):
    message = fault(changed(**{field: value}), tmp_path)
    assert message.startswith("mix.yaml: ")
    assert expected in message


@pytest.mark.parametrize("field", ["name", "tokenizer", "domains", "budget_tokens"])
def test_required_fields(field, tmp_path):
    value = changed()
    del value[field]
    assert fault(value, tmp_path) == f"mix.yaml: {field} is missing"


def test_weights_in_two_places(tmp_path):
    message = fault(FULL, tmp_path, "mixture.weights.wiki=0.5")
    assert message == (
        "mix.yaml: weights stand both in mixture.weights and in domains[wiki].weight: keep one"
    )


def test_a_trained_tokenizer_needs_no_eos(tmp_path):
    train = changed(tokenizer={"train": {"vocab_size": 260}})
    assert read(train, tmp_path).recipe.tokenizer.eos is msgspec.UNSET
    named = changed(tokenizer={"train": {"vocab_size": 260}, "eos": "</s>"})
    assert read(named, tmp_path).recipe.tokenizer.eos == "</s>"
    none = changed(tokenizer={"path": "t", "eos": None})
    assert read(none, tmp_path).recipe.tokenizer.eos is None


@pytest.mark.parametrize(
    ("override", "get", "expected"),
    [
        ("seed=9", lambda r: r.seed, 9),
        ("mixture.method=entropy", lambda r: r.mixture.method, "entropy"),
        ("output.dir=", lambda r: r.output.dir, None),
        ("cache=a=b", lambda r: r.cache, "a=b"),
        ("domains.code.max_epochs=2", lambda r: r.domains[1].max_epochs, 2),
        ("domains.0.text=body", lambda r: r.domains[0].text, "body"),
        ("domains.wiki.metadata.a.b=x", lambda r: r.domains[0].metadata, {"a": {"b": "x"}}),
        ("domains.wiki.paths=[a, b]", lambda r: r.domains[0].paths, ["a", "b"]),
        ("domains=[{name: x, paths: y}]", lambda r: [d.name for d in r.domains], ["x"]),
        ("budget_tokens=1e9", lambda r: r.budget_tokens, 10**9),
        ("on_bad_record=skip", lambda r: r.on_bad_record, "quarantine"),
        ("max_tokens=5", lambda r: r.budget_tokens, 5),
        ("sources.wiki.max_repetition_factor=3", lambda r: r.domains[0].max_epochs, 3),
    ],
)  # fmt: skip
def test_overrides(override, get, expected, tmp_path):
    assert get(read(SMALL, tmp_path, override).recipe) == expected


def test_overrides_reach_domains_whose_names_hold_dots(tmp_path):
    recipe = read(FULL, tmp_path, "domains.c4.en.weight=0.5", "domains.c4.en.metadata.a=1").recipe
    assert recipe.domains[1].weight == 0.5
    assert recipe.domains[1].metadata == {"a": 1}
    value = changed(domains=[{"name": "c4.en", "paths": "p"}, {"name": "c4", "paths": "q"}])
    recipe = read(value, tmp_path, "mixture.weights.c4.en=0.5", "domains.c4.en.id=k").recipe
    assert recipe.mixture.weights == {"c4.en": 0.5}
    assert [domain.id for domain in recipe.domains] == ["k", "id"]


def test_overrides_apply_in_order_and_aliases_are_noticed(tmp_path):
    loaded = read(SMALL, tmp_path, "seed=1", "seed=2", "max_tokens=7")
    assert (loaded.recipe.seed, loaded.recipe.budget_tokens) == (2, 7)
    assert loaded.notices == ["--set: max_tokens is read as budget_tokens"]
    switched = read(
        SMALL, tmp_path, "tokenizer.train.vocab_size=300", "tokenizer.path=", "tokenizer.eos=</s>"
    )
    assert switched.recipe.tokenizer.train == TrainTokenizer(vocab_size=300)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "--set seed: expected key.sub=value, as in mixture.method=uniform"),
        ("=1", "--set =1: expected key.sub=value"),
        (".seed=1", "--set .seed=1: expected key.sub=value"),
        ("a..b=1", "--set a..b=1: expected key.sub=value"),
        ("seed={", "--set seed={:1: not valid YAML ("),
        ("seed={a: 1, a: 2}", "the key 'a' is given twice"),
        ("sed=1", "mix.yaml: unknown key 'sed'; did you mean 'seed'?"),
        ("name.x=1", "--set name.x=1: 'name' is not a mapping"),
        ("name.x.y=1", "--set name.x.y=1: 'name.x' is not a mapping"),
        ("domains.wiki=1", "name a field of one domain, as in domains.wiki.weight=0.2"),
        ("domains.web.id=1", "--set domains.web.id=1: no 'web' in 'domains'; there are wiki, code"),
        ("domains.\u00b2.id=1", "no '\u00b2' in 'domains'"),
        ("domains.7.id=1", "no '7' in 'domains'; there are wiki, code"),
        ("domains.code.paths.0=x", "'domains.code.paths' is a list: give all of it, as in "
         "domains.code.paths=[x]"),
        ("domains.code.paths.4.y=x", "no '4' in 'domains.code.paths'; it has 1 items"),
    ],
)  # fmt: skip
def test_overrides_that_lead_nowhere(override, expected, tmp_path):
    assert expected in fault(SMALL, tmp_path, override)


def test_hash_ignores_places_and_nothing_else(tmp_path):
    base = read(FULL, tmp_path).hash
    assert read(FULL, tmp_path / "elsewhere").hash == base
    for same in ("cache=x", "output.dir=y", "output.dir=", "base=z", "counting.memory_mb=65",
                 "limits.memory_mb=65"):  # fmt: skip
        assert read(FULL, tmp_path, same).hash == base
    different = [
        "name=x", "tokenizer.path=x", "tokenizer.eos=x", "tokenizer.backend=auto",
        "domains.wiki.name=x", "domains.wiki.paths=x", "domains.wiki.weight=0.3",
        "domains.wiki.max_epochs=5", "domains.wiki.text=x", "domains.wiki.id=x",
        "domains.wiki.reader=csv", "domains.wiki.glob=x", "domains.wiki.license=x",
        "domains.wiki.metadata.origin=x", "mixture.method=uniform", "mixture.measure=shannon",
        "mixture.temperature=3", "budget_tokens=5", "sequence_length=4", "max_epochs=2",
        "validation.documents=0.5", "validation.key=4", "on_shortfall=error",
        "on_bad_record=quarantine", "output.format=megatron", "output.shard_tokens=2",
        "seed=8",
    ]  # fmt: skip
    hashes = [read(FULL, tmp_path, override).hash for override in different]
    assert base not in hashes
    assert len(set(hashes)) == len(hashes)


def test_hash_takes_any_metadata(tmp_path):
    metadata = {"years": {2020: "a", "other": None}, "day": "2024-01-05"}
    text = yaml.safe_dump(changed(domains=[{"name": "a", "paths": "p", "metadata": metadata}]))
    text = text.replace("'2024-01-05'", "2024-01-05")  # a date, not text
    assert len(read(text, tmp_path).hash) == 32


def structs():
    found = [Recipe]
    for struct in found:
        for field in msgspec.structs.fields(struct):
            for nested in nested_structs(field.type):
                if nested not in found:
                    found.append(nested)
    return found


def nested_structs(annotation):
    if inspect.isclass(annotation) and issubclass(annotation, msgspec.Struct):
        return [annotation]
    return [s for part in getattr(annotation, "__args__", ()) for s in nested_structs(part)]


TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}


def check_schema(node, definitions):
    """A few rules of JSON Schema: types that exist, references that lead somewhere, lists of it."""
    if "$ref" in node:
        assert node["$ref"].removeprefix("#/$defs/") in definitions
    assert node.get("type", "null") in TYPES
    assert isinstance(node.get("enum", []), list)
    for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems"):
        assert isinstance(node.get(key, 0), (int, float))
    assert set(node.get("required", [])) <= set(node.get("properties", {}))
    for child in [*node.get("properties", {}).values(), *node.get("anyOf", [])]:
        check_schema(child, definitions)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            check_schema(node[key], definitions)


def test_schema_is_a_json_schema_of_every_field():
    found = msgspec.json.decode(msgspec.json.encode(schema()))
    definitions = found["$defs"]
    described = descriptions()
    check_schema(found, definitions)
    for definition in definitions.values():
        check_schema(definition, definitions)
    assert found["$ref"] == "#/$defs/Recipe"
    assert {struct.__name__ for struct in structs()} == set(definitions)
    for struct in structs():
        definition = definitions[struct.__name__]
        fields = msgspec.structs.fields(struct)
        assert list(definition["properties"]) == [field.encode_name for field in fields]
        assert definition["additionalProperties"] is False
        keys = [field.encode_name for field in fields]
        assert list(described[struct.__name__]) == keys  # each described, in order
        for key, field in definition["properties"].items():
            assert field["description"].endswith((".", ")."))
            assert field["description"] == described[struct.__name__][key]
    assert definitions["Recipe"]["required"] == ["name", "tokenizer", "domains", "budget_tokens"]
    with pytest.raises(AssertionError):  # the check itself can fail
        check_schema({"anyOf": [{"$ref": "#/$defs/Nothing"}]}, definitions)


def test_a_directory_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"a directory, not a recipe$"):
        load(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(RecipeError, match=r"not a recipe; a dataset's own is .*recipe\.yaml$"):
        load(tmp_path)
