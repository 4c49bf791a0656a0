"""Tokenizer definitions and the encoders made of them: exact, or refused with a reason."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from conftest import END, PAD, Listener, make_documents
from tokenizers import models, normalizers, pre_tokenizers

from curate.errors import TokenizerError
from curate.pipeline.tokenize import tokenize_domains
from curate.recipe import load as load_recipe
from curate.sources import expand, identify, segments
from curate.sources.records import ReadOptions
from curate.tokens import backends, selftest
from curate.tokens.backends import (
    BACKENDS,
    BackendRefused,
    FastokensEncoder,
    ReferenceEncoder,
    first_choice,
    installed,
    reference_choice,
)
from curate.tokens.fill import SAMPLE_BYTES, sample_documents
from curate.tokens.selftest import Verdict, judge, probes, reference_answers
from curate.tokens.tokenizer import Tokenizer, from_json, load, load_hub, save

pytestmark = pytest.mark.usefixtures("own_store")


def changed(definition, **fields):
    value = json.loads(json.dumps(definition))
    value.update(fields)
    return value


def read(definition, eos=END):
    text = definition if isinstance(definition, str) else json.dumps(definition)
    return from_json(text.encode(), eos, "tokenizer.json")


def fault(definition, eos=END):
    with pytest.raises(TokenizerError) as caught:
        read(definition, eos)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def added(number, content, special=True):
    return {
        "id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": special,
    }  # fmt: skip


# Definitions.


def test_ids_are_those_of_the_library(bpe):
    found = read(bpe)
    reference = tokenizers.Tokenizer.from_str(json.dumps(bpe))
    ids = reference.get_vocab(with_added_tokens=True)
    assert found.eos_id == reference.token_to_id(END) == ids[END]
    assert found.vocabulary == max(ids.values()) + 1 == 400
    assert found.special_tokens == (END, PAD)
    assert found.notices == ()
    assert (found.dtype, found.end_symbol) == (np.dtype("<u2"), found.eos_id)
    without = read(bpe, None)
    assert (without.eos, without.eos_id, without.end_symbol) == (None, None, 400)


def other_models():
    unigram = models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("ab", -1.5)], unk_id=0)
    words = models.WordLevel({"<unk>": 0, "a": 3, "b": 7}, unk_token="<unk>")
    pieces = models.WordPiece({"<unk>": 0, "a": 1, "##b": 2}, unk_token="<unk>")
    return {"unigram": unigram, "words": words, "pieces": pieces}


@pytest.mark.parametrize("name", other_models())
def test_other_models_have_the_ids_of_the_library_too(name):
    reference = tokenizers.Tokenizer(other_models()[name])
    reference.pre_tokenizer = pre_tokenizers.Whitespace()
    reference.add_special_tokens(["</s>"])
    found = read(reference.to_str(), "</s>")
    ids = reference.get_vocab(with_added_tokens=True)
    if name == "words":  # a hole in the ids: the library puts the next token at the size
        assert ids["</s>"] == 3
    assert found.eos_id == ids["</s>"]
    assert found.vocabulary == max(ids.values()) + 1
    got, _ = ReferenceEncoder(found).encode(["a b"])
    assert got.tolist() == reference.encode("a b").ids


def test_a_token_that_the_model_knows_keeps_the_models_id(bpe):
    value = changed(bpe, added_tokens=[added(7, END)])
    assert value["model"]["vocab"][END] == 0
    found = read(value)
    assert found.eos_id == 0
    ReferenceEncoder(found)


def test_ids_that_the_library_gives_otherwise_are_refused(bpe):
    wrong = read(changed(bpe, added_tokens=[*bpe["added_tokens"], added(450, "</s>")]), "</s>")
    assert wrong.eos_id == 450
    with pytest.raises(TokenizerError, match=r"'</s>' gets id 400, not 450 as written; fix the"):
        ReferenceEncoder(wrong)
    low = read(changed(bpe, added_tokens=[*bpe["added_tokens"], added(5, "<|x|>")]))
    with pytest.raises(TokenizerError, match=r"an added token gets id 400, above the highest one"):
        ReferenceEncoder(low)


@pytest.mark.parametrize(
    ("highest", "width"), [(65534, "<u2"), (65535, "<u2"), (65536, "<u4"), (200_000, "<u4")]
)
def test_width_follows_the_highest_id(highest, width):
    words = {"type": "WordLevel", "vocab": {"<unk>": 0, "</s>": 1, "z": highest}, "unk_token": "<"}
    found = read({"model": words, "added_tokens": [added(1, "</s>")]}, "</s>")
    assert (found.vocabulary, found.dtype) == (highest + 1, np.dtype(width))
    assert read({"model": words}, None).end_symbol == highest + 1
    beyond = {"model": words, "added_tokens": [added(highest + 1, "</s>2")]}
    assert read(beyond, None).vocabulary == highest + 2


def test_an_end_that_is_not_special_becomes_so_with_a_notice(bpe):
    value = changed(bpe, added_tokens=[added(0, END, special=False), added(1, PAD)])
    found = read(value)
    assert found.notices == (
        f"tokenizer: '{END}' is treated as special, so text cannot produce it",
    )
    assert found.special_tokens == (END, PAD)
    ids, _ = ReferenceEncoder(found).encode([f"a{END}b"])
    assert found.eos_id not in ids


@pytest.mark.parametrize(
    ("eos", "expected"),
    [
        ("</s>", f"tokenizer.eos: '</s>' is not in tokenizer.json; its special tokens: {END}, "
         f"{PAD}. Name one of them, or eos: null for documents without an end"),
        ("a", "tokenizer.eos: 'a' is an ordinary token of tokenizer.json (id 66), so text can "
         "produce it; name a special token, or eos: null"),
    ],
)  # fmt: skip
def test_ends_that_cannot_be(eos, expected, bpe):
    assert fault(bpe, eos) == expected


def test_an_end_where_nothing_is_special(bpe):
    assert "its special tokens: none." in fault(changed(bpe, added_tokens=[]), "</s>")


def test_dropout_is_refused(bpe):
    model = {**bpe["model"], "dropout": 0.1}
    assert fault(changed(bpe, model=model)) == (
        "tokenizer tokenizer.json: BPE dropout 0.1 makes ids random; "
        "set model.dropout to null in its tokenizer.json"
    )
    assert read(changed(bpe, model={**model, "dropout": 0.0})).vocabulary == 400


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"model": []}', '{"model": {}}', '{"model": {"vocab": 3}}',
     '{"model": {"vocab": {}}}', '{"model": {"vocab": {"a": "0"}}}', '{"model": {"vocab": [1]}}',
     '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}',
     '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "x"}]}',
     '{"model": {"vocab": {"a": 0}}, "added_tokens": [7]}'],
)  # fmt: skip
def test_what_is_no_tokenizer(text):
    assert fault(text, None).startswith("tokenizer tokenizer.json: not a tokenizer.json (")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(TokenizerError, match=r"tokenizer .*absent\.json: cannot be read \(No suc"):
        load(tmp_path / "absent.json", None)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenizerError, match=r"binary\.json: not a tokenizer\.json \("):
        load(tmp_path / "binary.json", None)


def test_a_definition_that_the_library_cannot_load_is_found_when_it_is_built(bpe):
    found = read(changed(bpe, pre_tokenizer={"type": "Unheard"}))
    with pytest.raises(TokenizerError, match=r"tokenizer tokenizer\.json: cannot be loaded \("):
        ReferenceEncoder(found)
    with pytest.raises(BackendRefused, match=r"fastokens cannot load tokenizer\.json \(ValueError"):
        FastokensEncoder(found)


def test_truncation_and_padding_are_removed(bpe):
    reference = tokenizers.Tokenizer.from_str(json.dumps(bpe))
    reference.enable_truncation(4)
    reference.enable_padding(length=64, pad_token=PAD, pad_id=1)
    found = read(reference.to_str())
    assert read(bpe).fingerprint == found.fingerprint
    text = "the river of the city\n" * 40
    plain = tokenizers.Tokenizer.from_str(json.dumps(bpe)).encode(text).ids
    assert 64 < len(plain)
    for kind in (ReferenceEncoder, FastokensEncoder):
        ids, offsets = kind(found).encode([text, "a"])
        assert ids[: offsets[1]].tolist() == plain
        assert offsets[2] - offsets[1] == 1


def test_beginnings_of_text_are_left_out(bpe):
    reference = tokenizers.Tokenizer.from_str(json.dumps(bpe))
    reference.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{END} $A {PAD}", special_tokens=[(END, 0), (PAD, 1)]
    )
    assert reference.encode("a").ids == [0, reference.token_to_id("a"), 1]
    for kind in (ReferenceEncoder, FastokensEncoder):
        ids, _ = kind(read(reference.to_str())).encode(["a"])
        assert ids.tolist() == [reference.token_to_id("a")]


def test_fingerprint_is_of_the_definition_and_the_end(bpe, tmp_path):
    found = read(bpe)
    assert read(json.dumps(bpe, indent=4)).fingerprint == found.fingerprint
    assert from_json(json.dumps(bpe).encode(), END, "another name").fingerprint == found.fingerprint
    others = [
        read(bpe, PAD), read(bpe, None), read(changed(bpe, normalizer={"type": "NFC"})),
        read(changed(bpe, added_tokens=[added(0, END)])),
    ]  # fmt: skip
    assert len({found.fingerprint, *(other.fingerprint for other in others)}) == 5
    save(found, tmp_path / "tokenizer.json")
    assert load(tmp_path / "tokenizer.json", END).fingerprint == found.fingerprint


def test_what_is_saved_is_a_tokenizer_json(bpe, tmp_path):
    value = changed(bpe, added_tokens=[added(0, END, special=False), added(1, PAD)])
    save(read(value), tmp_path / "tokenizer.json")
    again = load(tmp_path / "tokenizer.json", END)
    assert again.notices == ()
    assert again.fingerprint == read(value).fingerprint
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "hello the river ü 你好"
    assert (
        reference.encode(text).ids
        == tokenizers.Tokenizer.from_str(json.dumps(bpe)).encode(text).ids
    )


# The Hugging Face hub, without a network.

HUB_SCRIPT = """
import sys
from curate.errors import CurateError
from curate.tokens.tokenizer import load_hub
try:
    found = load_hub(sys.argv[1], "<|endoftext|>")
except CurateError as error:
    print(error)
else:
    print(found.vocabulary, found.name)
"""


def run_hub(identifier, home):
    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT, identifier],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_hub_uses_what_is_in_its_cache(bpe, tmp_path):
    commit = "c" * 40
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "tokenizer.json").write_text(json.dumps(bpe))
    assert run_hub("owner/name", tmp_path) == "400 owner/name"
    assert run_hub(f"owner/name@{commit}", tmp_path) == f"400 owner/name@{commit}"


@pytest.mark.parametrize("identifier", ["owner/absent", "owner/name@v2", "not a name"])
def test_hub_without_the_tokenizer(identifier, tmp_path):
    message = run_hub(identifier, tmp_path)
    assert message.startswith(f"tokenizer {identifier}: cannot be fetched from the hub (")
    assert message.endswith("download its tokenizer.json and give tokenizer.path")
    assert "\n" not in message


def test_hub_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        TokenizerError, match=r"owner/name: needs the package huggingface_hub; inst"
    ):
        load_hub("owner/name", None)


# Encoders.


def installed_backends():
    return [name for name in BACKENDS if installed(name) is not None]


TEXTS = [
    "the river city",
    "",
    f"before {END} after",
    "你好 ещё\n",
    f"{PAD}{END}",
    " " * 40,
    "def f(x): return x + 1",
]


@pytest.mark.parametrize("name", installed_backends())
def test_encoders_keep_their_promises(name, bpe):
    tokenizer = read(bpe)
    plain = tokenizers.Tokenizer.from_str(json.dumps(bpe))
    plain.encode_special_tokens = True
    encoder = BACKENDS[name](tokenizer)
    for texts in (TEXTS, TEXTS[::-1], TEXTS[:1], TEXTS[2:3], TEXTS[1:2], [], TEXTS * 40):
        ids, offsets = encoder.encode(texts)
        assert ids.dtype == np.uint32
        assert offsets.dtype == np.int64
        assert len(offsets) == len(texts) + 1
        assert (offsets[0], offsets[-1]) == (0, len(ids))
        for number, text in enumerate(texts):
            own = ids[offsets[number] : offsets[number + 1]].tolist()
            assert own == plain.encode(text, add_special_tokens=False).ids
            assert plain.decode(own, skip_special_tokens=False) == text
        assert not np.isin(ids, [0, 1]).any()  # neither special token


@pytest.mark.parametrize("end", [END, None])
def test_fastokens_equals_the_reference_on_the_probes(end, bpe):
    tokenizer = read(bpe, end)
    texts = probes(tokenizer)
    assert any(END in text for text in texts)
    expected, expected_offsets = ReferenceEncoder(tokenizer).encode(texts)
    found, offsets = FastokensEncoder(tokenizer).encode(texts)
    assert np.array_equal(found, expected)
    assert np.array_equal(offsets, expected_offsets)


def test_gigatoken_is_renewed_without_a_change(bpe, monkeypatch):
    pytest.importorskip("gigatoken")
    encoder = BACKENDS["gigatoken"](read(bpe))
    expected = encoder.encode(TEXTS)
    monkeypatch.setattr(backends.GigatokenEncoder, "RENEW_BYTES", 10)
    built = encoder._tokenizer
    found = encoder.encode(TEXTS)
    assert encoder._tokenizer is not built
    assert all(map(np.array_equal, found, expected))


def test_fastokens_keeps_to_one_thread_and_gives_the_cores_back():
    script = """
import os
from curate.tokens.backends import FastokensEncoder
from curate.tokens.tokenizer import from_json
import json
allowed = os.sched_getaffinity(0)
letters = [chr(code) for code in range(33, 127)]
vocabulary = {token: number for number, token in enumerate(["<e>", *letters])}
words = {"type": "BPE", "merges": [], "vocab": vocabulary}
special = {"id": 0, "content": "<e>", "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}
pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
text = json.dumps({"version": "1.0", "model": words, "added_tokens": [special],
                   "pre_tokenizer": pre})
before = len(os.listdir("/proc/self/task"))
encoder = FastokensEncoder(from_json(text.encode(), "<e>", "x"))
encoder.encode(["ab" * 1000] * 1000)
threads = os.listdir("/proc/self/task")
assert len(threads) <= before + 1, threads
assert all(os.sched_getaffinity(int(thread)) == allowed for thread in threads)
"""
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("cores cannot be chosen here")
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)


# The self-test, and what happens when it fails.


class Wrong:
    """The reference, but for one id of the texts that hold a mark."""

    mark = ""

    def __init__(self, tokenizer):
        self._reference = ReferenceEncoder(tokenizer)
        self.calls = 0

    def encode(self, texts):
        self.calls += 1
        ids, offsets = self._reference.encode(texts)
        ids = ids.copy()
        for number, text in enumerate(texts):
            if self.mark in text and offsets[number] < offsets[number + 1]:
                ids[offsets[number]] += 1
        return ids, offsets


class WrongOnRivers(Wrong):
    mark = "river"


class WrongOnNothing(Wrong):
    mark = "never in any text"


class Short(WrongOnNothing):
    def encode(self, texts):
        ids, offsets = super().encode(texts[:-1])
        return ids, offsets


class PanicException(BaseException):  # noqa: N818 - the name that Rust's panics have in Python
    pass


class Panicking(WrongOnNothing):
    def encode(self, texts):
        raise PanicException("index out of bounds:\nthe length is 3")


class Failing(WrongOnNothing):
    def encode(self, texts):
        raise TypeError("no")


class Interrupted(WrongOnNothing):
    def encode(self, texts):
        raise KeyboardInterrupt


SAMPLE = ["the river city", "no hello"]


@pytest.fixture
def short_probes(monkeypatch):
    """The odd inputs without the two long ones, which take the reference a second."""
    monkeypatch.setattr(selftest, "probes", lambda tokenizer: probes(tokenizer)[:-2])


def self_test(tokenizer, name, candidate, sample, memory):
    answers = reference_answers(tokenizer, name, sample, memory)
    return judge(tokenizer, name, candidate, answers, memory)


def verdict_of(kind, tokenizer, memory, sample=SAMPLE, name="fastokens"):
    return self_test(tokenizer, name, kind(tokenizer), sample, memory)


@pytest.mark.parametrize("name", ["tokenizers", "fastokens"])
def test_backends_pass_their_test(name, bpe, tmp_path):
    tokenizer = read(bpe)
    verdict = self_test(tokenizer, name, BACKENDS[name](tokenizer), SAMPLE, tmp_path)
    assert verdict == Verdict(None, ())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Wrong, r"fastokens differs from the reference on an odd input starting '\\x00'"),
        (WrongOnRivers, "fastokens differs from the reference on a document starting 'the river c"),
        (Short, r"fastokens gives \d+ results for \d+ texts"),
        (Panicking, "fastokens fails on an odd input .PanicException: index out of bounds: the le"),
        (Failing, "fastokens fails on an odd input .TypeError: no."),
    ],
)
def test_a_wrong_backend_is_found(kind, expected, bpe, tmp_path, short_probes):
    problem = verdict_of(kind, read(bpe), tmp_path).problem
    assert problem is not None
    assert re.match(expected, problem)
    assert "\n" not in problem


def test_the_users_wish_to_stop_is_no_fault_of_a_backend(bpe, tmp_path, short_probes):
    with pytest.raises(KeyboardInterrupt):
        verdict_of(Interrupted, read(bpe), tmp_path)


def test_verdicts_on_odd_inputs_are_remembered(bpe, tmp_path, short_probes):
    tokenizer = read(bpe)
    good = WrongOnNothing(tokenizer)
    for calls in (2, 3):  # odd inputs and documents, then documents only
        assert self_test(tokenizer, "fastokens", good, SAMPLE, tmp_path).problem is None
        assert good.calls == calls
    assert len(list(tmp_path.iterdir())) == 1
    bad = Wrong(tokenizer)
    assert self_test(tokenizer, "tokenizers", bad, SAMPLE, tmp_path).problem is None
    other = read(bpe, None)
    first = self_test(other, "fastokens", Wrong(other), SAMPLE, tmp_path)
    good = WrongOnNothing(other)
    assert self_test(other, "fastokens", good, SAMPLE, tmp_path) == first  # remembered as wrong
    assert good.calls == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_memory_is_made_again(content, bpe, tmp_path, short_probes):
    tokenizer = read(bpe)
    verdict_of(WrongOnNothing, tokenizer, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(content)
    assert verdict_of(WrongOnNothing, tokenizer, tmp_path).problem is None
    assert path.read_bytes() == whole


def test_a_memory_that_cannot_be_written_does_no_harm(bpe, tmp_path, short_probes):
    (tmp_path / "file").touch()
    assert verdict_of(WrongOnNothing, read(bpe), tmp_path / "file" / "memory").problem is None


def test_text_that_does_not_come_back_is_noticed(bpe, tmp_path, short_probes):
    lower = changed(bpe, normalizer={"type": "Lowercase"})
    verdict = verdict_of(FastokensEncoder, read(lower), tmp_path, ["River", "city", "Ü"])
    assert verdict.problem is None
    assert verdict.notices == (
        "tokenizer: 2 of 3 sampled documents do not decode to the same text (a normaliser or an "
        "unknown token); tokens are as the tokenizer gives them",
    )


def test_text_that_produces_the_end_is_refused(bpe, tmp_path):
    letter = bpe["model"]["vocab"]["a"]
    tokenizer = read(changed(bpe, added_tokens=[added(letter, "a")]), "a")
    assert tokenizer.eos_id == letter
    with pytest.raises(
        TokenizerError, match=rf"produced the end-of-text id {letter}, so documents"
    ):
        verdict_of(ReferenceEncoder, tokenizer, tmp_path, ["a"], "tokenizers")


def test_first_choices(monkeypatch):
    assert first_choice("auto").name == "fastokens"
    assert first_choice("fastokens") == first_choice("auto")
    assert first_choice("tokenizers").version == tokenizers.__version__
    with pytest.raises(TokenizerError) as caught:
        first_choice("nosuch")
    assert str(caught.value) == (
        "tokenizer.backend: nosuch is not installed; install it, or use backend: auto "
        "(known: tokenizers, fastokens, gigatoken)"
    )
    monkeypatch.setattr(backends, "AUTOMATIC", "nosuch")
    assert first_choice("auto") == reference_choice("nosuch is not installed")
    assert first_choice("auto").notice == (
        "tokenizer backend nosuch is not installed: using tokenizers, which is much slower"
    )


def ingest_with(backend, recipe, monkeypatch, *overrides):
    memory = "good" if backend is None else backend.__name__
    monkeypatch.setenv("XDG_CACHE_HOME", str(recipe.parent / memory))
    if backend is not None:
        monkeypatch.setitem(BACKENDS, "fastokens", backend)
    listener = Listener()
    return tokenize_domains(load_recipe(recipe, overrides), 2, listener), listener.notices


@pytest.mark.parametrize(
    "kind", [pytest.param(Wrong, marks=pytest.mark.slow), WrongOnRivers, Panicking]
)
def test_a_wrong_backend_is_replaced_in_auto_and_refused_when_pinned(
    kind, recipe, monkeypatch, tmp_path, short_probes
):
    pinned = ("tokenizer.backend=fastokens",)
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.backend: fastokens (differs|fails) .*; us"
    ):
        ingest_with(kind, recipe, monkeypatch, *pinned)
    found, notices = ingest_with(kind, recipe, monkeypatch)
    assert [text for text in notices if text.startswith("tokenizer backend fastokens")]
    assert found.backend.startswith("tokenizers ")
    monkeypatch.undo()
    good, notices = ingest_with(None, recipe, monkeypatch, f"cache={tmp_path}/good")
    assert not any("backend" in text for text in notices)
    assert good.backend.startswith("fastokens ")
    assert good.content_hash == found.content_hash
    for own, other in zip(good.domains, found.domains, strict=True):
        assert np.array_equal(own.tokens, other.tokens)
        for number in range(0, len(own), 10):
            assert np.array_equal(own.document(number), other.document(number))


def test_a_definition_that_a_backend_cannot_load_goes_to_the_reference(
    recipe, monkeypatch, tmp_path, short_probes
):
    words = {word for name in ("wiki", "code") for row in make_documents(name, 50)
             for word in row["text"].split()}  # fmt: skip
    vocabulary = {word: number for number, word in enumerate(["<unk>", *sorted(words)])}
    plain = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.normalizer = normalizers.NFC()
    plain.add_special_tokens(["</s>"])
    plain.save(str(tmp_path / "words.json"))
    path = f"tokenizer={{path: {tmp_path}/words.json, eos: </s>}}"
    found, notices = ingest_with(None, recipe, monkeypatch, path)
    refused = [text for text in notices if "fastokens cannot load" in text]
    assert len(refused) == 1
    assert refused[0].endswith("using tokenizers, which is much slower")
    assert found.backend.startswith("tokenizers ")
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.backend: fastokens cannot load .*; use ba"
    ):
        ingest_with(None, recipe, monkeypatch, path, "tokenizer.backend=fastokens", "cache=other")


def test_tokenizers_are_values(bpe):
    assert read(bpe) == read(bpe)
    assert isinstance(read(bpe), Tokenizer)


def test_the_sample_for_a_backend_is_of_different_files(tmp_path):
    paths = []
    for name in "abc":
        paths.append(tmp_path / f"{name}.jsonl")
        rows = [{"text": f"{name}{number} " * 2000} for number in range(60)]
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = identify(expand(list(map(str, paths)), ReadOptions(), tmp_path), tmp_path)
    plans = segments(found, ReadOptions(), segment_bytes=100_000)
    assert all(plan.count > 3 for plan in plans)
    sample = sample_documents([plan for plan in plans for _ in range(plan.count)])
    assert {text[0] for text in sample} == set("abc")
    assert len(set(sample)) == len(sample)
    assert sum(map(len, sample)) > 0.9 * SAMPLE_BYTES
