"""Reads the local files of a Weights & Biases run.

When a process is killed, the rows that W&B has not written yet are lost, and W&B does not say how many. Its files show
this: a W&B run is resumed after the last step in them. A file has W&B's protocol buffers in LevelDB's log format
(github.com/google/leveldb, doc/log_format.md), after a header of seven bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_triwave.tracking.run_files import WANDB_RUNS

_HEADER_BYTES = 7
_BLOCK_BYTES = 32_768
_CHUNK_HEAD = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _LAST = 1, 4  # kinds of chunks that end a record
_TORN = -1


def records(path: Path) -> Iterator[Any]:
    """Yields the records of one file as W&B's protocol buffers; leaves out an incomplete one at the end."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    record = b""
    for kind, part in _chunks(path):
        record += part
        if kind in (_FULL, _LAST):
            parsed = Record()
            parsed.ParseFromString(record)
            yield parsed
            record = b""


def is_cut(path: Path) -> bool:
    """Whether a file has lost its end.

    W&B writes whole blocks. If a file is still being written, or its process was killed, it may end inside a record,
    but only at the end of a block."""
    kinds = [kind for kind, _ in _chunks(path)]
    return bool(kinds) and kinds[-1] not in (_FULL, _LAST) and path.stat().st_size % _BLOCK_BYTES > 0


def _chunks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields kind and content of the chunks of all records; an incomplete last chunk has the kind `_TORN`."""
    content, position = path.read_bytes(), _HEADER_BYTES
    while position < len(content):
        left = _BLOCK_BYTES - position % _BLOCK_BYTES
        if left < _CHUNK_HEAD.size:  # padding of a block
            position += left
            continue
        if position + _CHUNK_HEAD.size > len(content):
            yield _TORN, b""
            return
        _, length, kind = _CHUNK_HEAD.unpack_from(content, position)
        position += _CHUNK_HEAD.size
        if kind == 0 or position + length > len(content):
            yield _TORN, b""
            return
        yield kind, content[position : position + length]
        position += length


def segments(folder: Path, wandb_id: str) -> list[Path]:
    """Returns the files of a W&B run in a run folder, oldest first: one for each process that worked on the run."""
    return sorted(folder.glob(f"{WANDB_RUNS}-{wandb_id}/run-{wandb_id}.wandb"))


def last_step(folder: Path, wandb_id: str) -> int:
    """Returns the last step in the files of a W&B run; -1 if there is none."""
    found = (record for path in segments(folder, wandb_id) for record in records(path))
    return max((record.history.step.num for record in found if record.HasField("history")), default=-1)
