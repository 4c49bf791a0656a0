"""Run a peer in its own environment: documents to token files, as their manuals show.

    python peer_main.py PIPELINE INPUT OUTPUT TOKENIZER EOS WORKERS

INPUT is a directory of JSON Lines files, TOKENIZER a directory made by `inputs.py`. Options are
the least work that gives the result: no shuffling where it can be left out. Nothing of curate is
imported, and each peer only where it is used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

UINT16_VOCABULARY = 1 << 16
HF_BATCH_DOCUMENTS = 500
LITDATA_CHUNK_TOKENS = 8 << 20


@dataclass(frozen=True)
class Task:
    """Task of a pipeline."""

    input: Path
    output: Path
    tokenizer: Path
    """Directory."""
    eos: str
    workers: int

    def files(self) -> list[str]:
        """The input's files, in order."""
        return sorted(str(path) for path in self.input.rglob("*.jsonl*"))


def datatrove(task: Task) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger

    tokenise = DocumentTokenizer(
        str(task.output / "tokens"),
        tokenizer_name_or_path=str(task.tokenizer / "tokenizer.json"),
        eos_token=task.eos,
        shuffle_documents=False,
    )
    reader = JsonlReader(str(task.input), recursive=True, glob_pattern="**/*.jsonl*")
    LocalPipelineExecutor(
        [reader, tokenise],
        tasks=task.workers,
        workers=task.workers,
        logging_dir=str(task.output / "logs-tokens"),
    ).run()
    merge = DocumentTokenizerMerger(
        str(task.output / "tokens"),
        str(task.output / "merged"),
        save_filename="merged",
        shuffle=False,
        progress=False,
    )
    LocalPipelineExecutor([merge], tasks=1, logging_dir=str(task.output / "logs-merge")).run()


def hf_datasets(task: Task) -> None:
    import datasets

    loaded = datasets.load_dataset(
        "json", data_files=task.files(), split="train", cache_dir=str(task.output / "cache")
    )
    path = str(task.tokenizer / "tokenizer.json")
    tokenised = loaded.map(
        partial(_hf_batch, path, task.eos),
        batched=True,
        batch_size=HF_BATCH_DOCUMENTS,
        num_proc=task.workers,
        remove_columns=loaded.column_names,
    )
    tokenised.save_to_disk(str(task.output / "saved"))


_tokenizer: Any = None


def _load_once(path: str) -> Any:
    """One tokenizer a process."""
    global _tokenizer
    if _tokenizer is None:
        from tokenizers import Tokenizer

        _tokenizer = Tokenizer.from_file(path)
    return _tokenizer


def _hf_batch(path: str, eos: str, batch: dict[str, list[str]]) -> dict[str, list[Any]]:
    import numpy as np

    tokenizer = _load_once(path)
    end = tokenizer.token_to_id(eos)
    dtype = np.uint16 if tokenizer.get_vocab_size() <= UINT16_VOCABULARY else np.uint32
    encodings = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
    return {"input_ids": [np.array([*encoding.ids, end], dtype) for encoding in encodings]}


def litdata(task: Task) -> None:
    from litdata import TokensLoader, optimize

    optimize(
        fn=partial(_litdata_file, str(task.tokenizer / "tokenizer.json"), task.eos),
        inputs=task.files(),
        output_dir=str(task.output / "optimized"),
        chunk_size=LITDATA_CHUNK_TOKENS,
        item_loader=TokensLoader(),
        num_workers=task.workers,
    )


def _litdata_file(tokenizer_path: str, eos: str, file: str) -> Iterator[Any]:
    import torch

    tokenizer = _load_once(tokenizer_path)
    end = tokenizer.token_to_id(eos)
    dtype = torch.uint16 if tokenizer.get_vocab_size() <= UINT16_VOCABULARY else torch.int32
    for text in _texts(file):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        yield torch.tensor([*ids, end], dtype=dtype)


def mds(task: Task) -> None:
    import numpy as np
    from streaming import MDSWriter

    tokenizer = _load_once(str(task.tokenizer / "tokenizer.json"))
    end = tokenizer.token_to_id(task.eos)
    dtype = np.uint16 if tokenizer.get_vocab_size() <= UINT16_VOCABULARY else np.uint32
    columns = {"tokens": f"ndarray:{np.dtype(dtype).name}"}
    with MDSWriter(out=str(task.output / "mds"), columns=columns) as writer:
        for file in task.files():
            for text in _texts(file):
                ids = tokenizer.encode(text, add_special_tokens=False).ids
                writer.write({"tokens": np.array([*ids, end], dtype)})


def _texts(file: str) -> Iterator[str]:
    import io

    import zstandard

    with open(file, "rb") as raw:
        stream: Any = raw
        if file.endswith(".zst"):
            stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw), 1 << 20)
        for line in stream:
            yield json.loads(line)["text"]


PIPELINES = {
    "datatrove": datatrove,
    "hf-datasets": hf_datasets,
    "litdata": litdata,
    "mds": mds,
}


def main() -> None:
    name, source, output, tokenizer, eos, workers = sys.argv[1:]
    task = Task(Path(source), Path(output), Path(tokenizer), eos, int(workers))
    PIPELINES[name](task)


if __name__ == "__main__":
    main()
