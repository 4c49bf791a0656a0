"""Sections about the data: domains, what was lost, and where everything comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curate.recipe import source_of
from curate.report import artifact_charts
from curate.report.artifact_charts import POINTS
from curate.report.charts import Matrix
from curate.report.numbers import megabytes
from curate.report.page import figures
from curate.report.page.fields import (
    bits,
    decimal,
    dig,
    interval,
    lines_of,
    mapping,
    number,
    percent,
    whole,
)
from curate.report.page.material import Material
from curate.report.page.parts import (
    DOMAIN,
    NAMES_CROSSED,
    Drawing,
    Facts,
    Missing,
    Note,
    PageColumn,
    Part,
    Section,
    Table,
    Texts,
)
from curate.runtime.registry import counted

MEASURES = {
    "shannon": "Entropy of a token on its own, bits: how varied the vocabulary is.",
    "joint": "Entropy of a token and its successor, bits.",
    "conditional": "Entropy of a token once its predecessor is known, bits: how hard text is to "
    "predict from one token.",
    "von_neumann": "Entropy of the excerpts' embeddings, bits: how varied the topics are.",
}
"""How to read each entropy."""


def domains(material: Material) -> Section:
    """Show counts, entropies and texts of every domain."""
    section = ("domains", "Domains", "What is in the data?")
    rows = mapping(material.artifacts, "stats", "domains")
    if not rows:
        command = f"curate stats {material.command}"
        return Section(*section, [Missing("Nothing was counted.", command)])
    columns = [
        DOMAIN,
        PageColumn("files", "Files read."),
        PageColumn("documents", "Documents, held-out ones included."),
        PageColumn("MB", "Text in UTF-8, millions of bytes."),
        PageColumn("tokens", "Tokens, end tokens included."),
        PageColumn("bytes/token", "Bytes for each token; high where the tokenizer suits the text."),
        PageColumn("types", "Distinct tokens."),
        PageColumn("copies", "Documents whose text another document of the domain has."),
        PageColumn("in others", "Documents whose text is in another domain, too."),
        PageColumn("licence", "As the recipe states it.", False),
    ]
    counts = [
        [
            name,
            whole(dig(row, "files")),
            whole(dig(row, "documents")),
            megabytes(number(dig(row, "bytes")) or 0.0),
            whole(dig(row, "tokens")),
            decimal(dig(row, "bytes_per_token"), 2),
            whole(dig(row, "vocabulary_used")),
            whole(dig(row, "copies_in_domain", "documents")),
            whole(dig(row, "copies_in_other_domains", "documents")),
            material.licences.get(source_of(name), "not stated"),
        ]
        for name, row in rows.items()
    ]
    parts: list[Part] = [Table("Counts", columns, counts)]
    parts += _entropies(material, rows)
    parts += _between(material)
    if material.samples:
        parts.append(Texts("Sample documents", list(material.samples.items())))
    else:
        parts.append(
            Missing(
                material.samples_missing or "No document is at hand.",
                f"curate build {material.command}",
            )
        )
    return Section(*section, parts)


def _entropies(material: Material, rows: Mapping[str, Any]) -> list[Part]:
    """Show entropies with intervals, from the entropy report where there is one."""
    report = mapping(material.artifacts, "entropy_report")
    rows = mapping(report, "domains") or rows
    parts: list[Part] = [_entropy_table(rows)]
    charts = artifact_charts.entropies(rows, "conditional"), artifact_charts.saturation(rows)
    drawings = [figures.draw(chart) for chart in charts if chart is not None]
    if drawings:
        parts.insert(0, Drawing(drawings))
    if not report:
        parts.append(
            Missing(
                "Entropies on samples of growing size, and divergence between domains, "
                "were not measured.",
                f"curate stats {material.command} --intervals",
            )
        )
    return parts


def _entropy_table(rows: Mapping[str, Any]) -> Table:
    measures = [m for m in MEASURES if any(dig(row, "entropy", m) for row in rows.values())]
    columns = [DOMAIN]
    for measure in measures:
        columns.append(PageColumn(measure.replace("_", " "), MEASURES[measure]))
        columns.append(
            PageColumn(
                "95 % interval",
                f"Of the {measure.replace('_', ' ')} entropy, bits; "
                "empty for plug-in estimates, which are too low on small domains.",
            )
        )
    table = []
    for name, row in rows.items():
        cells = [name]
        for measure in measures:
            entropy = mapping(row, "entropy", measure)
            cells += [
                bits(entropy.get("nats")),
                interval(entropy.get("low"), entropy.get("high"), bits),
            ]
        table.append(cells)
    return Table("Entropies, bits", columns, table)


def _between(material: Material) -> list[Part]:
    chart = artifact_charts.divergence(mapping(material.artifacts, "entropy_report"))
    if chart is None or not isinstance(chart.drawing, Matrix):
        return []
    names, matrix = chart.drawing.rows, chart.drawing.values
    pairs = sorted(
        (value, names[row], names[column])
        for row in range(len(names))
        for column in range(row)
        if (value := matrix[row][column]) is not None
    )
    columns = [
        PageColumn("domain", "One domain.", False),
        PageColumn("nearest", "The domain whose tokens are most alike.", False),
        PageColumn(
            "divergence",
            "Jensen-Shannon divergence of their tokens, bits: 0 is the same "
            "distribution, 1 no token in common.",
        ),
    ]
    nearest: dict[str, tuple[float, str]] = {}
    for value, first, second in pairs:
        nearest.setdefault(first, (value, second))
        nearest.setdefault(second, (value, first))
    rows = [
        [name, nearest[name][1], decimal(nearest[name][0])] for name in names if name in nearest
    ]
    table = Table("Nearest neighbours", columns, rows)
    if len(names) > NAMES_CROSSED:
        return [table]
    return [Drawing([figures.draw(chart)]), table]


REASONS = {
    "read": ("read", "Everything in the files: the sum of the columns to its right."),
    "bad": ("bad", "Records that could not be read; listed below and in quarantine.jsonl."),
    "excluded": ("excluded", "Removed since the recipe's list names them."),
    "filtered": ("filtered", "Removed by the recipe's filters."),
    "contaminated": ("contaminated", "Removed since they hold items of evaluation sets."),
    "copies": ("copies", "Removed since another document with the text, or nearly, stays."),
    "held_out": ("held out", "Kept for validation."),
    "train": ("to train on", "Left for training."),
    "used": ("used", "In the training set, each document once."),
    "unused": ("unused", "Good, but not needed for the budget."),
}
"""Heading and meaning of what became of documents."""


def losses(material: Material) -> Section:
    """Show what became of everything that was read, by reason."""
    section = ("losses", "Read, removed, lost", "Where did every document go?")
    sources = [
        mapping(material.artifacts, name, "domains") for name in ("certificate", "plan", "stats")
    ]
    rows = next(
        (rows for rows in sources if any(mapping(row, "amounts") for row in rows.values())), {}
    )
    if not rows:
        command = f"curate stats {material.command}"
        return Section(*section, [Missing("Nothing was counted by reason.", command)])
    return Section(*section, [*_amounts(rows), _lost(rows), _bad_records(material)])


def _amounts(rows: Mapping[str, Any]) -> list[Table]:
    """Show what became of documents, tokens and bytes, in a table each."""
    reasons = [r for r in REASONS if any(dig(row, "amounts", r) for row in rows.values())]
    columns = [DOMAIN, *(PageColumn(*REASONS[reason]) for reason in reasons)]
    tables = []
    for unit, title in (
        ("documents", "Documents"),
        ("tokens", "Tokens"),
        ("bytes", "Bytes of text"),
    ):
        table = [
            [name, *(whole(dig(row, "amounts", reason, unit)) for reason in reasons)]
            for name, row in rows.items()
        ]
        sums = [
            sum(number(dig(row, "amounts", r, unit)) or 0.0 for row in rows.values())
            for r in reasons
        ]
        note = (
            "Of bad records only their number and bytes on disk are known."
            if unit == "tokens"
            else ""
        )
        tables.append(
            Table(
                f"{title} by what became of them", columns, table, ["all", *map(whole, sums)], note
            )
        )
    return tables


def _lost(rows: Mapping[str, Any]) -> Table:
    """Show what gave no document."""
    columns = [
        DOMAIN,
        PageColumn("records", "Records that gave no document."),
        PageColumn("of all", "Their share of the domain's records."),
        PageColumn("bytes", "Bytes on disk that gave no document."),
        PageColumn("of all", "Their share of the domain's bytes."),
        PageColumn("damaged files", "Files that are damaged or cut short."),
        PageColumn("may lack", "Share of the bytes that cut files may lack beyond their end."),
        PageColumn("first of them", "Place and reason.", False),
        PageColumn("shrunk", "Documents fewer than at the last build in the output directory."),
        PageColumn("of all", "Their share of its documents, or that of the bytes if larger."),
    ]
    table = [
        [
            name,
            whole(dig(row, "lost", "records")),
            percent(dig(row, "lost", "records_share"), 3),
            whole(dig(row, "lost", "bytes")),
            percent(dig(row, "lost", "bytes_share"), 3),
            whole(dig(row, "lost", "damaged_files")),
            percent(dig(row, "lost", "unknown_share"), 3),
            "; ".join(lines_of(dig(row, "lost", "damaged"))[:3]),
            whole(dig(row, "lost", "shrunk_documents")),
            percent(dig(row, "lost", "shrunk_share"), 3),
        ]
        for name, row in rows.items()
    ]
    return Table("Lost", columns, table)


def _bad_records(material: Material) -> Part:
    if not material.bad_records:
        return Note(["No bad records were met."], "good")
    columns = [
        DOMAIN,
        PageColumn("file", "File it stands in.", False),
        PageColumn("line", "Its line, from 1; 0 is the file as a whole."),
        PageColumn("reason", "Why it could not be read.", False),
        PageColumn("excerpt", "Its beginning.", False),
    ]
    rows = [
        [str(row.get(key, "")) for key in ("domain", "file", "line", "reason", "excerpt")]
        for row in material.bad_records
    ]
    first = len(rows) < material.bad_records_total
    title = (
        f"Bad records, the first {len(rows)} of {material.bad_records_total:,}"
        if first
        else "Bad records"
    )
    return Table(title, columns, rows)


def provenance(material: Material) -> Section:
    """Say which files, versions and recipe the numbers come from."""
    artifacts = material.artifacts
    section = ("provenance", "Provenance", "How can this be made again?")
    manifest, certificate = mapping(artifacts, "manifest"), mapping(artifacts, "certificate")
    origin = mapping(artifacts, "stats") or mapping(artifacts, "mixture")
    rows = [
        ("recipe hash", origin.get("recipe_hash")),
        ("build hash", certificate.get("build_hash")),
        ("hash of the documents", dig(origin, "inputs", "documents")),
        ("hash of the tokenizer", dig(origin, "inputs", "tokenizer")),
        ("hash of the evidence", dig(origin, "inputs", "evidence")),
        ("tokenizer", dig(manifest, "tokenizer", "name") or origin.get("tokenizer")),
        ("tokenised by", origin.get("backend") or dig(manifest, "tokenizer", "backend")),
        ("seed", manifest.get("seed")),
        ("curate", manifest.get("curate_version") or origin.get("curate_version")),
    ]
    parts: list[Part] = [Facts([(name, str(value)) for name, value in rows if value is not None])]
    if material.licences:
        columns = [
            DOMAIN,
            PageColumn("licence", "As the recipe states it; curate does not check it.", False),
        ]
        table = [[name, text] for name, text in material.licences.items()]
        parts.append(Table("Licences", columns, table))
    parts += _files_read(manifest)
    if material.recipe is None:
        parts.append(Missing("The recipe is not at hand.", "curate report RECIPE"))
    else:
        parts.append(Texts("Recipe, as it took effect", [("recipe.yaml", [material.recipe])]))
    return Section(*section, parts)


def _files_read(manifest: Mapping[str, Any]) -> list[Part]:
    inputs = manifest.get("inputs")
    by_domain: dict[str, list[str]] = {}
    for row in inputs if isinstance(inputs, list) else []:
        by_domain.setdefault(str(dig(row, "domain")), []).append(str(dig(row, "path")))
    if not by_domain:
        return []
    items = [
        (f"{name}: {counted(len(paths), 'file')}", _shortened(paths))
        for name, paths in by_domain.items()
    ]
    return [Texts("Files read", items)]


def _shortened(paths: Sequence[str]) -> list[str]:
    """Join the first paths to one text."""
    more = [f"… and {len(paths) - POINTS:,} more, see manifest.json"] if len(paths) > POINTS else []
    return ["\n".join([*paths[:POINTS], *more])]
