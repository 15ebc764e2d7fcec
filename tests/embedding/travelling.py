"""Simple encoders that can travel to other processes, and one that kills those."""

import json
import os
import signal
from pathlib import Path

import numpy as np

from llm_tail.errors import DataError


class TravellingLetters:
    """How often each letter stands in a text; encodes "[die]" by killing its process until `left` lives are used up."""

    dim = 26

    def __init__(self, folder="", lives=0):
        self.folder, self.lives, self.fingerprint = str(folder), lives, "travelling-letters"

    def save(self, folder):
        folder.mkdir()
        (folder / "letters.json").write_text(json.dumps([self.folder, self.lives]))

    @classmethod
    def load(cls, folder):
        return cls(*json.loads((folder / "letters.json").read_text()))

    def encode(self, texts, *, kind="document", batch_tokens=2048):
        if "[fail]" in texts:
            raise DataError("this text cannot be encoded")
        if "[odd]" in texts:
            raise ZeroDivisionError("nobody thought of it")
        if "[die]" in texts:
            grave = Path(self.folder) / f"{len(list(Path(self.folder).iterdir()))}"
            if int(grave.name) < self.lives:
                grave.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
        counts = np.array([[text.count(chr(97 + i)) for i in range(26)] for text in texts], np.float32).reshape(-1, 26)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


class ChangedOnTheWay(TravellingLetters):
    """One that comes out as another."""

    @classmethod
    def load(cls, folder):
        found = super().load(folder)
        found.fingerprint = "another"
        return found
