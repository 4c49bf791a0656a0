"""What mixing methods know of the text of each domain, measured once and kept in the cache.

Bias-corrected entropies with intervals take seconds a domain, so they are measured only when a
mixture asks for them, on a sample of the same size for all domains, and kept under a name made of
everything they depend on: the domain's documents, the tokenizer, the sample and the seed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from curate import __version__
from curate.pipeline.tokenize import TokenizedDomains
from curate.recipe import LoadedRecipe, MixtureRecipe
from curate.runtime.files import atomic_path, hash_json
from curate.runtime.progress import Observer
from curate.runtime.workers import map_tasks
from curate.stats.estimate import Estimate
from curate.stats.sampling import SamplePlan, sample_plan
from curate.tokens.domain import DomainTokens
from curate.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:  # what measures loads compiled code, which most commands do not need
    from curate.stats.intervals import EntropyReport
    from curate.stats.measure import DomainReport
    from curate.stats.von_neumann import NeumannReport

SCHEMA = 1
"""Of what is kept; a change of an estimator must raise it."""

TOKENS, EXCERPTS = "tokens", "excerpts"
"""Two measurements: of neighbouring tokens, and of embedded excerpts."""


class Evidence(msgspec.Struct, frozen=True):
    """What is known of one domain beyond its counts."""

    entropy: dict[str, Estimate] = {}
    """By measure, bias corrected."""
    plugin: dict[str, float] = {}
    """Nats, by measure: what the same sample gives without correction."""
    embedding: tuple[float, ...] = ()
    """Mean direction of its excerpts, shape (dimension,)."""
    encoder: str = ""
    """What embedded them."""

    def joined(self, other: Evidence) -> Evidence:
        """Both together."""
        return Evidence(
            {**self.entropy, **other.entropy}, {**self.plugin, **other.plugin},
            self.embedding or other.embedding, self.encoder or other.encoder,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Task:
    domain: DomainTokens
    tokenizer: Tokenizer
    plan: SamplePlan
    kind: str


def wanted(mixture: MixtureRecipe) -> tuple[str, ...]:
    """The measurements that a recipe's method cannot do without.

    Example:
        >>> wanted(MixtureRecipe(method="entropy")), wanted(MixtureRecipe(method="unimax"))
        (('tokens',), ())
    """
    if mixture.method == "leverage":
        return (EXCERPTS,)
    if mixture.method != "entropy":
        return ()
    if mixture.measure == "von_neumann":
        return (EXCERPTS,)
    return (TOKENS,) if mixture.estimator == "corrected" else ()


def recall(loaded: LoadedRecipe, tokenized: TokenizedDomains) -> tuple[Evidence, ...]:
    """What earlier runs have measured of these domains, shape (domains,); measures nothing."""
    plan, _ = sample_plan(tokenized.domains, loaded.recipe.seed)
    found = []
    for domain in tokenized.domains:
        paths = [
            _path(_Task(domain, tokenized.tokenizer, plan, kind), loaded.cache_dir)
            for kind in (TOKENS, EXCERPTS)
        ]
        found.append(_read(paths[0]).joined(_read(paths[1])))
    return tuple(found)


def gather(
    loaded: LoadedRecipe,
    tokenized: TokenizedDomains,
    kinds: Collection[str],
    workers: int,
    observer: Observer,
) -> tuple[Evidence, ...]:
    """`recall`, after measuring what is asked for and not there yet.

    Args:
        loaded: The recipe, for its seed and its cache.
        tokenized: The domains, in the store. One without a document has no evidence.
        kinds: `TOKENS`, `EXCERPTS` or both.
        workers: Processes.
        observer: Told of the stage, and of domains too small to compare.

    Raises:
        InputError: No document of a domain is long enough to be embedded.
    """
    plan, warnings = sample_plan(tokenized.domains, loaded.recipe.seed)
    tasks = [
        _Task(domain, tokenized.tokenizer, plan, kind)
        for kind in kinds
        for domain in tokenized.domains
        if len(domain)
    ]
    tasks = [task for task in tasks if not _read(_path(task, loaded.cache_dir)).entropy]
    if tasks:
        observer.begin("entropies", [task.domain.name for task in tasks])
        for task, found in zip(tasks, map_tasks(_measure, tasks, workers), strict=True):
            _write(_path(task, loaded.cache_dir), found)
        observer.end(f"at most {plan.sample_tokens:,} tokens of each domain")
    for warning in warnings if kinds else ():
        observer.notice(warning)
    return recall(loaded, tokenized)


def remember(
    loaded: LoadedRecipe,
    tokenized: TokenizedDomains,
    plan: SamplePlan,
    reports: Sequence[DomainReport],
) -> None:
    """Keep what `curate.pipeline.compare_entropies` measured for later runs.

    Args:
        loaded: The recipe, for its cache.
        tokenized: The domains.
        plan: The sample they were measured on.
        reports: shape (domains,).
    """
    for domain, report in zip(tokenized.domains, reports, strict=True):
        for kind, found in (
            (TOKENS, token_evidence(report.entropies)),
            (EXCERPTS, excerpt_evidence(report.von_neumann, report.mean_embedding)),
        ):
            _write(_path(_Task(domain, tokenized.tokenizer, plan, kind), loaded.cache_dir), found)


def token_evidence(report: EntropyReport) -> Evidence:
    """Of one domain, from the report on its tokens."""
    return Evidence(
        {"shannon": report.shannon, "joint": report.joint, "conditional": report.conditional}
    )


def excerpt_evidence(report: NeumannReport, embedding: NDArray[np.float64]) -> Evidence:
    """Of one domain, from the report on its excerpts and their mean direction."""
    return Evidence(
        {"von_neumann": report.entropy}, {"von_neumann": report.plugin},
        tuple(embedding.tolist()), report.encoder,
    )  # fmt: skip


def _measure(task: _Task) -> Evidence:
    # Compiled code is loaded only where something has to be measured.
    from curate.stats import measure

    if task.kind == TOKENS:
        return token_evidence(measure.token_entropies(task.domain, task.tokenizer, task.plan))
    return excerpt_evidence(*measure.excerpt_entropy(task.domain, task.tokenizer, task.plan))


def _path(task: _Task, cache: Path) -> Path:
    plan = task.plan
    size = plan.sample_tokens if task.kind == TOKENS else [plan.sample_excerpts, plan.encoder]
    key = hash_json([SCHEMA, __version__, task.domain.fingerprint, size, plan.seed])
    directory = cache / "evidence" / task.tokenizer.fingerprint[:16]
    return directory / f"{task.domain.name}-{task.kind}-{key[:24]}.json"


def _read(path: Path) -> Evidence:
    """What was kept there; nothing if it is absent or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Evidence)
    except (OSError, msgspec.MsgspecError):
        return Evidence()


def _write(path: Path, found: Evidence) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(msgspec.json.encode(found))
