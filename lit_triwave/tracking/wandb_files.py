"""What the local files of a Weights & Biases run hold.

A killed process takes along what it had handed to W&B and W&B had not written yet, and W&B says to no one how much that
was. Its files do: a W&B run is resumed after the last step that is really there. They are logs in LevelDB's format
(github.com/google/leveldb, doc/log_format.md, after a header of seven bytes) of W&B's protocol buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER_BYTES = 7
BLOCK_BYTES = 32_768
CHUNK_HEAD = struct.Struct("<IHB")  # checksum, length, kind
FULL, LAST = 1, 4  # kinds of chunks that end a record
TORN = -1


def records(path: Path) -> Iterator[Any]:
    """The records of one segment, as W&B's protocol buffers; a torn one at the end is left out."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    record = b""
    for kind, part in _chunks(path):
        record += part
        if kind in (FULL, LAST):
            parsed = Record()
            parsed.ParseFromString(record)
            yield parsed
            record = b""


def is_cut(path: Path) -> bool:
    """Whether a segment has lost its end. W&B writes whole blocks: while it does, or where it was killed, the file ends
    inside a record, too, but with a block."""
    kinds = [kind for kind, _ in _chunks(path)]
    return bool(kinds) and kinds[-1] not in (FULL, LAST) and path.stat().st_size % BLOCK_BYTES > 0


def _chunks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Kind and content of the chunks that records consist of; the last one is `TORN` where it is not whole."""
    content, position = path.read_bytes(), HEADER_BYTES
    while position < len(content):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < CHUNK_HEAD.size:  # padding at the end of a block
            position += left
            continue
        if position + CHUNK_HEAD.size > len(content):
            yield TORN, b""
            return
        _, length, kind = CHUNK_HEAD.unpack_from(content, position)
        position += CHUNK_HEAD.size
        if kind == 0 or position + length > len(content):
            yield TORN, b""
            return
        yield kind, content[position : position + length]
        position += length


def segments(folder: Path, wandb_id: str) -> list[Path]:
    """The files of a W&B run in a run folder, oldest first: one for each process that has worked on it."""
    return sorted(folder.glob(f"wandb/*run-*-{wandb_id}/run-{wandb_id}.wandb"))


def last_step(folder: Path, wandb_id: str) -> int:
    """The last step that the segments hold; -1 for none."""
    steps = [
        record.history.step.num
        for path in segments(folder, wandb_id)
        for record in records(path)
        if record.HasField("history")
    ]
    return max(steps, default=-1)
