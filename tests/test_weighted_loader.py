"""Shares that change during a run: exact draws, caps, accounts, resumption on other ranks."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RECIPE

import curate
from curate.dataset.manifest import load_manifest, read_provenance
from curate.errors import InfeasiblePlan, RecipeError, ShardError
from curate.loader import LoaderOptions, Sequences
from curate.loader.domain_windows import DrawNumbers
from curate.loader.draws import UNIT, DrawLimits, account, begin, draw
from curate.pipeline.build import build
from curate.recipe import load as load_recipe
from curate.runtime.progress import Observer

LENGTH = 64
WEIGHTS = {"wiki": 0.5, "code": 0.3, "talk": 0.2}


def limits_of(*sequences: int, names: str = "abcdefghijklmnopqrstuvwxyz") -> DrawLimits:
    """Domains whose stream holds their sequences once, of ten tokens each."""
    tokens = tuple(10 * count for count in sequences)
    return DrawLimits(
        tuple(names[: len(sequences)]), tokens, tokens, sequences, 10, 100, (1.0,) * len(sequences)
    )


def debts(domains: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Sequences asked less those drawn, after each number of them, shape (sequences + 1, k)."""
    one_hot = np.eye(len(shares))[domains] - shares
    return -np.vstack([np.zeros(len(shares)), np.cumsum(one_hot, 0)])


# The rule.


@pytest.mark.parametrize("domains", [1, 2, 3, 7, 40])
def test_draws_stay_within_tijdemans_bound(domains: int) -> None:
    rng = np.random.default_rng(domains)
    bound = 0.0 if domains == 1 else 1 - 1 / (2 * domains - 2)
    for concentration in (0.1, 1.0, 10.0):
        limits = limits_of(*[10**6] * domains, names="".join(map(chr, range(65, 65 + domains))))
        state = begin(limits).with_weights(rng.dirichlet(np.full(domains, concentration)))
        _, drawn = draw(state, limits, 2000, seed=1)
        off = debts(drawn, np.array(state.shares) / UNIT)
        assert abs(off).max() <= bound + 1e-9
        assert (off.max(0) - off.min(0)).max() <= 2 * bound + 1e-9  # over every window


def test_a_random_draw_is_further_off() -> None:
    """The dummy: domains at random, at the same shares."""
    shares = np.array([0.5, 0.3, 0.2])
    drawn = np.random.default_rng(0).choice(3, 2000, p=shares)
    assert abs(debts(drawn, shares)).max() > 5


def test_no_order_is_within_one_sequence_over_every_window() -> None:
    """Why the bound for windows is twice that of the run: exhaustive search at .5, .3, .2."""
    shares = np.array([0.5, 0.3, 0.2])
    for order in itertools.product(range(3), repeat=8):
        off = debts(np.array(order), shares)
        assert (off.max(0) - off.min(0)).max() >= 1 - 1e-9


def test_draws_do_not_depend_on_how_many_are_chosen_together() -> None:
    rng = np.random.default_rng(4)
    limits = limits_of(300, 40, 200, 7)
    weights = [rng.dirichlet(np.ones(4)) for _ in range(12)]
    cuts = [[36], [1] * 36, [5, 30, 1], [12] * 3]
    ends = []
    for parts in cuts:
        state, order = begin(limits), []
        for weight in weights:
            state = state.with_weights(weight)
            for part in parts:
                state, drawn = draw(state, limits, part, seed=3)
                order += drawn.tolist()
        ends.append((state, order))
    assert all(end == ends[0] for end in ends)
    counts = np.bincount(ends[0][1], minlength=4)
    assert counts.tolist() == list(ends[0][0].drawn) and counts[3] == 7 and counts[1] == 40


def test_changing_shares_are_followed() -> None:
    """Debts carry over: a domain asked for a third of a sequence a step gets one in three."""
    limits = limits_of(*[10**6] * 3)
    state, taken = begin(limits), []
    for step in range(300):
        tilt = 1e-6 * (step % 7)  # other shares in every step
        state = state.with_weights([1 / 24 + tilt, 7 / 24, 16 / 24])
        state, drawn = draw(state, limits, 8, seed=0)
        taken.append((drawn == 0).sum())
    assert 99 <= sum(taken) <= 101 and max(taken) == 1
    worst = 0.0
    rng = np.random.default_rng(0)
    for _ in range(400):
        state = state.with_weights(rng.dirichlet(np.full(3, 0.3)))
        state, _ = draw(state, limits, int(rng.integers(1, 24)), seed=0)
        worst = max(worst, max(map(abs, state.owed)) / UNIT)
    assert worst < 1
    rows = account(state, limits)
    for domain, row in enumerate(rows.values()):
        assert row.asked_sequences - row.sequences == pytest.approx(state.owed[domain] / UNIT)
        assert row.moved_sequences == 0
    assert sum(row.sequences for row in rows.values()) == sum(state.drawn)
    assert sum(state.owed) == 0 and sum(state.asked) == sum(state.drawn) * UNIT


def test_the_order_of_domains_changes_nothing() -> None:
    names, shares = "abc", [1.0, 1.0, 2.0]
    orders = []
    for permutation in itertools.permutations(range(3)):
        limits = limits_of(500, 500, 500, names="".join(names[i] for i in permutation))
        state = begin(limits).with_weights([shares[i] for i in permutation])
        _, drawn = draw(state, limits, 50, seed=9)
        orders.append([limits.names[domain] for domain in drawn])
    assert all(order == orders[0] for order in orders)


def test_a_domain_that_is_used_up_leaves_its_share_to_the_others() -> None:
    limits = limits_of(10, 1000, 1000)
    state = begin(limits).with_weights([2, 1, 1])
    state, drawn = draw(state, limits, 220, seed=0)
    assert state.drawn == (10, 105, 105)
    rows = account(state, limits)
    assert [row.left_sequences for row in rows.values()] == [0, 895, 895]
    assert [row.asked_sequences for row in rows.values()] == [110, 55, 55]
    moved = [row.moved_sequences for row in rows.values()]
    assert moved[0] == pytest.approx(100) and sum(moved) == pytest.approx(0)
    assert rows["a"].passes == 1.0 and rows["a"].tokens == 100
    with pytest.raises(InfeasiblePlan) as caught:
        draw(state.with_weights([1, 0, 0]), limits, 1, seed=0)
    assert str(caught.value) == (
        "weights: every domain with a weight is used up (a); sequences left: b 895, c 895. Give "
        "one of these a weight, or raise max_epochs in the recipe"
    )


def test_every_window_is_drawn_once_a_pass() -> None:
    limits = DrawLimits(("a", "b"), (105, 60), (105, 60), (31, 12), 10, 9, (1.0, 1.0))
    draws = DrawNumbers(limits, seed=5)
    numbers = draws(np.zeros(31, np.int64), [0, 0])
    first, second, third = numbers[:11], numbers[11:21], numbers[21:]  # 10.5 windows a pass
    assert sorted(first) == list(range(11)) and sorted(second) == list(range(11, 21))
    assert sorted(third) == list(range(21, 31)) and first.tolist() != sorted(first)
    mixed = draws(np.array([1, 0, 1, 0]), [2, 9])
    assert mixed[[1, 3]].tolist() == numbers[2:4].tolist()
    again = [int(DrawNumbers(limits, 5)(np.zeros(1, np.int64), [at, 0])[0]) for at in range(31)]
    assert again == numbers.tolist()


# Over real data.


@pytest.fixture(scope="module")
def places(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One corpus as a recipe, and as shards of documents, of sequences, and by domain."""
    root = tmp_path_factory.mktemp("weighted")
    path = root / "recipe.yaml"
    path.write_text(RECIPE.format(data=corpus / "data"), "utf-8")
    made = {"recipe": path}
    for name, overrides in {
        "documents": (),
        "fixed": ("output.format=npy", f"sequence_length={LENGTH}"),
        "mds": ("output.format=mds",),
        "apart": ("output.shape=per-domain",),
    }.items():
        given = ("output.shard_tokens=7000", f"name={name}", *overrides)
        made[name] = build(load_recipe(path, given), 1, Observer()).directory
    return made


KINDS = ("recipe", "documents", "fixed", "mds", "apart")


def open_all(places: dict[str, Path], kind: str, weights: Any = "planned", **kinds: Any) -> Any:
    fields = kinds.pop("fields", ("tokens", "domains", "samples"))
    return curate.load(places[kind], LENGTH, fields=fields, weights=weights, **kinds)


@pytest.mark.parametrize("kind", KINDS)
def test_shares_drawn_are_those_asked(places: dict[str, Path], kind: str) -> None:
    data = open_all(places, kind, WEIGHTS)
    loader = data.loader(5)
    order: list[int] = []
    for batch in loader:
        assert (batch["domains"] == batch["domains"][:, :1]).all()  # no sequence mixes domains
        order += batch["domains"][:, 0].tolist()
    assert len(order) == 30_000 // LENGTH == loader.sequences
    shares = np.array([loader.weights[name] for name in data.domains])
    off = debts(np.array(order), shares)
    assert abs(off).max() <= 0.75 and (off.max(0) - off.min(0)).max() <= 1.5
    for name, row in loader.drawn.items():
        assert row.sequences == order.count(data.domains.index(name))
        assert row.tokens == row.sequences * LENGTH
        assert row.asked_sequences == pytest.approx(WEIGHTS[name] * len(order))


def streams_of(directory: Path) -> dict[int, np.ndarray]:
    """Tokens of each domain in the order of the shards, by format reader and provenance."""
    manifest = load_manifest(directory)
    form = manifest.configured()
    parts: dict[int, list[np.ndarray]] = {}
    for record in manifest.shards:
        if record.split != "train":
            continue
        dtype = np.dtype(str(manifest.dtype))
        tokens = np.concatenate([b.tokens for b in form.read(directory / record.stem, dtype)])
        rows = read_provenance(directory / record.provenance.path, record, manifest)
        domains = np.repeat(rows["domain"], rows["tokens"])
        for domain in np.unique(domains):
            parts.setdefault(int(domain), []).append(tokens[domains == domain])
    return {domain: np.concatenate(pieces) for domain, pieces in parts.items()}


@pytest.mark.parametrize("kind", KINDS[1:])
def test_windows_are_the_domains_streams_cut(places: dict[str, Path], kind: str) -> None:
    data = open_all(places, kind, fields=("tokens", "domains", "positions"))
    streams = streams_of(places[kind])
    read = data.read(np.arange(len(data)))
    number = 0
    for domain in range(len(data.domains)):
        rows = read["domains"][:, 0] == domain
        count = int(rows.sum())
        repeated = np.resize(streams[domain], (count, LENGTH))
        assert np.array_equal(read["tokens"][rows], repeated)
        assert count == rows[number : number + count].sum()
        number += count
    assert number == len(data) and (read["positions"][:, 0] == 0).all()


def test_the_whole_supply_of_a_recipe_is_drawn(places: dict[str, Path]) -> None:
    """Not only what the plan takes; and no token more than max_epochs passes."""
    data = open_all(places, "recipe", {"talk": 1})
    loader = data.loader(4)
    plan = json.loads((places["documents"] / "plan.json").read_text("utf-8"))
    supply = plan["domains"]["talk"]["supply_tokens"]
    most = 4 * supply // LENGTH
    assert loader.drawn["talk"].left_sequences == most
    numbers: list[int] = []
    with pytest.raises(InfeasiblePlan, match=r"used up \(talk\)"):
        for _ in range(100):
            for batch in loader:
                numbers += batch["samples"].tolist()
    assert len(numbers) == most // 4 * 4 and len(set(numbers)) == len(numbers)
    row = loader.drawn["talk"]
    assert row.passes == pytest.approx(4, abs=4 * LENGTH / supply + 0.02) and row.passes <= 4
    loader.set_weights({"wiki": 1})
    assert (next(iter(loader))["domains"] == data.domains.index("wiki")).all()


def train(data: Sequences, ranks: int, state: Any, steps: int, batch: int) -> tuple[Any, list]:
    """All ranks for some steps, with weights that depend on the steps taken; rows by step."""
    taken: list[list[int]] = [[] for _ in range(steps)]
    states = []
    for rank in range(ranks):
        loader = data.loader(batch, rank, ranks)
        if state is not None:
            loader.load_state_dict(state)
        position = loader.position
        batches = iter(loader)
        for step in range(steps):
            # Changed every third step of 12 sequences, whatever the ranks.
            if position // 12 % 3 == 0:
                tilt = 1 + position // 12 % 5
                loader.set_weights({"wiki": tilt, "code": 2, "talk": 1})
            taken[step] += next(batches)["samples"].tolist()
            position += 12
        batches.close()
        states.append(json.loads(json.dumps(loader.state_dict())))
    assert all(other == states[0] for other in states)
    return states[0], [number for step in taken for number in step]


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_on_other_ranks_equals_the_uninterrupted_run(
    places: dict[str, Path], kind: str
) -> None:
    data = open_all(places, kind)
    end, straight = train(data, 1, None, 36, 12)
    state, order = None, []
    for ranks, batch, steps in ((1, 12, 5), (3, 4, 9), (2, 6, 1), (3, 4, 10), (1, 12, 11)):
        state, part = train(data, ranks, state, steps, batch)
        order += part
    assert order == straight and state == end
    assert len(set(straight)) == len(straight)


@pytest.mark.parametrize("prefetch", [0, 2, 9])
@pytest.mark.parametrize("block_tokens", [1, 12 * LENGTH, 1 << 17])
def test_reading_ahead_changes_nothing(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, prefetch: int, block_tokens: int
) -> None:
    monkeypatch.setattr("curate.loader.batch_loader.BLOCK_TOKENS", block_tokens)
    data = open_all(places, "documents")
    loader = data.loader(3, options=LoaderOptions(prefetch_batches=prefetch))
    order: list[int] = []
    changes = {0: WEIGHTS, 17: {"code": 1}, 18: {"code": 1, "talk": 1}, 60: WEIGHTS}
    asked: list[str] = []
    for step, batch in enumerate(loader):
        order += batch["domains"][:, 0].tolist()
        before = loader.drawn
        assert sum(row.sequences for row in before.values()) == len(order)
        if step in changes:
            loader.set_weights(changes[step])
        asked.append(repr(loader.weights))
    assert order[18 * 3 : 19 * 3] == [1, 1, 1]
    monkeypatch.setattr("curate.loader.batch_loader.BLOCK_TOKENS", 1)
    state = begin(loader._limits)
    expected: list[int] = []
    for step in range(156):
        state, drawn = draw(state, loader._limits, 3, loader.seed)
        expected += drawn.tolist()
        if step in changes:
            state = state.with_weights(loader._limits.check(changes[step]))
    assert order == expected


def test_a_function_is_asked_before_every_step(places: dict[str, Path]) -> None:
    asked: list[int] = []

    def controller(loader: Any) -> dict[str, float] | None:
        asked.append(loader.position)
        assert sum(row.sequences for row in loader.drawn.values()) == loader.position
        return {"talk": 1} if loader.position >= 20 else None

    data = open_all(places, "documents", controller)
    loader = data.loader(4)
    rows = [batch["domains"][:, 0].tolist() for batch in itertools.islice(loader, 12)]
    assert asked == list(range(0, 48, 4))
    assert rows[5:] == [[data.domains.index("talk")] * 4] * 7
    planned = data.loader(4)
    assert sum(planned.weights.values()) == pytest.approx(1) and len(planned) == 117


def test_epochs_go_on_with_the_next_draws(places: dict[str, Path]) -> None:
    data = open_all(places, "fixed", {"wiki": 1, "code": 1, "talk": 1})
    loader = data.loader(20, options=LoaderOptions(last="drop"))
    numbers: list[int] = []
    for epoch in range(2):
        assert loader.epoch == epoch and len(loader) == 23 and loader.dropped_sequences == 8
        numbers += [int(n) for batch in loader for n in batch["samples"]]
    assert loader.epoch == 2 and loader.position == 0
    assert len(numbers) == 2 * 23 * 20 == len(set(numbers))
    assert sum(row.sequences for row in loader.drawn.values()) == len(numbers)


def test_a_plan_of_the_whole_supply_ends_with_its_last_whole_sequence(
    places: dict[str, Path], tmp_path: Path
) -> None:
    """The domains' last tokens fill no sequence of their own, so an epoch is a little shorter."""
    text = places["recipe"].read_text("utf-8").replace("max_epochs: 4", "max_epochs: 1")
    text = text.replace("method: entropy, estimator: plugin", "method: natural")
    path = tmp_path / "whole.yaml"
    supply = json.loads((places["documents"] / "plan.json").read_text("utf-8"))["domains"]
    tokens = [row["supply_tokens"] for row in supply.values()]
    path.write_text(text.replace("30000", str(sum(tokens))), "utf-8")
    data = curate.load(path, LENGTH, fields=("samples",), weights="planned")
    whole = sum(count // LENGTH for count in tokens)
    assert whole < sum(tokens) // LENGTH and len(data) == whole
    loader = data.loader(5)
    for _ in range(2):
        if loader.epoch:
            with pytest.raises(InfeasiblePlan, match="every domain with a weight is used up"):
                next(iter(loader))
            continue
        numbers = [int(number) for batch in loader for number in batch["samples"]]
        assert sorted(numbers) == list(range(whole))
        assert all(row.left_sequences == 0 for row in loader.drawn.values())


def test_stored_order_and_another_seed(places: dict[str, Path]) -> None:
    data = open_all(places, "documents", {"code": 1})
    stored = data.loader(9, options=LoaderOptions(order="stored"))
    numbers = [int(n) for batch in itertools.islice(stored, 5) for n in batch["samples"]]
    assert numbers == list(range(numbers[0], numbers[0] + 45))
    first, second = (
        next(iter(data.loader(40, options=LoaderOptions(seed=seed))))["samples"].tolist()
        for seed in (1, 2)
    )
    assert first != second


# What is refused.


def test_faults_of_weights(places: dict[str, Path]) -> None:
    loader = open_all(places, "documents").loader(4)
    for weights, message in (
        ({"wkii": 1}, "weights: there is no domain 'wkii'; did you mean 'wiki'?; there are wiki"),
        ({"wiki": -1}, "weights: 'wiki' has -1; a weight is a number of at least 0"),
        ({"wiki": float("nan")}, "weights: 'wiki' has nan"),
        ({"wiki": "a"}, "weights: 'wiki' has 'a'; a weight is a number of at least 0"),
        ({"wiki": [1]}, "weights: 'wiki' has \\[1\\]; a weight is a number of at least 0"),
        ({"wiki": 0}, "weights: all are 0; give at least one domain a positive weight"),
    ):
        with pytest.raises(RecipeError, match=message.replace("?", r"\?").split(";")[0]):
            loader.set_weights(weights)
    with pytest.raises(RecipeError, match="weights: 'plannd' is no mixture; give weights by"):
        open_all(places, "documents", "plannd")
    with pytest.raises(RecipeError, match=r"weights: \[1, 2\] is no mixture"):
        open_all(places, "documents", lambda _: [1, 2]).loader(4).__iter__().__next__()
    loader.set_weights({"wiki": np.float32(1), "code": np.int64(3)})
    assert loader.weights == {"wiki": 0.25, "code": 0.75, "talk": 0.0}
    with pytest.raises(RecipeError, match="weights are for the split 'train', not 'validation'"):
        open_all(places, "documents", split="validation")
    with pytest.raises(RecipeError, match="no domain has a sequence of 60000 tokens within"):
        curate.load(places["recipe"], 60_000, weights="planned")


def test_a_loader_without_weights_keeps_the_mixture(places: dict[str, Path]) -> None:
    loader = curate.load(places["documents"], LENGTH).loader(4)
    with pytest.raises(RecipeError, match='keeps the mixture that was planned; open .*"planned"'):
        loader.set_weights(WEIGHTS)
    with pytest.raises(RecipeError, match="keeps the mixture that was planned"):
        _ = loader.drawn


def test_states_of_the_other_kind_are_refused(places: dict[str, Path]) -> None:
    plain = curate.load(places["documents"], LENGTH).loader(4)
    weighted = open_all(places, "documents").loader(4)
    with pytest.raises(ShardError, match="saved by a loader without weights"):
        weighted.load_state_dict(plain.state_dict())
    with pytest.raises(ShardError, match="saved by a loader with weights"):
        plain.load_state_dict(weighted.state_dict())
    state = weighted.state_dict()
    state["draws"] = {**state["draws"], "drawn": [1]}
    with pytest.raises(ShardError, match="its draws are not of a curate loader"):
        weighted.load_state_dict(state)
    other = open_all(places, "mds").loader(4)
    with pytest.raises(ShardError, match="shards, store or plan changed"):
        other.load_state_dict(weighted.state_dict())


def test_torch_loaders_change_weights_too(places: dict[str, Path]) -> None:
    torch = pytest.importorskip("torch")
    data = open_all(places, "recipe", WEIGHTS)
    loader = data.torch_loader(6)
    batches = iter(loader)
    first = next(batches)
    assert isinstance(first["tokens"], torch.Tensor) and first["tokens"].shape == (6, LENGTH)
    loader.set_weights({"talk": 1})
    assert (next(batches)["domains"] == data.domains.index("talk")).all()
    assert sum(row.sequences for row in loader.drawn.values()) == 12
    state = loader.state_dict()
    following = next(batches)["samples"]
    batches.close()
    again = data.torch_loader(2, (0, 3))
    again.load_state_dict(state)
    assert next(iter(again))["samples"].tolist() == following[:2].tolist()
    with pytest.raises(RecipeError, match="workers: 2 processes would not learn of new weights"):
        data.torch_loader(6, workers=2)


def test_a_loop_that_is_left_goes_on_with_the_next_draw(places: dict[str, Path]) -> None:
    """Blocks double while the shares stay, so a loop that ends early leaves a block in part."""
    data = curate.load(places["recipe"], LENGTH, fields=("samples",), weights="planned")
    whole = [batch["samples"].tolist() for batch in data.loader(2)]
    loader = data.loader(2)
    parts = []
    for steps in (1, 5, 2, 9, len(whole)):
        parts += [batch["samples"].tolist() for batch in itertools.islice(loader, steps)]
        assert sum(row.sequences for row in loader.drawn.values()) == sum(map(len, parts))
    assert parts[: len(whole)] == whole
