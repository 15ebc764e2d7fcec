"""The other end of `llm_tail.embedding.processes`: reads shards of texts from stdin, writes their vectors to stdout.

A message is its kind (one byte), its length (eight bytes, little-endian) and its content: texts as a JSON list,
results as safetensors, errors as a JSON object. Started with the folder of an encoder, a device and the padded tokens
of a batch.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import sys
import threading
import traceback
from pathlib import Path
from typing import IO

from safetensors.numpy import load, save

from llm_tail import errors
from llm_tail.embedding.engine import Encoded, encode_shard
from llm_tail.embedding.parcel import unpack
from llm_tail.errors import LlmTailError, WorkerError

TEXTS, RESULT, ERROR = b"t", b"r", b"e"
_HEAD = struct.Struct("<cQ")


def send(stream: IO[bytes], kind: bytes, content: bytes) -> None:
    """Write one message."""
    stream.write(_HEAD.pack(kind, len(content)))
    stream.write(content)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[bytes, bytes] | None:
    """Read one message; None where the other side has gone, be it in the midst of one."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    kind, length = _HEAD.unpack(head)
    content = stream.read(length)
    return (kind, content) if len(content) == length else None


def texts_to_bytes(texts: list[str]) -> bytes:
    """Return texts as ASCII; halves of characters survive it."""
    return json.dumps(texts).encode("ascii")


def result_to_bytes(result: Encoded) -> bytes:
    """Return a result as safetensors."""
    return bytes(save({"vectors": result.vectors, "tokens": result.tokens}))


def result_from_bytes(content: bytes) -> Encoded:
    """Read what `result_to_bytes` returned."""
    tensors = load(content)
    return Encoded(tensors["vectors"], tensors["tokens"])


def error_to_bytes(error: Exception) -> bytes:
    """Return the class and the words of an error, and where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return json.dumps({"name": type(error).__name__, "message": str(error), "where": where}).encode()


def error_from_bytes(content: bytes) -> LlmTailError:
    """Return an error as it was raised in a worker, where it is one of ours that words alone can make."""
    said = json.loads(content)
    known = getattr(errors, said["name"], None)
    if isinstance(known, type) and issubclass(known, LlmTailError) and "__init__" not in vars(known):
        return known(said["message"])
    return WorkerError(f"a worker failed with {said['name']}: {said['message']} ({said['where']})")


def main() -> None:
    """Serve until stdin ends, or an error does; the error travels to the other side."""
    folder, device, batch_tokens = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints shall not be taken for an answer
    shards: queue.Queue[bytes | None] = queue.Queue()  # the other side sends two at most

    def listen() -> None:
        while (message := receive(sys.stdin.buffer)) is not None:
            shards.put(message[1])
        shards.put(None)

    threading.Thread(target=listen, daemon=True).start()
    try:
        encoder = unpack(folder, device)
        while (content := shards.get()) is not None:
            send(answers, RESULT, result_to_bytes(encode_shard(encoder, json.loads(content), batch_tokens)))
    except BrokenPipeError:
        os._exit(1)  # nobody is there to hear of it
    except Exception as error:  # whatever it is, the other side has to hear of it
        send(answers, ERROR, error_to_bytes(error))
    os._exit(0)  # the thread may be reading still, and the interpreter would wait for it in vain


if __name__ == "__main__":
    main()
