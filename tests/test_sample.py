"""Selection and order: exact to the token, nested, and independent of how files are cut."""

import numpy as np
import pytest
import xxhash

from curate.errors import InfeasiblePlan
from curate.plan import (
    PIECE,
    DocumentSampler,
    DocumentStream,
    Samples,
    SequenceSampler,
    TokenCopier,
    permute,
    shard_count,
    stream,
)
from curate.plan import documents as documents_module
from curate.plan.documents import lengthen_last
from curate.plan.streams import mix_key
from curate.tokens.domain import DomainTokens
from curate.tokens.entries import DomainFile, Entry, StoredEntry
from curate.tokens.store import DOCUMENT, PartWriter

SEED = 42
LENGTH = 64


def make_documents(name, documents, longest=40, seed=0):
    """Identifiers and tokens; one document in ten is a copy of another with an id of its own."""
    rng = np.random.default_rng([seed, *name.encode()])
    found = []
    for number in range(documents):
        tokens = rng.integers(1, 60_000, rng.integers(1, longest + 1))
        if number % 10 == 9:
            tokens = found[number - 9][1]
        found.append((f"{name}-{number}", tokens))
    return found


def write_domain(store, name, files, dtype="<u2", segment_documents=1 << 30):
    """A real domain: each file in segments, every few segments in a part of their own."""
    dtype = np.dtype(dtype)
    writer = PartWriter(store, "test 1")
    entries = {}
    for number, documents in enumerate(files):
        key = f"{name}-{number}-{segment_documents}"
        cuts = range(0, len(documents), segment_documents) or [0]
        for segment, start in enumerate(cuts):
            add_segment(writer, key, segment, documents[start : start + segment_documents], dtype)
            own = list(writer.entries)
            if segment % 3 == 2 or segment == len(cuts) - 1:
                path = writer.flush()
                for entry in own:
                    stored = StoredEntry(path, entry, "test 1")
                    entries.setdefault(number, []).append(stored)
    listed = [DomainFile(f"file-{number}", tuple(entries[number])) for number in sorted(entries)]
    return DomainTokens(name, listed, dtype)


def add_segment(writer, key, segment, documents, dtype):
    document_start, token_start = writer.document_count, writer.token_count
    table = np.zeros(len(documents), DOCUMENT)
    tokens = [np.asarray(tokens, dtype) for _, tokens in documents]
    names = [name.encode() for name, _ in documents]
    table["token_stop"] = np.cumsum([len(own) for own in tokens])
    table["id_stop"] = np.cumsum([len(name) for name in names])
    table["identity"] = [xxhash.xxh3_64_intdigest(name) for name in names]
    digests = [xxhash.xxh3_128_intdigest(own.astype("<u4").tobytes()) for own in tokens]
    table["content_high"] = [digest >> 64 for digest in digests]
    table["content_low"] = [digest & (2**64 - 1) for digest in digests]
    table["line"] = np.arange(1, len(documents) + 1)
    if documents:
        writer.add_documents(np.concatenate(tokens), table, names)
    writer.entries.append(
        Entry(
            key=key,
            segment=segment,
            last=False,
            path=key,
            document_start=document_start,
            document_stop=writer.document_count,
            token_start=token_start,
            token_stop=writer.token_count,
            lines=len(documents),
            raw_bytes=0,
            text_bytes=0,
            bad_records=0,
        )
    )


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    sizes = {"wiki": 300, "code": 50, "talk": 1000}
    return [write_domain(store, name, [make_documents(name, n)]) for name, n in sizes.items()]


def streams_of(domains, tokens, seed=SEED):
    everything = [np.ones(len(domain), bool) for domain in domains]
    return [
        stream(domain, chosen, budget, seed)
        for domain, chosen, budget in zip(domains, everything, tokens, strict=True)
    ]


def make_sampler(kind, domains, tokens, seed=SEED):
    streams = streams_of(domains, tokens, seed)
    if kind == "documents":
        return DocumentSampler(streams, domains, seed)
    return SequenceSampler(streams, LENGTH, seed)


def joined(sampler, shards=1):
    found = [sampler.shard(number, shards) for number in range(shards)]
    return Samples(
        np.concatenate([samples.pieces for samples in found]),
        np.concatenate([samples.lengths for samples in found]),
    )


def tokens_by_domain(samples, domains):
    pieces = samples.pieces
    return np.bincount(pieces["domain"], pieces["tokens"], len(domains)).astype(int).tolist()


def coverage(samples, number, domain):
    """How often each token of each document of a domain was taken, documents back to back."""
    own = samples.pieces[samples.pieces["domain"] == number]
    assert (own["start"] >= 0).all()
    assert (own["tokens"] > 0).all()
    assert (own["start"] + own["tokens"] <= domain.tokens[own["document"]]).all()
    firsts = np.cumsum(domain.tokens) - domain.tokens
    begin = firsts[own["document"]] + own["start"]
    steps = np.zeros(domain.total_tokens + 1, int)
    np.add.at(steps, begin, 1)
    np.add.at(steps, begin + own["tokens"], -1)
    return np.cumsum(steps)[:-1]


def expected_coverage(one, domain):
    """Whole passes, then a prefix of the documents in keyed order."""
    passes, rest = divmod(one.tokens, one.supply_tokens)
    firsts = np.cumsum(domain.tokens) - domain.tokens
    counts = np.full(domain.total_tokens, passes)
    for document in one.documents.tolist():
        taken = min(rest, int(domain.tokens[document]))
        counts[firsts[document] : firsts[document] + taken] += 1
        rest -= taken
    return counts


# The keyed permutation.


@pytest.mark.parametrize("key", [0, 42, -7, 10**30])
def test_permutation_is_a_bijection(key):
    for size in range(1, 301):
        assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


def test_permutation_needs_only_what_is_asked():
    whole = permute(np.arange(1000), 1000, 5)
    asked = np.array([999, 0, 500, 500])
    assert np.array_equal(permute(asked, 1000, 5), whole[asked])
    assert len(permute(np.empty(0, np.int64), 1000, 5)) == 0


def test_permutation_of_very_many():
    size = 3 * 10**12 + 1
    index = np.arange(0, size, size // 50_000)
    found = permute(index, size, 9)
    assert found.min() >= 0
    assert found.max() < size
    assert len(np.unique(found)) == len(index)
    assert abs(np.corrcoef(index, found)[0, 1]) < 0.03


def looks_shuffled(permutation):
    size = len(permutation)
    index = np.arange(size)
    bound = 4 / np.sqrt(size)
    steps = np.bincount((np.diff(permutation) % size).astype(int))
    return (
        abs(np.corrcoef(index, permutation)[0, 1]) < bound
        and abs(np.corrcoef(permutation[1:], permutation[:-1])[0, 1]) < bound
        and (permutation == index).sum() < 10
        and steps.max() < 12  # no step is frequent
    )


@pytest.mark.parametrize("key", range(8))
@pytest.mark.parametrize("size", [1000, 4096, 5000])
def test_permutation_looks_shuffled(size, key):
    assert looks_shuffled(permute(np.arange(size), size, key))


def test_what_is_not_shuffled_does_not_look_it():
    index = np.arange(4096)
    by_bits = np.array([int(f"{number:012b}"[::-1], 2) for number in index])
    for dummy in (index, index[::-1], np.roll(index, 1000), index * 1001 % 4096, by_bits):
        assert sorted(dummy.tolist()) == index.tolist()
        assert not looks_shuffled(dummy)


def test_keys_give_unrelated_permutations():
    index = np.arange(2000)
    found = [permute(index, 2000, key) for key in range(20)]
    for left in range(20):
        for right in range(left):
            assert (found[left] == found[right]).sum() < 12  # one is expected
            assert abs(np.corrcoef(found[left], found[right])[0, 1]) < 0.1
    firsts = [int(permute(np.array([0]), 10, key)[0]) for key in range(500)]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 50) ** 2 / 50).sum() < 28  # χ² with 9 degrees of freedom, p = 0.001


def test_keys_depend_on_seed_purpose_and_name():
    keys = {
        mix_key(seed, purpose, name)
        for seed in (0, 1, -1, 2**40)
        for purpose in (1, 2, 3)
        for name in ("", "a", "b", "ab", "ba", "ü")
    }
    assert len(keys) == 4 * 3 * 6


# Streams.


def test_stream_holds_the_chosen_documents_in_keyed_order(domains):
    domain = domains[0]
    chosen = np.arange(len(domain)) % 3 > 0
    one = stream(domain, chosen, 100, SEED)
    assert sorted(one.documents.tolist()) == np.flatnonzero(chosen).tolist()
    assert np.array_equal(np.diff(one.stops, prepend=0), domain.tokens[one.documents])
    assert one.supply_tokens == domain.tokens[chosen].sum()
    other = stream(domain, chosen, 100, SEED + 1)
    assert sorted(other.documents.tolist()) == sorted(one.documents.tolist())
    assert (other.documents == one.documents).sum() < 20
    everything = stream(domain, np.ones(len(domain), bool), 100, SEED)
    kept = everything.documents[chosen[everything.documents]]
    assert np.array_equal(kept, one.documents)  # the others do not matter
    assert looks_shuffled(np.argsort(everything.documents))


def test_documents_without_tokens_are_left_out(tmp_path):
    documents = [("a", [1, 2]), ("empty", []), ("b", [3])]
    domain = write_domain(tmp_path, "x", [documents])
    one = stream(domain, np.ones(3, bool), 1, SEED)
    assert sorted(domain.tokens[one.documents].tolist()) == [1, 2]
    nothing = stream(domain, np.zeros(3, bool), 0, SEED)
    assert nothing.supply_tokens == 0


# Both samplers.

KINDS = ("documents", "sequences")


@pytest.mark.parametrize("kind", KINDS)
def test_every_domain_gets_exactly_its_tokens(kind, domains):
    rng = np.random.default_rng(1)
    supply = [domain.total_tokens for domain in domains]
    budgets = [
        [int(rng.uniform(1, 4) * own * rng.random() ** 2) + 1 for own in supply] for _ in range(25)
    ]
    budgets += [supply, [2 * own for own in supply], [1, 1, 1], [LENGTH, 2 * LENGTH, 1]]
    budgets += [[own + 1 for own in supply], [own - 1 for own in supply], [0, 5, 0]]
    for tokens in budgets:
        sampler = make_sampler(kind, domains, tokens)
        samples = joined(sampler)
        assert tokens_by_domain(samples, domains) == tokens
        assert samples.lengths.sum() == sum(tokens)
        for number, one in enumerate(streams_of(domains, tokens)):
            found = coverage(samples, number, domains[number])
            assert np.array_equal(found, expected_coverage(one, domains[number]))
        starts = samples.pieces["start"] == 0
        counts = np.bincount(samples.pieces["domain"][starts], minlength=len(domains))
        assert sampler.documents() == counts.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_two_point_three_epochs(kind, domains):
    domain = domains[2]
    tokens = round(2.3 * domain.total_tokens)
    found = coverage(joined(make_sampler(kind, [domain], [tokens])), 0, domain)
    assert set(found.tolist()) == {2, 3}
    assert (found == 3).sum() == tokens - 2 * domain.total_tokens
    assert (found == 3).mean() == pytest.approx(0.3, abs=1e-3)
    # All but one of the documents are taken two or three times as a whole.
    stops = np.cumsum(domain.tokens)
    thirds = [set(own.tolist()) for own in np.split(found, stops[:-1])]
    assert sum(len(counts) == 2 for counts in thirds) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_smaller_budgets_are_subsets(kind, domains):
    budgets = [[10 * k, 7 * k, 20 * k] for k in (10, 37, 100, 900)]
    found = [
        [coverage(joined(make_sampler(kind, domains, tokens)), n, domains[n]) for n in range(3)]
        for tokens in budgets
    ]
    for smaller, larger in zip(found, found[1:], strict=False):
        for own, more in zip(smaller, larger, strict=True):
            assert (own <= more).all()
            assert own.sum() < more.sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [[3001, 2955, 777], [64, 0, 6400], [5, 1, 2]])
def test_shards_do_not_depend_on_their_number(kind, tokens, domains):
    sampler = make_sampler(kind, domains, tokens)
    whole = joined(sampler)
    for shards in (2, 3, 7, 40):
        cut = joined(sampler, shards)
        assert np.array_equal(cut.pieces, whole.pieces)
        assert np.array_equal(cut.lengths, whole.lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_files_and_parts_do_not_matter(kind, tmp_path):
    rng = np.random.default_rng(3)
    layouts = []
    for layout in range(3):
        domains = []
        for name, count in (("wiki", 200), ("code", 90)):
            documents = make_documents(name, count)
            order = rng.permutation(count) if layout else np.arange(count)
            shuffled = [documents[number] for number in order]
            cuts = sorted(rng.integers(0, count, 4 * layout).tolist())
            edges = [0, *cuts, count]
            files = [shuffled[a:b] for a, b in zip(edges, edges[1:], strict=False)]
            store = tmp_path / f"{layout}-{name}"
            domains.append(write_domain(store, name, files, segment_documents=[999, 7, 31][layout]))
        layouts.append(domains)
    tokens = [int(1.7 * layouts[0][0].total_tokens), 1000]
    outputs = []
    for domains in layouts:
        samples = joined(make_sampler(kind, domains, tokens))
        out = np.empty(sum(tokens), np.uint16)
        TokenCopier(domains).copy(samples.pieces, out)
        outputs.append((out.tolist(), samples.lengths.tolist()))
    assert len(layouts[1][0].parts) > 5 > len(layouts[0][0].parts)
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.parametrize("kind", KINDS)
def test_other_domains_and_their_order_do_not_change_a_selection(kind, domains):
    tokens = [4000, 500, 3000]
    alone = coverage(joined(make_sampler(kind, [domains[0]], [4000])), 0, domains[0])
    among = coverage(joined(make_sampler(kind, domains, tokens)), 0, domains[0])
    turned = make_sampler(kind, domains[::-1], tokens[::-1])
    assert np.array_equal(among, alone)
    assert np.array_equal(coverage(joined(turned), 2, domains[0]), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_change_selection_and_order(kind, domains):
    tokens = [2000, 300, 3000]
    first, again, other = (
        joined(make_sampler(kind, domains, tokens, seed)).pieces for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    wiki = [set(p["document"][p["domain"] == 0].tolist()) for p in (first, other)]
    assert 0 < len(wiki[0] & wiki[1]) < 0.8 * len(wiki[0])


WINDOWS = 20


def window_tokens(samples, domains):
    """Tokens of each domain in each of 20 equal windows of the output, shape (20, domains)."""
    sample_of = np.repeat(np.arange(len(samples.pieces)), samples.pieces["tokens"])
    owner = samples.pieces["domain"][sample_of]
    return np.array([np.bincount(own, minlength=domains) for own in np.array_split(owner, WINDOWS)])


def is_true_in_every_window(samples, tokens, longest):
    """Each domain within two samples of its share, wherever one looks."""
    expected = np.array(tokens) / WINDOWS
    found = window_tokens(samples, len(tokens))
    return bool((abs(found - expected) <= 2 * longest).all())


@pytest.mark.parametrize(
    ("kind", "longest", "repeats"), [("documents", 40, 1), ("sequences", LENGTH, 2)]
)
def test_the_mixture_is_true_in_every_window(kind, longest, repeats, domains):
    tokens = [repeats * own for own in (9000, 2000, 19_000)]
    samples = joined(make_sampler(kind, domains, tokens))
    assert is_true_in_every_window(samples, tokens, longest)
    in_turn = np.argsort(samples.pieces["domain"], kind="stable")
    dummy = Samples(samples.pieces[in_turn], samples.lengths)
    assert not is_true_in_every_window(dummy, tokens, longest)
    rng = np.random.default_rng(4)
    blocks = np.argsort(rng.integers(0, 8, len(samples.pieces)) // 4 + samples.pieces["domain"])
    clumped = Samples(samples.pieces[blocks], samples.lengths)
    assert not is_true_in_every_window(clumped, tokens, longest)


def test_documents_are_shuffled_anew_in_every_pass(domains):
    domain = domains[2]
    tokens = 3 * domain.total_tokens
    samples = joined(make_sampler("documents", [domain], [tokens]))
    passes = samples.pieces["document"].reshape(3, -1)
    for own in passes:
        assert sorted(own.tolist()) == list(range(len(domain)))
    orders = [np.argsort(own) for own in passes]
    assert all(map(looks_shuffled, orders))
    for left, right in ((0, 1), (1, 2), (0, 2)):
        assert looks_shuffled(orders[left][passes[right]])
        following = [set(zip(p[:-1].tolist(), p[1:].tolist(), strict=True)) for p in passes]
        assert len(following[left] & following[right]) < 10


def test_sequences_are_shuffled_anew_in_every_pass(domains):
    domain = domains[2]
    tokens = 3 * domain.total_tokens
    samples = joined(make_sampler("sequences", [domain], [tokens]))
    one = streams_of([domain], [tokens])[0]
    rank = np.argsort(one.documents)
    first_piece = np.searchsorted(
        np.cumsum(samples.pieces["tokens"]), np.cumsum(samples.lengths) - samples.lengths, "right"
    )
    ranks = rank[samples.pieces["document"][first_piece]]
    size = len(ranks) // 3
    for turn in range(3):
        own = ranks[turn * size : (turn + 1) * size]
        assert abs(np.corrcoef(np.arange(size), own)[0, 1]) < 4 / np.sqrt(size)
        assert own.min() < 0.05 * len(domain)
        assert own.max() > 0.95 * len(domain)
        assert len(np.unique(own)) > 0.8 * size


# Documents.


def test_documents_are_whole_but_for_the_last_of_each_domain(domains):
    tokens = [3001, 2955, 777]
    samples = joined(make_sampler("documents", domains, tokens))
    assert np.array_equal(samples.lengths, samples.pieces["tokens"])
    assert (samples.pieces["start"] == 0).all()
    for number, domain in enumerate(domains):
        own = samples.pieces[samples.pieces["domain"] == number]
        assert (own["tokens"] < domain.tokens[own["document"]]).sum() <= 1


def fixed_domain(tmp_path, lengths):
    documents = [(str(n), np.arange(100 * n, 100 * n + length)) for n, length in enumerate(lengths)]
    return write_domain(tmp_path, "x", [documents])


@pytest.mark.parametrize("smallest", [1, 2, 5])
@pytest.mark.parametrize("passes", [0, 1, 2])
def test_a_cut_document_is_not_too_short(smallest, passes, tmp_path):
    domain = fixed_domain(tmp_path, [9] * 6)
    for rest in range(1, 55):
        tokens = passes * domain.total_tokens + rest
        one = streams_of([domain], [tokens])[0]
        if tokens < smallest:
            with pytest.raises(InfeasiblePlan, match=rf"'x' gets {tokens} tokens, less than a"):
                DocumentSampler([one], [domain], SEED, smallest)
            continue
        samples = DocumentSampler([one], [domain], SEED, smallest).shard(0, 1)
        assert samples.lengths.sum() == tokens
        assert samples.lengths.min() >= smallest
        assert samples.lengths.max() <= 9
        assert len(samples.lengths) == -(-tokens // 9)


def test_a_document_shorter_than_the_smallest_stays_as_it_is(tmp_path):
    domain = fixed_domain(tmp_path, [1, 1, 1, 8])
    for tokens in range(3, 30):
        one = streams_of([domain], [tokens])[0]
        samples = DocumentSampler([one], [domain], SEED, 2).shard(0, 1)
        assert samples.lengths.sum() == tokens
        out = np.empty(tokens, np.uint16)
        TokenCopier([domain]).copy(samples.pieces, out)  # no piece is longer than its document


@pytest.mark.parametrize(
    ("lengths", "smallest", "expected"),
    [
        ([5, 5, 1], 1, [5, 5, 1]),
        ([5, 5, 1], 3, [5, 3, 3]),
        ([5, 3, 1], 3, [3, 3, 3]),
        ([2, 5, 1, 1], 2, [2, 4, 1, 2]),
        ([4], 4, [4]),
    ],
)
def test_lengthen_last_by_hand(lengths, smallest, expected):
    found = np.array(lengths)
    lengthen_last(found, smallest, DocumentStream("x", found, np.cumsum(found), int(found.sum())))
    assert found.tolist() == expected


def test_lengthen_last_says_what_to_type():
    lengths = np.array([2, 2, 1])
    one = DocumentStream("talk", lengths, np.cumsum(lengths), 5)
    with pytest.raises(InfeasiblePlan) as caught:
        lengthen_last(lengths, 3, one)
    assert str(caught.value) == (
        "plan: 'talk' gets 5 tokens, less than a document of this format needs (3); raise its "
        "weight or budget_tokens, or set its weight to 0"
    )


# Sequences.


def test_all_sequences_but_the_last_have_the_length(domains):
    rng = np.random.default_rng(5)
    for _ in range(30):
        tokens = rng.integers(0, 4000, 3).tolist()
        sampler = make_sampler("sequences", domains, tokens)
        lengths = joined(sampler, 3).lengths
        assert (lengths[:-1] == LENGTH).all()
        assert len(lengths) == -(-sum(tokens) // LENGTH)
        if len(lengths):
            assert lengths[-1] == (sum(tokens) % LENGTH or LENGTH)


def test_only_tails_mix_domains_and_they_are_few(domains):
    tokens = [3001, 2955, 777]
    samples = joined(make_sampler("sequences", domains, tokens))
    stops = np.cumsum(samples.lengths)
    owner = np.searchsorted(stops, np.cumsum(samples.pieces["tokens"]), side="left")
    mixed = sum(
        len(np.unique(samples.pieces["domain"][owner == number])) > 1
        for number in range(len(stops))
    )
    whole = sum(own // LENGTH for own in tokens)
    assert mixed <= len(stops) - whole < len(tokens)


def test_sequences_are_stretches_of_the_stream(domains):
    # The tokens of one domain, sequences put back in order, are its documents back to back.
    domain = domains[1]
    tokens = 10 * LENGTH
    one = streams_of([domain], [tokens])[0]
    samples = joined(SequenceSampler([one], LENGTH, SEED))
    out = np.empty(tokens, np.uint16)
    TokenCopier([domain]).copy(samples.pieces, out)
    expected = np.concatenate([domain.document(number) for number in one.documents])[:tokens]
    found = sorted(map(tuple, out.reshape(-1, LENGTH).tolist()))
    assert found == sorted(map(tuple, expected.reshape(-1, LENGTH).tolist()))
    assert not np.array_equal(out, expected)


def test_a_domain_much_smaller_than_a_sequence(tmp_path):
    domain = fixed_domain(tmp_path, [3, 2])
    one = streams_of([domain], [1000])[0]
    samples = joined(SequenceSampler([one], LENGTH, SEED), 4)
    assert samples.lengths.tolist() == [LENGTH] * 15 + [40]
    assert set(coverage(samples, 0, domain).tolist()) == {200}


@pytest.mark.parametrize(
    ("total", "shard_tokens", "expected"), [(1, 10, 1), (10, 10, 1), (11, 10, 2), (0, 10, 1)]
)
def test_shard_count(total, shard_tokens, expected):
    assert shard_count(total, shard_tokens) == expected


# Copying.


def pieces_of(*rows):
    return np.array(list(rows), PIECE)


@pytest.mark.parametrize(
    ("dtype", "out_dtype"),
    [("<u2", np.uint16), ("<u2", np.int32), ("<u2", np.int64), ("<u4", np.uint32),
     ("<u4", np.int32)],
)  # fmt: skip
def test_copier_copies_pieces_back_to_back(dtype, out_dtype, tmp_path):
    rng = np.random.default_rng(6)
    domains = [
        write_domain(tmp_path, name, [make_documents(name, 40)], dtype, segment_documents=5)
        for name in ("one", "two")
    ]
    assert len(domains[0].parts) > 1
    rows, expected = [], []
    for _ in range(500):
        number = int(rng.integers(2))
        document = int(rng.integers(40))
        start, stop = sorted(rng.integers(0, domains[number].tokens[document] + 1, 2).tolist())
        rows.append((number, document, start, stop - start))
        expected += domains[number].document(document)[start:stop].tolist()
    out = np.full(len(expected), 1, out_dtype)
    TokenCopier(domains).copy(pieces_of(*rows), out)
    assert out.tolist() == expected
    TokenCopier(domains).copy(pieces_of(), np.empty(0, out_dtype))


@pytest.mark.parametrize(
    ("piece", "room", "problem"),
    [
        ((0, 0, 0, 6), 6, "piece 1 reaches outside its document"),
        ((0, 0, 5, 1), 1, "piece 1 reaches outside its document"),
        ((0, 0, -1, 2), 2, "piece 1 reaches outside its document"),
        ((0, 0, 2, -1), 0, "piece 1 reaches outside its document"),
        ((0, 0, 2**62, 2**62), 1, "piece 1 reaches outside its document"),
        ((0, 2, 0, 1), 1, "piece 1 is of a document that is not there"),
        ((0, -1, 0, 1), 1, "piece 1 is of a document that is not there"),
        ((1, 0, 0, 1), 1, "piece 1 is of a document that is not there"),
        ((0, 1, 0, 3), 2, "pieces of 4 tokens for room of 3"),
    ],
)
def test_copier_refuses_what_is_not_there(piece, room, problem, tmp_path):
    documents = sorted([("a", [1, 2, 3, 4, 5]), ("b", [6, 7, 8, 9, 10])])
    domain = write_domain(tmp_path, "x", [documents])
    copier = TokenCopier([domain])
    with pytest.raises(ValueError, match=problem):
        copier.copy(pieces_of((0, 0, 0, 1), piece), np.empty(room + 1, np.uint16))


@pytest.mark.parametrize(
    ("dtype", "out_dtype"),
    [("<u2", np.uint8), ("<u2", np.int16), ("<u4", np.uint16), ("<u4", np.float64)],
)
def test_copier_refuses_a_dtype_that_does_not_hold_the_ids(dtype, out_dtype, tmp_path):
    domain = write_domain(tmp_path, "x", [[("a", [1, 2])]], dtype)
    with pytest.raises(ValueError, match=r"uint(16|32) tokens do not fit into"):
        TokenCopier([domain]).copy(pieces_of((0, 0, 0, 2)), np.empty(2, out_dtype))


def test_appearances_too_many_to_hold_are_placed_shard_by_shard(domains, monkeypatch):
    supplies = [domain.total_tokens for domain in domains]
    tokens = [3 * supplies[0] + 7, supplies[1], 5 * supplies[2] // 2]
    held = make_sampler("documents", domains, tokens)
    monkeypatch.setattr(documents_module, "MOST_HELD", 0)
    placed = make_sampler("documents", domains, tokens)
    assert placed.documents() == held.documents()
    for shards in (1, 4):
        for number in range(shards):
            expected, got = held.shard(number, shards), placed.shard(number, shards)
            assert np.array_equal(got.pieces, expected.pieces)


def test_a_trillion_tokens_of_a_small_supply_take_no_memory(domains):
    tokens = [10**12, 0, 0]
    sampler = make_sampler("documents", domains, tokens)
    passes = 10**12 // domains[0].total_tokens
    assert sampler.documents()[0] >= passes * len(domains[0])
    shards = 10**8
    samples = sampler.shard(12_345_678, shards)
    assert 9_000 < samples.lengths.sum() < 11_000
