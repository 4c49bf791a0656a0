"""Join tables of attributes, such as scores computed elsewhere, to documents by identifier.

A table has a column of identifiers and one for each attribute. Where it has a column `attributes`
of spans, as dolma writes them, each of those has the value of its first span.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import xxhash

from curate.errors import InputError, RecipeError
from curate.recipe import DomainRecipe, LoadedRecipe
from curate.runtime.machine import fault_or
from curate.runtime.registry import counted
from curate.sources.decompress.open import StreamFile, open_stream
from curate.sources.decompress.stream import StreamDamage
from curate.sources.discover import matching_files
from curate.tokens.domain import DomainTokens

CONTENT_HASH = re.compile(r"[0-9a-f]{32}")

SPANS = "attributes"
"""Column of dolma's attribute files."""


@dataclass(frozen=True)
class AttributeTable:
    """The files of one entry of `domains[].attributes`."""

    where: str
    """The recipe's key and the files, for messages."""
    files: tuple[Path, ...]
    id: str
    """Column of identifiers."""


def attribute_tables(loaded: LoadedRecipe, domain: DomainRecipe) -> list[AttributeTable]:
    """Find the files of a domain's tables of attributes.

    Raises:
        RecipeError: There is no such file.
    """
    patterns = [domain.attributes] if isinstance(domain.attributes, str) else domain.attributes
    tables = []
    for pattern in patterns:
        whole = str(loaded.base / Path(pattern).expanduser())
        files = tuple(map(Path, matching_files(whole)))
        if not files:
            raise RecipeError(
                f"domains[{domain.name}].attributes: {whole} is no file; name a Parquet, CSV or "
                "JSON Lines file with a column of identifiers, or a pattern"
            )
        tables.append(AttributeTable(f"domains[{domain.name}].attributes", files, domain.id))
    return tables


def read_table(table: AttributeTable) -> pl.DataFrame:
    """Read a table of attributes: the identifier as text in `id`, and the attributes.

    Raises:
        InputError: A file cannot be read, or has no identifiers.
    """
    frames = [_with_identifiers(path, table) for path in table.files]
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{table.where}: the types of {table.files[0]} and the files after it differ "
            f"({str(error).splitlines()[0]})"
        ) from error


def _read_file(path: Path, table: AttributeTable) -> pl.DataFrame:
    """Read a file as it is; no two of its columns have the same name."""
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        else:
            stream = open_stream(str(path), path.stat().st_size)
            with io.BufferedReader(StreamFile(stream)) as file:
                content = file.read()
            if path.name.removesuffix(path.suffix if stream.kind != "plain" else "").endswith(
                (".csv", ".tsv")
            ):
                separator = "\t" if ".tsv" in path.name else ","
                frame = pl.read_csv(
                    io.BytesIO(content),
                    separator=separator,
                    infer_schema_length=None,
                    # As numbers, identifiers would lose leading zeros.
                    schema_overrides={name: pl.String for name in (table.id, "id")},
                )
            else:
                frame = pl.read_ndjson(io.BytesIO(content), infer_schema_length=None)
    except (pl.exceptions.PolarsError, StreamDamage, OSError) as error:
        reason = str(error).splitlines()[0]
        unreadable = InputError(f"{table.where}: {path} cannot be read ({reason})")
        if isinstance(error, OSError):  # messages of others quote the data
            raise fault_or(unreadable, error, str(path)) from error
        raise unreadable from error
    for name in frame.columns:
        first, _, again = name.rpartition("_duplicated_")  # as polars calls the second of a name
        if again.isdigit() and first in frame.columns:
            raise InputError(f"{table.where}: {path} has two columns '{first}'; rename one of them")
    return frame


def _with_identifiers(path: Path, table: AttributeTable) -> pl.DataFrame:
    """Read a file as text identifiers in `id`, its attributes, and those of dolma's spans."""
    frame = _read_file(path, table)
    identifier = table.id if table.id in frame.columns else "id"
    if identifier not in frame.columns:
        raise InputError(
            f"{table.where}: {path} has no column '{table.id}' of identifiers (columns: "
            f"{', '.join(frame.columns)})"
        )
    kind = frame.schema[identifier]
    if kind.is_nested():
        raise InputError(
            f"{table.where}: column '{identifier}' of {path} holds {kind.base_type()}s, and "
            "identifiers are text or whole numbers"
        )
    others = [name for name in frame.columns if name not in (identifier, SPANS)]
    if "id" in others:
        raise InputError(
            f"{table.where}: {path} has identifiers in '{identifier}', and a column 'id', too; "
            "leave one of them"
        )
    spans = []
    of_spans = frame.schema.get(SPANS)
    if isinstance(of_spans, pl.Struct):
        spans = [_first_value(field) for field in of_spans.fields]
        others = [name for name in others if name != "source"]  # dolma's own
    elif of_spans is not None:
        others.append(SPANS)
    try:
        return frame.select(pl.col(identifier).cast(pl.String).alias("id"), *others, *spans)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{table.where}: identifiers or spans of {path} cannot be read "
            f"({str(error).splitlines()[0]})"
        ) from error


def _first_value(field: pl.Field) -> pl.Expr:
    """Select the value of an attribute's first span, or the attribute itself if it has no spans."""
    values = pl.col(SPANS).struct.field(field.name)
    if not isinstance(field.dtype, pl.List):
        return values.alias(field.name)
    if not isinstance(field.dtype.inner, pl.List):  # no document has a span
        return pl.lit(None).alias(field.name)
    return values.list.first().list.get(2, null_on_oob=True).alias(field.name)


def join_table(
    domain: DomainTokens, table: AttributeTable, rows: pl.DataFrame
) -> tuple[pl.DataFrame, str]:
    """Join attributes to a domain's documents by identifier, or by content hash.

    Of rows with one identifier, the first counts.

    Args:
        domain: The domain.
        table: Its table.
        rows: Identifiers and attributes of the table, from `read_table`.

    Returns:
        The attributes, shape (documents,) each, null where no row matches; and what did not match,
        as a line for the user that is empty if everything did.
    """
    names = [name for name in rows.columns if name != "id"]
    rows = rows.filter(pl.col("id").fill_null("") != "")
    total = len(rows)
    rows = rows.unique("id", keep="first", maintain_order=True)
    texts = rows["id"].to_list()
    identities = np.array([xxhash.xxh3_64_intdigest(text.encode()) for text in texts], np.uint64)
    documents = pl.DataFrame(
        {
            "identity": np.asarray(domain.identity),
            "high": np.asarray(domain.content_high),
            "low": np.asarray(domain.content_low),
        }
    )
    number = pl.int_range(len(rows), dtype=pl.UInt32, eager=True)
    by_identity = pl.DataFrame({"row": number, "identity": identities})
    matched = documents.join(by_identity, on="identity", how="left", maintain_order="left")["row"]
    hashes = [number for number, text in enumerate(texts) if CONTENT_HASH.fullmatch(text)]
    if hashes:
        by_content = pl.DataFrame(
            {
                "high": np.array([int(texts[number][:16], 16) for number in hashes], np.uint64),
                "low": np.array([int(texts[number][16:], 16) for number in hashes], np.uint64),
                "row": pl.Series(hashes, dtype=number.dtype),
            }
        )
        other = documents.join(by_content, on=["high", "low"], how="left", maintain_order="left")
        matched = pl.select(pl.coalesce(matched, other["row"])).to_series()
    if len(rows):
        joined = rows.select(names)[matched]
    else:
        joined = pl.DataFrame({name: pl.Series([None] * len(domain)) for name in names})
    unmatched = total and len(rows) - matched.drop_nulls().n_unique()
    faults = [
        text
        for count, text in (
            (matched.null_count(), f"{counted(matched.null_count(), 'document')} without a row"),
            (unmatched, f"{counted(unmatched, 'row')} without a document"),
            (total - len(rows), f"{counted(total - len(rows), 'row')} with an identifier again, "
             "of which the first counts"),
        )
        if count
    ]  # fmt: skip
    line = f"{table.where}: {table.files[0]}: {'; '.join(faults)}" if faults else ""
    return joined, line
