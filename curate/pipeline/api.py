"""The Python functions of curate, one for each command; the command line shows what they return.

Every function takes a recipe as a path, a mapping, or loaded. `workers` is the number of processes
and defaults to the cores. `progress` is silent by default; "terminal" shows what the command line
shows, and an `Observer` of your own receives everything.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from msgspec.structs import replace as with_fields

from curate.errors import InputError, RecipeError
from curate.pipeline.results import (
    CertificateResult,
    DesignResult,
    FitResult,
    FrontResult,
    MethodsResult,
    MixtureResult,
    PlanResult,
    ProxyResult,
    PushResult,
    RemovalResult,
    ReportResult,
    StatsResult,
    ValidationResult,
)
from curate.recipe import AbsentDomains, FarRuns, LoadedRecipe, load_recipe, override_texts
from curate.runtime.files import bucket_url, dataset_url
from curate.runtime.objects import refuse_access, without_access
from curate.runtime.progress import Observer
from curate.runtime.registry import unknown_name
from curate.runtime.workers import default_workers, on_cluster

if TYPE_CHECKING:
    from curate.dataset.differences import Differences
    from curate.dataset.look_up import LookUp
    from curate.pipeline.from_run_table import RunTableInputs
    from curate.pipeline.init import InitResult

PathLike = str | os.PathLike[str]
RecipeLike = LoadedRecipe | PathLike | Mapping[str, Any]
"""A loaded recipe, the path of one, or its keys and values."""
Overrides = Mapping[str, Any] | Iterable[str]
"""`{"mixture.kl": 0.1}` or `["mixture.kl=0.1"]`."""
Engine = Literal["local", "ray"]
"""Place of the work: this machine, or a Ray cluster."""
Progress = Observer | Literal["terminal"] | None
"""Receiver of progress; None for silence."""
Supply = Mapping[str, float] | PathLike | Sequence[str] | None
"""Tokens by domain, `["wiki=3e9", …]`, or a CSV file with columns domain and tokens."""


@dataclass(frozen=True)
class _RunTableArguments:
    """Arguments that stand in for a recipe, of functions that work without one, such as `mix`."""

    runs: PathLike | Sequence[PathLike] | None
    experts: PathLike | None
    supply: Supply
    budget_tokens: float | None
    max_epochs: float

    def refuse(self, directory: PathLike | None) -> None:
        """Raise RecipeError if any was given, or a directory, since there is a recipe."""
        given = {"runs": self.runs, "experts": self.experts, "supply": self.supply,
                 "budget": self.budget_tokens}  # fmt: skip
        for name, value in given.items():
            if value is not None and value != ():
                raise RecipeError(
                    f"RECIPE and --{name} exclude each other: a recipe names its tables below "
                    "mixture.evidence, and its text is the supply"
                )
        if self.max_epochs != 1.0:
            raise RecipeError(
                "RECIPE and --max-epochs exclude each other: set it in the recipe, max_epochs: "
                f"{self.max_epochs:g}"
            )
        if directory is not None:
            raise RecipeError(
                "RECIPE and directory exclude each other: set it in the recipe, output: {dir: "
                f"{os.fspath(directory)}}}"
            )

    def inputs(self, overrides: tuple[str, ...], method: str | None = None) -> RunTableInputs:
        """Bring the arguments, and a method given by name, into the form of the command line."""
        from curate.pipeline.from_run_table import RunTableInputs

        supply = () if self.supply is None else self.supply
        if isinstance(supply, Mapping):
            supply = [f"{name}={tokens}" for name, tokens in supply.items()]
        elif isinstance(supply, str | os.PathLike):
            supply = [os.fspath(supply)]
        return RunTableInputs(
            runs=_paths(self.runs or ()),
            experts=_path(self.experts),
            supply=tuple(supply),
            budget_tokens=_whole_tokens(self.budget_tokens),
            max_epochs=self.max_epochs,
            overrides=overrides if method is None else (*overrides, f"mixture.method={method}"),
        )


@contextmanager
def engine(name: Engine) -> Iterator[None]:
    """Do the work of the functions called inside the block on this machine, or on a Ray cluster.

    A cluster tokenises, counts, measures, writes and verifies. Its machines must see the recipe's
    files, cache and output under the same paths, and have the same versions installed, which
    `curate doctor --engine ray` checks. The results are the same, byte for byte.

    Args:
        name: "local" or "ray". Ray connects to the cluster that RAY_ADDRESS names, or starts on
            this machine.

    Raises:
        EngineError: The cluster cannot be reached.
        MissingEvidence: ray is not installed.

    Example:
        >>> with engine("local"):  # "ray" on a cluster
        ...     pass
    """
    if _checked_engine(name) == "local":
        yield
        return
    from curate.runtime.ray import RayCluster

    with on_cluster(RayCluster()):
        yield


def tokenize(
    recipe: RecipeLike, *, workers: int | None = None, progress: Progress = None
) -> StatsResult:
    """Tokenise what the token store lacks, count it, and write `stats.json`.

    Args:
        recipe: The recipe, its path, or a mapping.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Documents, bytes, tokens and plug-in entropies of every domain.

    Raises:
        CurateError: Any user-fixable error in the recipe, the files or the tokenizer.

    Example:
        `curate.tokenize("recipe.yaml").to_polars()`
    """
    return stats(recipe, workers=workers, progress=progress)


def stats(
    recipe: RecipeLike,
    *,
    intervals: bool = False,
    compare: bool = False,
    workers: int | None = None,
    progress: Progress = None,
) -> StatsResult:
    """Measure every domain, tokenising it first where needed, and write `stats.json`.

    Args:
        recipe: The recipe, its path, or a mapping.
        intervals: Also estimate bias-corrected entropies with 95 % intervals, and write
            `entropy_report.json`. Takes seconds for each domain.
        compare: Also derive the mixtures of the methods that need no runs; implies `intervals`.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Fields of `stats.json`, and below `entropy_report` those of the report.

    Raises:
        CurateError: Any user-fixable error.

    Example:
        `curate.stats("recipe.yaml", intervals=True).to_polars()`
    """
    from curate.pipeline.report_stats import report_stats

    with _started(recipe, workers, progress) as started:
        return StatsResult(report_stats(*started, intervals=intervals, compare=compare))


def mix(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike | None = None,
    *,
    method: str | None = None,
    runs: PathLike | Sequence[PathLike] | None = None,
    experts: PathLike | None = None,
    supply: Supply = None,
    budget_tokens: float | None = None,
    max_epochs: float = 1.0,
    overrides: Overrides = (),
    directory: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> MixtureResult:
    """Derive shares of tokens, from a recipe or from a run table alone.

    With a recipe, `stats.json` and `mixture.json` are written, and every argument from `runs` to
    `max_epochs` is left out: the recipe says all of that.

    Args:
        recipe: The recipe, its path, or a mapping; None with `runs` or `experts`.
        method: Name of a mixing method; None for the recipe's, or `joint` for runs and `mde` for
            experts. Keys of the recipe's `mixture` that it does not read are left out, with a
            notice.
        runs: See `fit`.
        experts: Log-probabilities of one expert for each domain, from `curate.experts`.
        supply: Tokens by domain, or a CSV file with columns domain and tokens; needs
            `budget_tokens`.
        budget_tokens: Tokens to train on; needs `supply`.
        max_epochs: Most passes over a domain; positive.
        overrides: Changes to the recipe; without one, to `mixture.…` and `seed`.
        directory: Without a recipe, where to write `mixture.json`; None writes nothing.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Shares by domain, with intervals where the method has them.

    Raises:
        CurateError: Any user-fixable error, including a mixture that its caps do not allow.

    Example:
        `curate.mix(runs="runs.csv", method="bimix").weights`
    """
    table = _RunTableArguments(runs, experts, supply, budget_tokens, max_epochs)
    settings = override_texts(overrides)
    if recipe is None:
        from curate.pipeline.from_run_table import mix_without_text

        inputs = table.inputs(settings, method)
        return mix_without_text(inputs, _path(directory), _observer(progress))
    from curate.pipeline.mix import mix_recipe

    table.refuse(directory)
    with _started(recipe, workers, progress, settings, method) as started:
        if started[0].recipe.stages:
            from curate.pipeline.stages import mix_staged_recipe

            return mix_staged_recipe(*started)
        return mix_recipe(*started)


def compare(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike | None = None,
    *,
    methods: Sequence[str] = (),
    stage: str | None = None,
    runs: PathLike | Sequence[PathLike] | None = None,
    experts: PathLike | None = None,
    supply: Supply = None,
    budget_tokens: float | None = None,
    max_epochs: float = 1.0,
    overrides: Overrides = (),
    directory: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> MethodsResult:
    """Derive the mixtures of the methods that the evidence allows, side by side.

    Args:
        recipe: The recipe, its path, or a mapping; None with `runs` or `experts`.
        methods: Names of methods; empty for all.
        stage: The stage that the mixtures are for, of a recipe with stages.
        runs: See `mix`.
        experts: See `mix`.
        supply: See `mix`.
        budget_tokens: See `mix`.
        max_epochs: See `mix`.
        overrides: See `mix`.
        directory: Without a recipe, where to write `mixtures.json`; None writes nothing.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Mixtures by method, and why the others are left out; also written to `mixtures.json`.

    Raises:
        CurateError: Any user-fixable error.

    Example:
        `curate.compare("recipe.yaml").to_polars()`
    """
    table = _RunTableArguments(runs, experts, supply, budget_tokens, max_epochs)
    settings = override_texts(overrides)
    if recipe is None:
        from curate.pipeline.from_run_table import compare_without_text

        _refuse_stage(stage)
        inputs, workers = table.inputs(settings), _workers(workers)
        observer, names = _observer(progress), _names(methods)
        return compare_without_text(inputs, _path(directory), workers, observer, names)
    from curate.pipeline.check import check_stage
    from curate.pipeline.compare_mixtures import compare_recipe
    from curate.pipeline.stages import StageChoice

    table.refuse(directory)
    with _opened(recipe, workers, progress, settings) as opened:
        check_stage(opened[0], stage, "compare")
        choice = None if stage is None else StageChoice(stage)
        return compare_recipe(*opened, _names(methods), choice)


def front(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike | None = None,
    *,
    groups: Sequence[str],
    points: int = 11,
    method: str | None = None,
    stage: str | None = None,
    runs: PathLike | Sequence[PathLike] | None = None,
    experts: PathLike | None = None,
    supply: Supply = None,
    budget_tokens: float | None = None,
    max_epochs: float = 1.0,
    overrides: Overrides = (),
    directory: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> FrontResult:
    """Trace the Pareto front of groups of targets: mixtures between the best for each.

    Args:
        recipe: The recipe, its path, or a mapping; None with `runs` or `experts`.
        groups: At least two: names of groups of `mixture.objective`, or names and patterns of
            targets.
        points: Most points between two groups, at least 2.
        method: See `mix`.
        stage: The stage that the mixtures are for, of a recipe with stages.
        runs: See `mix`.
        experts: See `mix`.
        supply: See `mix`.
        budget_tokens: See `mix`.
        max_epochs: See `mix`.
        overrides: See `mix`.
        directory: Without a recipe, where to write `front.json`; None writes nothing.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Predicted losses and shares of each point; also written to `front.json`.

    Raises:
        CurateError: Any user-fixable error.

    Example:
        `curate.front(runs="runs.csv", groups=["code_*", "wiki"]).to_polars()`
    """
    table = _RunTableArguments(runs, experts, supply, budget_tokens, max_epochs)
    settings = override_texts(overrides)
    if recipe is None:
        from curate.pipeline.from_run_table import front_without_text

        _refuse_stage(stage)
        inputs, place = table.inputs(settings, method), _path(directory)
        return front_without_text(inputs, place, groups, points, _observer(progress))
    from curate.pipeline.check import check_stage
    from curate.pipeline.compare_mixtures import front_recipe
    from curate.pipeline.stages import StageChoice

    table.refuse(directory)
    choice = None if stage is None else StageChoice(stage, method)
    common = method if choice is None else None
    with _started(recipe, workers, progress, settings, common) as (loaded, workers, observer):
        check_stage(loaded, stage, "front")
        return front_recipe(loaded, (groups, points), workers, observer, choice)


def plan(
    recipe: RecipeLike, *, workers: int | None = None, progress: Progress = None
) -> PlanResult:
    """Turn the mixture into whole tokens by domain, and write `plan.json` but no shard.

    Args:
        recipe: The recipe, its path, or a mapping.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Tokens, documents and passes by domain; the tokens sum to `budget_tokens`.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan.

    Example:
        `curate.plan("recipe.yaml").to_polars()`
    """
    from curate.pipeline.plan import plan_recipe

    with _started(recipe, workers, progress) as started:
        if started[0].recipe.stages:
            from curate.pipeline.stages import plan_staged_recipe

            return plan_staged_recipe(*started)
        return PlanResult(plan_recipe(*started))


def build(
    recipe: RecipeLike,
    *,
    overwrite: bool = False,
    workers: int | None = None,
    progress: Progress = None,
) -> CertificateResult:
    """Build the dataset: tokenise, measure, mix, plan, write shards, read them back and certify.

    Whatever is up to date is reused.

    Args:
        recipe: The recipe, its path, or a mapping.
        overwrite: Whether to replace a finished dataset of another recipe in the output directory.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        The certificate; `ok` says whether everything on disk is as planned.

    Raises:
        CurateError: Any user-fixable error, including an infeasible plan.

    Example:
        `curate.build("recipe.yaml").ok`
    """
    from curate.pipeline.build import build as build_dataset

    with _started(recipe, workers, progress) as started:
        if started[0].recipe.stages:
            from curate.pipeline.build_stages import build_staged_recipe

            return build_staged_recipe(*started, overwrite=overwrite)
        built = build_dataset(*started, overwrite=overwrite)
    bad_records = {stats.name: stats.bad_records for stats in built.tokenized.stats}
    url, name = built.url, "certificate.json"
    path = built.directory / name if url is None else f"{url}/{name}"
    return CertificateResult(
        built.certificate,
        url or built.directory,
        bad_records,
        path=path,
        mixture=built.mixture,
        stats=built.stats,
    )


def verify(
    directory: PathLike,
    *,
    report: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> CertificateResult:
    """Read a built dataset back, compare it with its plan, and write `certificate.json`.

    Args:
        directory: Directory of the dataset, or its URL in a bucket.
        report: Where to write the certificate; None: to the dataset, if its disk can be written.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        The certificate; `problems` lists every difference, damage of any kind among them.

    Raises:
        ShardError: The directory holds nothing of curate.
        InputError: `report` cannot be written.

    Example:
        `curate.verify("out/my-mix").problems`
    """
    from curate.pipeline.read_back_stages import read_back_any, read_back_bucket

    url = dataset_url(directory)
    if url is not None:
        return read_back_bucket(url, _path(report), _workers(workers), _observer(progress))
    return read_back_any(Path(directory), _path(report), _workers(workers), _observer(progress))


def push(  # noqa: PLR0913 - keywords, of which a call names one or two
    directory: PathLike,
    repository: str,
    *,
    public: bool = False,
    message: str | None = None,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Progress = None,
) -> PushResult:
    """Verify a dataset, and upload it to the Hugging Face Hub in one commit.

    Args:
        directory: Directory of a dataset in a format that `load_dataset` opens, such as `parquet`.
        repository: The dataset's repository, `owner/name`, which is made if there is none.
        public: Whether a new repository is public. One that exists stays as it is.
        message: Message of the commit; None for one that names the dataset.
        dry_run: Whether only to list the files, without a network.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        The files, and the address and commit of the repository.

    Raises:
        ShardError: The directory holds no finished dataset, or it is damaged.
        InputError: `load_dataset` does not open its format, or the Hub refuses.

    Example:
        `curate.push("out/my-mix", "me/my-mix", dry_run=True).files`
    """
    from curate.pipeline.push import PushRequest, list_files
    from curate.pipeline.push import push as push_dataset

    request = PushRequest(_on_disk(directory, "push"), repository, public, message)
    if dry_run:
        return list_files(request)
    return push_dataset(request, _workers(workers), _observer(progress))


def remove(
    directories: PathLike | Sequence[PathLike],
    names: PathLike,
    *,
    rebuild: bool = False,
    workers: int | None = None,
    progress: Progress = None,
) -> RemovalResult:
    """Find listed documents in datasets, and rebuild these without them if that is asked.

    Args:
        directories: Directory of a dataset, or several.
        names: File with an identifier, URL or content hash on each line, as for `exclude`.
        rebuild: Whether to rebuild the datasets that hold any of them, with the same shares and
            budget. Their names are added to the recipe's `exclude`; without one, `names` is it.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        The documents of each dataset with every place in its shards and, after a rebuild, what
        changed.

    Raises:
        InputError: The list cannot be read, or a dataset to rebuild lacks its token store.
        ShardError: A directory holds no finished dataset.

    Example:
        `curate.remove("out/my-mix", "ids.txt").to_polars()`
    """
    from curate.pipeline.remove import RemovalRequest
    from curate.pipeline.remove import remove as remove_documents

    listed = [directories] if isinstance(directories, str | os.PathLike) else directories
    places = [_on_disk(path, "remove") for path in listed]
    request = RemovalRequest(places, Path(names), rebuild)
    return remove_documents(request, _workers(workers), _observer(progress))


def init(directory: PathLike, *, recipe: PathLike | None = None) -> InitResult:
    """Look at a directory and write a first recipe for it, with comments on what was guessed.

    Args:
        directory: Directory of text.
        recipe: Where to write; None for `<name of the directory>.yaml` in the current directory.
            A file that exists is never overwritten.

    Returns:
        Path and text of the recipe, its domains, and what should be checked.

    Raises:
        InputError: The directory holds no text, or the recipe exists.

    Example:
        `curate.init("data").unsure`
    """
    from curate.pipeline.init import init as write_recipe

    return write_recipe(Path(directory), _path(recipe))


def show(  # noqa: PLR0913 - keywords, of which a call names two or three
    directory: PathLike,
    query: str | None = None,
    *,
    step: int | None = None,
    batch: int | None = None,
    length: int | None = None,
    order: str = "stored",
    labels: bool = False,
    index: PathLike | None = None,
) -> LookUp:
    """Look up a place of a dataset, or the places of a document, in either direction.

    Args:
        directory: Directory of the dataset, or its URL in a bucket.
        query: `SHARD:TOKEN` or `SHARD#ROW`, both from 0; or a content hash, an identifier, a whole
            text or a part of one. None with `step`.
        step: Training step to look up in place of `query`, from 0.
        batch: Sequences of a step, over all ranks and accumulated micro-batches.
        length: Tokens from one sequence to the next; None for the dataset's `sequence_length`.
        order: `stored`, the order of the shards, or `shuffled`, that of `curate.load`.
        labels: Whether the loader's windows hold one token more, as with its field `labels`.
        index: Directory of the index files that Megatron cached, to follow its order.

    Returns:
        Documents with text, file, line and licence, and every place where they stand.

    Raises:
        InputError: Nothing fits the query, or the step cannot be traced.
        ShardError: The directory holds no finished dataset, or it is damaged.

    Example:
        `curate.show("out/my-mix", "shard-00000:123456").documents[0].file`
    """
    from curate.dataset.steps import ORDERS, StepQuery
    from curate.pipeline.show import show as look_up

    if step is None or batch is None:
        if query is None or step is not None or batch is not None:
            raise InputError(
                "show takes a position or a document, or --step with --batch; as in curate show "
                "out/my-mix train/shard-00000:0, or curate show out/my-mix --step 0 --batch 64"
            )
        if (length, order, labels, index) != (None, "stored", False, None):
            raise InputError("--length, --order, --labels and --index need --step and --batch")
        return look_up(Path(directory), query)
    if query is not None:
        raise InputError(f"'{query}' and --step exclude each other; leave one out")
    if order not in ORDERS:
        raise InputError(unknown_name("order", order, ORDERS, "--order"))
    step_query = StepQuery(step, batch, length, order, labels=labels, index=_path(index))
    return look_up(Path(directory), step_query)


def diff(a: PathLike, b: PathLike) -> Differences:
    """Compare two recipes, two mixtures or two datasets, and name the runs that B strands.

    Args:
        a: A recipe, a `mixture.json`, or the directory of a dataset, which may be in a bucket.
        b: Another. A dataset beside a recipe or a mixture stands for its own.

    Returns:
        What changed, outside domains and domain by domain; `same` says that nothing did.

    Raises:
        CurateError: One of them cannot be read, or they have nothing to compare.

    Example:
        `curate.diff("old.yaml", "new.yaml").stranded`
    """
    from curate.pipeline.diff import diff as compare_artifacts

    return compare_artifacts(Path(a), Path(b))


def fit(  # noqa: PLR0913 - keywords, of which a call names two or three
    runs: PathLike | Sequence[PathLike],
    *,
    laws: Sequence[str] | None = None,
    folds: int = 5,
    experts: PathLike | None = None,
    targets: Sequence[str] | None = None,
    far_runs: FarRuns = "leave_out",
    fill: Mapping[str, Mapping[str, float]] | None = None,
    absent_domains: AbsentDomains = "refuse",
    became: Mapping[str, str | Mapping[str, float]] | None = None,
    alike: Mapping[str, str | Sequence[str]] | None = None,
    stage: str | None = None,
    directory: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> FitResult:
    """Fit laws to run tables and compare them on mixtures that they have not seen.

    Args:
        runs: Run table, or several, which are joined. A file of mixtures next to one of losses is a
            table too.
        laws: Names of laws; None for all.
        folds: Folds of the cross-validation over mixtures; at least 2.
        experts: Log-probabilities of one expert for each domain; adds regressions with and without
            them.
        targets: Losses to fit; None for every one.
        far_runs: Whether runs that all the others contradict, such as a diverged one, take part.
        fill: By file, `params` and `tokens` of a table that has no such column.
        absent_domains: Whether a domain that only some tables have is refused, or has share 0 in
            the others.
        became: By a domain of the tables, its new name, or its parts with their shares of it.
        alike: Groups of domains of similar text, by names and patterns, for law `joint`.
        stage: Stage whose rows are read, where a column `stage` says to which each belongs.
        directory: Where to write `fit.json`; None writes nothing.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Errors of every law, best first.

    Raises:
        CurateError: A table is wrong, or a name is unknown.

    Example:
        `curate.fit("runs.csv", laws=["bimix", "dml"]).to_polars()`
    """
    from curate.laws.run_tables.join import joining
    from curate.pipeline.fit_laws import FitInputs, fit_laws

    inputs = FitInputs(
        runs=_paths(runs),
        laws=None if laws is None else _names(laws),
        folds=folds,
        experts=_path(experts),
        targets=None if targets is None else _names(targets),
        far_runs=far_runs,
        joining=joining(fill or {}, absent_domains, became, stage),
        alike=alike,
    )
    fields = fit_laws(inputs, _path(directory), _workers(workers), _observer(progress))
    return FitResult(fields)


def design(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike | None = None,
    *,
    count: int | None = None,
    strategy: str | None = None,
    flops: float | None = None,
    sizes: str | None = None,
    runs: PathLike | Sequence[PathLike] | None = None,
    experts: PathLike | None = None,
    supply: Supply = None,
    budget_tokens: float | None = None,
    max_epochs: float = 1.0,
    overrides: Overrides = (),
    directory: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> DesignResult:
    """Propose the next mixtures to train, within supply.

    Args:
        recipe: The recipe, its path, or a mapping; None with `runs` or `experts`.
        count: Number of mixtures; None for as many as the domains still need.
        strategy: `dirichlet`, `entropy`, `filling`, `determinant` or `variance`; None for
            `variance` beside runs on earlier domains, else `filling`.
        flops: Budget to buy runs at two sizes for, in place of `count` and `strategy`.
        sizes: The two sizes, such as "7e7:1.4e9,4.1e8:8.2e9", parameters and tokens of each; None
            for the smallest and the largest of the runs.
        runs: See `mix`.
        experts: See `mix`.
        supply: See `mix`.
        budget_tokens: See `mix`.
        max_epochs: See `mix`.
        overrides: See `mix`.
        directory: Without a recipe, where to write `design.csv`; None writes nothing.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Mixtures by run. With a recipe they are also in `design.csv` in its output directory.

    Raises:
        CurateError: Any user-fixable error.

    Example:
        `curate.design(runs="runs.csv", count=8).to_polars()`
    """
    from curate.pipeline.design_runs import design_purchase, design_runs, read_sizes

    _check_purchase(count, strategy, flops, sizes)
    table = _RunTableArguments(runs, experts, supply, budget_tokens, max_epochs)
    settings = override_texts(overrides)
    if recipe is None:
        from curate.pipeline.from_run_table import request_without_text

        target, observer = _path(directory), _observer(progress)
        request = request_without_text(table.inputs(settings), observer).request
    else:
        from curate.pipeline.mix import mixture_request
        from curate.pipeline.tokenize import tokenize_domains

        table.refuse(directory)
        with _started(recipe, workers, progress, settings) as (loaded, workers, observer):
            target = loaded.output_dir
            request = mixture_request(loaded, tokenize_domains(loaded, workers, observer))
    if flops is not None:
        pair = None if sizes is None else read_sizes(sizes)
        return design_purchase(request, float(flops), pair, target, observer)
    return design_runs(request, strategy, count, target, observer)


def _check_purchase(
    count: int | None, strategy: str | None, flops: float | None, sizes: str | None
) -> None:
    """Raise RecipeError if the arguments of a purchase do not go together."""
    if flops is None and sizes is not None:
        raise RecipeError("design: --sizes are those of a purchase; add its budget: --flops 1e20")
    if flops is not None and (count is not None or strategy is not None):
        raise RecipeError(
            "design: --flops decides how many runs of each size to train, far from each other; "
            "leave out -n and --strategy"
        )


def proxy(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike,
    *,
    devices: str | None = None,
    engine: Engine | None = None,
    tensorboard: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> ProxyResult:
    """Train small models on many mixtures, and write `runs.csv`; runs in it are not repeated.

    Args:
        recipe: The recipe, its path, or a mapping.
        devices: Such as "cuda:0,cuda:1"; None for the recipe's.
        engine: Where the devices are: "local" or "ray"; None for the recipe's.
        tensorboard: Directory for scalars of every run; None for the recipe's.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Weights and final losses of every run.

    Raises:
        CurateError: Any user-fixable error, including that torch is not installed.

    Example:
        `curate.proxy("recipe.yaml").to_polars()`
    """
    from curate.pipeline.proxies import proxy_result, train_proxies

    with _opened(recipe, workers, progress) as (loaded, workers, observer):
        loaded = _with_devices(loaded, devices, engine, tensorboard)
        result = proxy_result(loaded, train_proxies(loaded, workers, observer))
        observer.wrote(result.path)
        return result


def experts(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike,
    *,
    devices: str | None = None,
    engine: Engine | None = None,
    tensorboard: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> ProxyResult:
    """Train one small model for each domain, and write their log-probabilities.

    Args:
        recipe: The recipe, its path, or a mapping.
        devices: Such as "cuda:0,cuda:1"; None for the recipe's.
        engine: Where the devices are: "local" or "ray"; None for the recipe's.
        tensorboard: Directory for scalars of every run; None for the recipe's.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Final losses of every expert on every domain; `path` is `experts.parquet`.

    Raises:
        CurateError: Any user-fixable error, including that torch is not installed.

    Example:
        `curate.mix(experts=curate.experts("recipe.yaml").path)`
    """
    from curate.pipeline.proxies import experts_result, train_domain_experts

    with _opened(recipe, workers, progress) as (loaded, workers, observer):
        loaded = _with_devices(loaded, devices, engine, tensorboard)
        result = experts_result(loaded, train_domain_experts(loaded, workers, observer))
        observer.wrote(result.path)
        return result


def validate(  # noqa: PLR0913 - keywords, of which a call names two or three
    recipe: RecipeLike,
    *,
    seeds: int = 3,
    presets: Sequence[str] = (),
    up: bool = False,
    stage: str | None = None,
    devices: str | None = None,
    engine: Engine | None = None,
    tensorboard: PathLike | None = None,
    workers: int | None = None,
    progress: Progress = None,
) -> ValidationResult:
    """Train the recommended mixture and its rivals with several seeds, and judge the advice.

    Args:
        recipe: The recipe, its path, or a mapping.
        seeds: Runs of each mixture; at least 2.
        presets: Sizes of models; empty for the recipe's.
        up: Also train one size larger, to see whether the ranking holds.
        stage: The stage whose mixture is trained, of a recipe with stages: from scratch, not after
            the stages before it.
        devices: Such as "cuda:0,cuda:1"; None for the recipe's.
        engine: Where the devices are: "local" or "ray"; None for the recipe's.
        tensorboard: Directory for scalars of every run; None for the recipe's.
        workers: Number of processes; None for the cores.
        progress: None for silence, "terminal", or an observer.

    Returns:
        The verdict and the losses; also written to `validation.json`.

    Raises:
        CurateError: Any user-fixable error, including that torch is not installed.

    Example:
        `curate.validate("recipe.yaml", seeds=5).verdict`
    """
    from curate.pipeline.check import READ_BY_VALIDATE, check_stage
    from curate.pipeline.validate import ValidationSettings, validate_mixture

    with _opened(recipe, workers, progress) as (loaded, workers, observer):
        check_stage(loaded, stage, "validate")
        loaded = _settled(loaded, observer, READ_BY_VALIDATE)
        loaded = _with_devices(loaded, devices, engine, tensorboard)
        settings = ValidationSettings(seeds, _names(presets), up, stage)
        return ValidationResult(validate_mixture(loaded, settings, workers, observer))


def report(  # noqa: PLR0913 - keywords, of which a call names two or three
    source: RecipeLike | Sequence[PathLike],
    *,
    supply: Supply = None,
    budget_tokens: float | None = None,
    max_epochs: float = 1.0,
    overrides: Overrides = (),
    directory: PathLike | None = None,
    plots: PathLike | None = None,
    progress: Progress = None,
) -> ReportResult:
    """Write `report.html`, one page about a recipe, a dataset or training runs.

    Nothing is tokenised or trained: a part without evidence names the command that makes it.

    Args:
        source: A recipe, its path, or a mapping; the directory of a dataset; or run tables, as
            for `fit`.
        supply: For run tables: see `mix`.
        budget_tokens: For run tables: see `mix`.
        max_epochs: For run tables: see `mix`.
        overrides: Changes to the recipe; for run tables, to `mixture.…` and `seed`.
        directory: Where the page goes; None: the recipe's output directory, the dataset's, or for
            run tables the current one.
        plots: Directory for each figure as PNG and SVG, drawn by matplotlib; None for none. See
            `curate.plots` for the figures in a notebook.
        progress: None for silence, "terminal", or an observer.

    Returns:
        Path and size of the page.

    Raises:
        CurateError: Any user-fixable error, including that nothing of curate is there.

    Example:
        `curate.report("recipe.yaml").path`
    """
    from curate.dataset.copies import copy_from_bucket
    from curate.pipeline.write_report import REPORT, recipe_inputs, report_inputs, write_report

    texts, observer = override_texts(overrides), _observer(progress)
    if isinstance(source, LoadedRecipe | Mapping):
        loaded, _, observer = _open(source, None, progress, texts)
        inputs = recipe_inputs(loaded, loaded.recipe.name)
        path = (_path(directory) or loaded.output_dir) / REPORT
    else:
        table = _RunTableArguments(None, None, supply, budget_tokens, max_epochs)
        paths, place = _paths(source), _path(directory)
        urls = [dataset_url(path) for path in paths]
        url = urls[0] if len(urls) == 1 else None
        if url is not None:
            paths, place = (copy_from_bucket(url),), place or Path()
        inputs, path = report_inputs(paths, table.inputs(()), texts, place)
    return ReportResult(write_report(inputs, path, _path(plots), observer))


Opened = tuple[LoadedRecipe, int, Observer]
"""A recipe, the number of processes, and what receives progress."""


def _refuse_stage(stage: str | None) -> None:
    """Raise RecipeError if a stage was named without a recipe."""
    if stage is not None:
        raise RecipeError(
            f"--stage {stage}: goes with a recipe that has stages; the rows of a stage of a run "
            f"table are read by --set mixture.evidence.stage={stage}"
        )


@contextmanager
def _started(
    recipe: RecipeLike,
    workers: int | None,
    progress: Progress,
    overrides: Sequence[str] = (),
    method: str | None = None,
) -> Iterator[Opened]:
    """Open the recipe, and leave out what a method that replaces its own does not read."""
    with _opened(recipe, workers, progress, overrides) as (loaded, processes, observer):
        if method is not None:
            loaded = loaded.with_mixture(with_fields(loaded.recipe.mixture, method=method))
            loaded = with_fields(loaded, overridden=(*loaded.overridden, "mixture.method"))
        yield _settled(loaded, observer), processes, observer


@contextmanager
def _opened(
    recipe: RecipeLike, workers: int | None, progress: Progress, overrides: Sequence[str] = ()
) -> Iterator[Opened]:
    """Open the recipe, and bound the memory of all that runs inside by `limits.memory_mb`."""
    from curate.runtime.memory import bounded

    loaded, processes, observer = _open(recipe, workers, progress, overrides)
    with bounded(loaded.recipe.limits.memory_mb << 20, loaded.cache_dir, observer.tick):
        yield loaded, processes, observer


def _settled(loaded: LoadedRecipe, observer: Observer, also: Sequence[str] = ()) -> LoadedRecipe:
    from curate.pipeline.check import settled

    loaded, notices = settled(loaded, also)
    for notice in notices:
        observer.notice(notice)
    return loaded


def _open(
    recipe: RecipeLike, workers: int | None, progress: Progress, overrides: Sequence[str] = ()
) -> Opened:
    """Load the recipe unless it is, fill in defaults, and pass its notices on."""
    from curate.pipeline.check import unused_weights

    observer = _observer(progress)
    if not isinstance(recipe, LoadedRecipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise RecipeError(
            "overrides: the recipe is loaded already; use load_recipe(source, overrides)"
        )
    for notice in (*recipe.notices, *unused_weights(recipe)):
        observer.notice(notice)
    return recipe, _workers(workers), observer


def _observer(progress: Progress) -> Observer:
    if progress is None:
        return Observer()
    if progress == "terminal":
        from curate.report.terminal import TerminalObserver, terminal_console

        return TerminalObserver(terminal_console())
    if not isinstance(progress, Observer):
        raise RecipeError(f'progress: {progress!r}; expected None, "terminal" or an Observer')
    return progress


def _workers(workers: int | None) -> int:
    if workers is None:
        return default_workers()
    if not isinstance(workers, int) or workers < 1:
        raise RecipeError(f"workers: {workers!r}; expected a whole number, at least 1, or None")
    return workers


def _whole_tokens(tokens: float | None) -> int | None:
    """Round down, as YAML's `1.5e9` is read.

    Raises:
        RecipeError: It is no number, or not finite.
    """
    try:
        return None if tokens is None else int(tokens)
    except (OverflowError, TypeError, ValueError):
        raise RecipeError(f"budget_tokens: {tokens!r} is not a positive number") from None


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name stands for a list of it; its letters are no names."""
    return (names,) if isinstance(names, str) else tuple(names)


def _with_devices(
    loaded: LoadedRecipe, devices: str | None, engine: str | None, tensorboard: PathLike | None
) -> LoadedRecipe:
    """Replace the places where proxies train and report."""
    changes: dict[str, Any] = {}
    if devices is not None:
        changes["device"] = devices
    if engine is not None:
        changes["engine"] = _checked_engine(engine)
    if tensorboard is not None:
        changes["tensorboard"] = str(Path(tensorboard).resolve())
    return loaded.with_proxies(with_fields(loaded.proxies, **changes)) if changes else loaded


def _checked_engine(name: str) -> str:
    if name not in get_args(Engine):
        raise RecipeError(unknown_name("engine", name, get_args(Engine), "engine"))
    return name


def _on_disk(path: PathLike, command: str) -> Path:
    """Return a path on disk; refuse a URL, which a command does not read.

    Raises:
        InputError: It is a URL; says how to copy what is there.
    """
    url = dataset_url(path)
    if url is None:
        return Path(path)
    refuse_access(url)
    copier = "gcloud storage cp -r" if url.startswith("gs:") else "aws s3 cp --recursive"
    raise InputError(
        f"{url}: {command} reads directories; copy the dataset first: {copier} {shlex.quote(url)} "
        "DIR"
    )


def _path(path: PathLike | None) -> Path | None:
    """Return a path on a disk, or None.

    Raises:
        InputError: It is a URL.
    """
    if path is None:
        return None
    url = bucket_url(path)
    if url is not None:
        raise InputError(f"{without_access(url)}: is in a bucket; name a path on a disk")
    return Path(path)


def _paths(paths: PathLike | Sequence[PathLike]) -> tuple[Path, ...]:
    if isinstance(paths, str | os.PathLike):
        return (Path(paths),)
    return tuple(Path(path) for path in paths)
