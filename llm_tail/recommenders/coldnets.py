"""The nets of the peers for cold items: text encoders beside ID vectors, and preferences that are dropped."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from llm_tail.recommenders.drawing import PeopleBatch
from llm_tail.recommenders.nets import HistoryNet, ItemTable

Floats = NDArray[np.float32]
MOST_CONTRASTED = 1024  # items of a batch that are told from each other


class EncodedTable(ItemTable):
    """One vector for each item: learned for its ID where it has events, else what an encoder makes of its text.

    Parameters
    ----------
    vectors : array of float32, shape (n_items, dim)
        Text vectors.
    cold : array of bool, shape (n_items,)
        Items without training events.
    factors, hidden : int
        Width of the result and of the encoder's one hidden layer.
    """

    def __init__(self, vectors: Floats, cold: NDArray[np.bool_], factors: int, hidden: int) -> None:
        super().__init__(len(vectors), factors)
        self._text, self._cold = torch.from_numpy(np.ascontiguousarray(vectors)), torch.from_numpy(cold)
        self.encoder = nn.Sequential(
            nn.Linear(vectors.shape[1], hidden), nn.LeakyReLU(), nn.Linear(hidden, factors)
        )  # (n, dim) -> (n, factors)

    def forward(self, rows: Tensor, without_own: Tensor | None = None) -> Tensor:
        """Return the vectors of some items, shape (n, factors): encoded ones for cold items and for `without_own`."""
        encoded = self._cold[rows] if without_own is None else self._cold[rows] | without_own
        found: Tensor = super().forward(rows)
        if not encoded.any():
            return found
        return found.masked_scatter(encoded[:, None], self.encode(rows[encoded]))

    def encode(self, rows: Tensor) -> Tensor:
        """Return what the texts of some items become, shape (n, factors)."""
        made: Tensor = self.encoder(self._text[rows])
        return made

    def contrast(self, rows: Tensor, temperature: float) -> Tensor:
        """Return how badly the items' own vectors find their encoded texts among those of all `rows`, and back."""
        own = functional.normalize(super().forward(rows), dim=1)
        encoded = functional.normalize(self.encode(rows), dim=1)
        logits = own @ encoded.T / temperature  # (n, n)
        right = torch.arange(len(rows))
        return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


class ContrastiveNet(HistoryNet):
    """A `HistoryNet` whose two tables are also contrasted with the encoded texts of their items.

    Parameters
    ----------
    taken, shown : EncodedTable
        x and y.
    contrast : float
        Weight of that, in [0, 1]; 1 minus it is that of what people took.
    temperature : float
        Of the contrast.
    settings
        Those of `HistoryNet`; its `own_dropout` is the share of items that are replaced by their encoded texts.
    """

    def __init__(
        self, taken: EncodedTable, shown: EncodedTable, *, contrast: float, temperature: float, **settings: float
    ) -> None:
        super().__init__(taken, shown, **settings)
        self._tables = (taken, shown)
        self.contrast, self.temperature = contrast, temperature

    def forward(self, batch: PeopleBatch) -> Tensor:
        """Return the loss of a batch."""
        loss = super().forward(batch)
        rows = torch.from_numpy(np.unique(batch.items))
        if len(rows) > MOST_CONTRASTED:
            rows = rows[torch.randperm(len(rows))[:MOST_CONTRASTED]]
        both = sum((table.contrast(rows, self.temperature) for table in self._tables), torch.zeros(()))
        return (1.0 - self.contrast) * loss + self.contrast * both / 2


class PreferenceNet(nn.Module):
    """Two towers that rebuild the products of preference vectors; the item tower sees the text, and not always more.

    Parameters
    ----------
    factors, dim, hidden, width : int
        Widths of the preference vectors, the text vectors, the hidden layers, and what comes out.
    """

    def __init__(self, factors: int, dim: int, hidden: int, width: int) -> None:
        super().__init__()
        self.person = nn.Sequential(nn.Linear(factors, hidden), nn.Tanh(), nn.Linear(hidden, width))
        self.item = nn.Sequential(nn.Linear(factors + dim, hidden), nn.Tanh(), nn.Linear(hidden, width))

    def forward(self, people: Tensor, items: Tensor, texts: Tensor) -> Tensor:
        """Return the products, shape (n_people, n_items)."""
        made: Tensor = self.person(people) @ self.item(torch.cat([items, texts], dim=1)).T
        return made

    @torch.no_grad()
    def arrays(self, items: Floats, texts: Floats, block: int = 65_536) -> dict[str, Floats]:
        """Return the vectors of all items, and the weights of the person tower."""
        made = [
            self.item(torch.from_numpy(np.hstack([items[n : n + block], texts[n : n + block]]))).numpy()
            for n in range(0, len(items), block)
        ]
        tower = {name: tensor.numpy().copy() for name, tensor in self.person.state_dict().items()}
        return {"item_vectors": np.vstack(made), **{f"person.{name}": array for name, array in tower.items()}}
