"""A small world for the hybrid: readers with a taste, items whose words show it, some of them cold."""

from __future__ import annotations

import numpy as np

from llm_tail.data.interactions import Interactions
from llm_tail.embedding.store import Embeddings

N_USERS, N_WARM, N_COLD, DIM, N_TASTES = 60, 36, 6, 12, 3


class Shelf:
    """Items w0.. have readers, c0.. have none; taste n % 3 decides over words and readers alike."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.ids = [f"w{n}" for n in range(N_WARM)] + [f"c{n}" for n in range(N_COLD)]
        self.taste = np.arange(len(self.ids)) % N_TASTES
        vectors = np.eye(DIM)[self.taste] + 0.25 * rng.standard_normal((len(self.ids), DIM))
        self.embeddings = Embeddings(self.ids, vectors)
        popular = 1.0 / (1.0 + np.arange(N_WARM) // N_TASTES)
        chance = np.where(np.arange(N_USERS)[:, None] % N_TASTES == self.taste[:N_WARM], 0.9, 0.1) * popular
        taken = rng.random(chance.shape) < chance
        taken[np.arange(N_WARM), np.arange(N_WARM)] = True  # nothing warm is without a reader
        self.pairs = [(f"u{u}", self.ids[i]) for u, i in zip(*np.nonzero(taken), strict=True)]
        self.train = Interactions.from_pairs(self.pairs, items=self.embeddings.ids)

    def validation(self, seed: int = 1) -> Interactions:
        """Some warm and some cold items to each reader's taste that they do not have."""
        rng = np.random.default_rng(seed)
        have = set(self.pairs)
        pairs = []
        for user in range(N_USERS):
            fitting = np.flatnonzero(self.taste == user % N_TASTES)
            for item in rng.choice(fitting, 4, replace=False):
                if (pair := (f"u{user}", self.ids[item])) not in have:
                    pairs.append(pair)
        return Interactions.from_pairs(pairs, items=self.embeddings.ids)
