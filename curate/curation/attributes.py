"""Gather the attributes of documents that expressions name, and check expressions beforehand.

Attributes are built in, or columns of the files, or columns of tables that are joined.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.curation.attribute_tables import (
    AttributeTable,
    attribute_tables,
    join_table,
    read_table,
)
from curate.curation.source_columns import read_head, source_columns
from curate.curation.step import CurationRequest
from curate.errors import RecipeError
from curate.recipe import DomainRecipe, LoadedRecipe
from curate.runtime.files import hash_file, hash_json
from curate.runtime.memory import blocks
from curate.runtime.registry import counted, nearest_hint
from curate.sources.plans import FilePlan
from curate.stats.copies import repeated_documents
from curate.tokens.domain import DomainTokens

BUILT_IN: dict[str, Any] = {
    "bytes": pl.Int64,  # UTF-8 bytes of text
    "tokens": pl.Int64,  # the end token included, as everywhere
    "bytes_per_token": pl.Float64,
    "copies": pl.Int64,  # documents of the domain with the same text, this one included
    "line": pl.Int64,
    "file": pl.String,
    "id": pl.String,
}
"""Attributes that every document has, and their types."""

MOST_CHARACTERS = 4000
"""Most characters of an expression beside texts in quotes. The parser of polars calls itself for
each operation, and ends the process at about 4,000 of them."""

MOST_NESTED, MOST_OPERATIONS = 200, 2000
"""Most operations of an expression, inside one another and in all; polars takes time with the cube
of the first, and `a BETWEEN 1 AND 2 BETWEEN 1 AND 2 …` doubles the second with every word."""

SHOWN_CHARACTERS = 300
"""Most characters that are shown of a message of polars."""

CONTEXT = re.compile(
    " ?(?:This error occurred in|Resolved plan until failure|Did not show all|You might want to)"
)
"""Beginnings of the part of a polars message that is about its plan or its methods in Python."""

MEANINGS = {
    "casting from .*to (date|datetime|time)": "text is not cast to dates; DATE(name) reads texts "
    "such as 2024-01-31, which also compare as they are, as in name >= '2024-01-31'",
    "find an appropriate format": "a text is no date such as 2024-01-31; DATE(name, '%d/%m/%Y') "
    "reads other forms, and ISO dates compare as texts, as in name >= '2024-01-31'",
    "cannot compare 'date/datetime/time' to a string": "compares a date with text; write dates as "
    "DATE '2024-01-31'",
    "casting from .*to boolean": "text is not cast to true or false; compare it with a text, as in "
    "name = 'true'",
}
"""Patterns of messages of polars that name its methods in Python, and what to write in SQL."""


def parse(expression: str, where: str) -> pl.Expr:
    """Parse an SQL expression; nothing is evaluated but polars' own functions of columns.

    Args:
        expression: The expression.
        where: The recipe's key, for messages.

    Raises:
        RecipeError: It is no expression, has a sub-query, asks the clock, or is too long or deep.
    """
    # Texts in quotes are left out, but only where nothing else could hold a quote.
    is_simple = not re.search(r"--|/\*|[\"`$]", expression)
    bare = re.sub("'[^']*'", "''", expression) if is_simple else expression
    if len(bare) > MOST_CHARACTERS:
        raise RecipeError(
            f"{where}: {len(bare):,} characters, texts in quotes apart, and at most "
            f"{MOST_CHARACTERS:,} are possible; keep long lists in a table, as attributes"
        )
    # Polars would open the files, or connections, that a table function names while it parses.
    if re.search(r"\bselect\b|\bfrom\b.*read_|read_.*\bfrom\b", bare, re.IGNORECASE | re.DOTALL):
        raise RecipeError(
            f"{where}: has a sub-query (SELECT, or FROM with read_…), and only expressions of a "
            "document's attributes are possible; join tables as attributes"
        )
    if clock := re.search(r"\b(now\s*\(|current_(date|time)|localtime)", bare, re.IGNORECASE):
        raise RecipeError(
            f"{where}: {clock[0].strip('( ').upper()} differs from run to run of one recipe; write "
            "the date, as in date < '2024-01-31'"
        )
    try:
        parsed = pl.sql_expr(expression)
    except pl.exceptions.PolarsError as error:
        raise RecipeError(
            f"{where}: {_reason(error)}; write it as in lang = 'en' AND quality > 0.4"
        ) from error
    _check_extent(parsed, where)
    return parsed


def _check_extent(expression: pl.Expr, where: str) -> None:
    """Refuse an expression of too many operations.

    Raises:
        RecipeError: There are too many, inside one another or in all.
    """
    left, operations = [(expression, 1)], 0
    while left:
        one, depth = left.pop()
        operations += 1
        if depth > MOST_NESTED or operations > MOST_OPERATIONS:
            raise RecipeError(
                f"{where}: more than {MOST_NESTED} operations inside one another, or more than "
                f"{MOST_OPERATIONS:,} in all; write name IN (1, 2) for name = 1 OR name = 2, or "
                "keep long lists in a table, as attributes"
            )
        left += [(operand, depth + 1) for operand in one.meta.pop()]


def _reason(error: Exception) -> str:
    """Say what an error of polars means, or return its words in one line that is not too long."""
    words = CONTEXT.split(" ".join(str(error).split()))[0].rstrip(". ")
    for pattern, meaning in MEANINGS.items():
        if re.search(pattern, words, re.IGNORECASE):
            return meaning
    if words.startswith("conversion from `str` to `date"):
        words += "; texts such as 2024-01-31 compare as they are, as in name >= '2024-01-31'"
    elif words.startswith("conversion from `str`"):
        words += "; TRY_CAST gives null where a text is no number"
    return words if len(words) <= SHOWN_CHARACTERS else f"{words[:SHOWN_CHARACTERS]}…"


def names_in(expressions: Sequence[pl.Expr]) -> list[str]:
    """List the columns that expressions name, each once."""
    return list(dict.fromkeys(name for one in expressions for name in one.meta.root_names()))


def evaluate(frame: pl.DataFrame, expression: pl.Expr, where: str, path: str = "") -> pl.Series:
    """Evaluate an expression for every row of a frame.

    Differs from polars: a comparison of text with a number or a truth value is refused. Polars 2.1
    compares the texts of both where the number has a decimal point, so that "10" > 9.5 is false.

    Args:
        frame: The attributes that it names.
        expression: The expression.
        where: The recipe's key, for messages.
        path: A file that holds the attributes, for messages.

    Raises:
        RecipeError: It does not fit the types of the attributes.
    """
    try:
        reason = _unlike_types(frame.clear().lazy(), expression)
        if not reason:
            values = frame.select(expression).to_series()
            if len(values) == len(frame):
                return values
            if len(values) == 1:  # a literal, or an aggregate of all documents
                return values.new_from_index(0, len(frame))
            reason = f"gives {counted(len(values), 'value')} for {counted(len(frame), 'document')}"
    except pl.exceptions.StructFieldNotFoundError as error:
        reason = f"'{error}' is no column; a name with dots stands in double quotes: \"meta.year\""
    except pl.exceptions.PolarsError as error:
        reason = _reason(error)
    # What nested types hold may be very long, or too deep to be shown.
    kinds = {name: frame.schema[name] for name in names_in([expression])}
    types = [f"{n} {kind.base_type() if kind.is_nested() else kind}" for n, kind in kinds.items()]
    context = "; ".join(part for part in (", ".join(types), path) if part)
    raise RecipeError(f"{where}: {reason}" + (f" ({context})" if context else ""))


def _unlike_types(frame: pl.LazyFrame, expression: pl.Expr) -> str:
    """Say which comparison in an expression is of text with something else; "" if none is."""
    operands = expression.meta.pop()
    if len(operands) == 2:
        kinds = [_kind(frame, one) for one in operands]
        if pl.String in kinds and _kind(frame, expression) == pl.Boolean:
            if any(kind.is_numeric() for kind in kinds):
                return "compares text with a number; TRY_CAST(name AS DOUBLE) reads text as numbers"
            if pl.Boolean in kinds:
                return "compares text with true or false; compare it with a text, as in 'true'"
    return next((reason for one in operands if (reason := _unlike_types(frame, one))), "")


def _kind(frame: pl.LazyFrame, expression: pl.Expr) -> Any:
    """Return the type of an expression, which is a tenth of the work of evaluating it."""
    return frame.select(expression).collect_schema().dtypes()[0]


def attribute_settings(
    request: CurationRequest, number: int, expressions: Sequence[pl.Expr]
) -> list[Any]:
    """Return, as JSON, all that the attributes of expressions follow from beside the documents.

    Args:
        request: The domains.
        number: Number of the domain.
        expressions: What is evaluated.
    """
    domain, recipe = request.domains[number], request.loaded.recipe.domains[number]
    names = names_in(expressions)
    if set(names) <= set(BUILT_IN) - {"line", "file"}:
        return [pl.__version__]
    files = hash_json(
        [[file.path, [stored.entry.name for stored in file.entries]] for file in domain.files]
    )
    tables = attribute_tables(request.loaded, recipe)
    return [pl.__version__, files, [[hash_file(path) for path in table.files] for table in tables]]


def attribute_frame(
    request: CurationRequest, number: int, names: Sequence[str], notices: list[str]
) -> pl.DataFrame:
    """Gather attributes of a domain's documents, in its order.

    Args:
        request: The domains.
        number: Number of the domain.
        names: Names of the attributes.
        notices: Lines for the user are appended.

    Raises:
        InputError: A file or a table cannot be read, or has the wrong types.
    """
    domain, recipe = request.domains[number], request.loaded.recipe.domains[number]
    columns: dict[str, pl.Series] = {
        name: _built_in(domain, name) for name in names if name in BUILT_IN
    }
    for table in attribute_tables(request.loaded, recipe):
        rows = read_table(table)
        of_table = [name for name in rows.columns if name in names and name not in columns]
        if of_table:
            joined, notice = join_table(domain, table, rows.select("id", *of_table))
            columns |= {name: joined[name] for name in of_table}
            notices += [notice] if notice else []
    columns |= source_columns(request, number, [name for name in names if name not in columns])
    return pl.DataFrame(
        [columns[name].alias(name) for name in names] or {"bytes": domain.text_bytes}
    )


def _built_in(domain: DomainTokens, name: str) -> pl.Series:
    """Return a built-in attribute of every document."""
    if name == "bytes":
        return pl.Series(name, domain.text_bytes)
    if name == "tokens":
        return pl.Series(name, domain.tokens)
    if name == "bytes_per_token":
        return pl.Series(name, domain.text_bytes / domain.tokens)
    if name == "copies":
        return pl.Series(name, _copies(domain))
    parts = []
    for rows in blocks(len(domain)):
        numbers = np.arange(rows.start, rows.stop)
        if name == "id":
            parts.append(pl.Series(name, domain.identifiers(numbers), pl.String))
            continue
        files, lines = domain.locate(numbers)
        if name == "line":
            parts.append(pl.Series(name, lines, pl.Int64))
        else:
            paths = pl.Series(name, list(domain.files.paths), pl.String)
            parts.append(paths.gather(files))
    return pl.concat(parts)


def _copies(domain: DomainTokens) -> NDArray[np.int64]:
    """Count the documents of a domain that have the text of each; they follow one another."""
    group = np.cumsum(~repeated_documents(domain, slice(0, len(domain)))) - 1
    copies: NDArray[np.int64] = np.bincount(group)[group]
    return copies


def check_expressions(
    loaded: LoadedRecipe,
    domain: DomainRecipe,
    plans: Sequence[FilePlan],
    expressions: dict[str, pl.Expr],
) -> dict[str, Any]:
    """Check expressions against names and types of attributes, before any document is read.

    Args:
        loaded: The recipe.
        domain: The domain.
        plans: How its files are read.
        expressions: Expressions by the recipe's key.

    Returns:
        The type of each expression, by key.

    Raises:
        RecipeError: A column does not exist or an expression does not fit its type; names the file,
            its columns and the nearest name.
    """
    where = f"domains[{domain.name}]"
    tables = attribute_tables(loaded, domain)
    heads = [read_table(table) for table in tables]
    joined = _joined_columns(domain, tables, heads)
    needed = [*domain.keep, *names_in(list(expressions.values()))]
    read = list(dict.fromkeys(n for n in needed if n not in BUILT_IN and n not in joined))
    head = read_head(plans, read)
    by_key = {key: names_in([expression]) for key, expression in expressions.items()}
    for key, names in {f"{where}.keep": domain.keep, **by_key}.items():
        for name in names:
            holders = [str(table.files[0]) for table, frame in zip(tables, heads, strict=True)
                       if name in frame.columns and name not in BUILT_IN]  # fmt: skip
            holders += [head.path] if name in head.present else []
            if len(holders) > 1:
                raise RecipeError(
                    f"{key}: '{name}' is a column of {holders[0]} and of {holders[1]}; rename one "
                    "of them"
                )
            if name in read and name not in head.values:
                others = [*BUILT_IN, *joined]
                within = head.searched_bytes
                where_searched = f" in its first {within / 2**20:g} MiB" if within else ""
                raise RecipeError(
                    f"{key}: {head.path} has no column '{name}'{where_searched}"
                    f"{nearest_hint(name, [*head.present, *others])} (columns: "
                    f"{', '.join(head.present) or 'none'}; of all documents: {', '.join(others)})"
                )
    columns = [*head.values.values(), *joined.values()]
    # One row, since polars refuses some casts only where there is a value.
    values = [column.drop_nulls().head(1) for column in columns]
    sample = pl.DataFrame([
        *(value if len(value) else column.clear(1)
          for value, column in zip(values, columns, strict=True)),
        *(pl.Series(name, [None], kind) for name, kind in BUILT_IN.items()),
    ])  # fmt: skip
    return {
        key: evaluate(sample, expression, key, head.path).dtype
        for key, expression in expressions.items()
    }


def _joined_columns(
    domain: DomainRecipe, tables: Sequence[AttributeTable], heads: Sequence[pl.DataFrame]
) -> dict[str, pl.Series]:
    """Return the columns of a domain's tables by name; those that clash with others are refused.

    Args:
        domain: The domain.
        tables: Its tables.
        heads: Identifiers and attributes of each.

    Raises:
        RecipeError: A column is built in or is named by `keep`, or `keep` names a built-in one.
    """
    where = f"domains[{domain.name}]"
    for name in domain.keep:
        if name in BUILT_IN:
            raise RecipeError(f"{where}.keep: '{name}' is built in; leave it out")
    joined = {name: frame[name] for frame in heads for name in frame.columns if name != "id"}
    clash = next((name for name in joined if name in BUILT_IN or name in domain.keep), None)
    if clash is not None:
        kind = "built in" if clash in BUILT_IN else "named by keep"
        raise RecipeError(
            f"{where}.attributes: column '{clash}' of {_file_of(clash, tables, heads)} is {kind}, "
            "too; rename it"
        )
    return joined


def _file_of(name: str, tables: Sequence[AttributeTable], heads: Sequence[pl.DataFrame]) -> Path:
    return next(t.files[0] for t, head in zip(tables, heads, strict=True) if name in head.columns)
