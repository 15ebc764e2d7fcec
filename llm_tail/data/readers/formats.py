"""Formats: which files a path stands for, how they are written, and what their columns are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm_tail.data.readers.sources import (
    CsvSource,
    DatasetSource,
    JsonlSource,
    ParquetSource,
    Source,
    open_bytes,
    reading,
)
from llm_tail.errors import DataError, MissingExtraError, closest

Role = Literal["items", "interactions"]
Style = Literal["plain", "amazon", "movielens", "recbole"]
FORMATS = ("auto", "csv", "jsonl", "parquet", "recbole", "movielens", "amazon", "hf")

GENRES = [
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
]
_FIXED_NAMES = {
    "movies.dat": ("::", ["item_id", "title", "categories"]),
    "ratings.dat": ("::", ["user_id", "item_id", "rating", "timestamp"]),
    "u.item": ("|", ["item_id", "title", "release_date", "video_date", "url", *GENRES]),
    "u.data": ("\t", ["user_id", "item_id", "rating", "timestamp"]),
}
_MOVIELENS_FILES = {
    "items": ("movies.csv", "movies.dat", "u.item"),
    "interactions": ("ratings.csv", "ratings.dat", "u.data"),
}
_FOLDER_FILES = {"items": ("items", "catalog", "item"), "interactions": ("interactions", "events", "ratings", "train")}
_ENDINGS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet", ".item": "recbole", ".inter": "recbole", ".dat": "movielens",
    ".data": "movielens",
}  # fmt: skip

# Our name, then what other worlds call it; an exact name of ours always wins.
_NAMES: dict[Style, dict[Role, dict[str, tuple[str, ...]]]] = {
    "plain": {"items": {}, "interactions": {"time": ("time",)}},
    "amazon": {
        "items": {"item_id": ("parent_asin", "asin"), "categories": ("category",), "brand": ("store",)},
        "interactions": {
            "user_id": ("reviewerID",),
            "item_id": ("parent_asin", "asin"),
            "rating": ("overall",),
            "timestamp": ("unixReviewTime",),
        },
    },
    "movielens": {
        "items": {"item_id": ("movieId",), "categories": ("genres",)},
        "interactions": {"user_id": ("userId",), "item_id": ("movieId",)},
    },
    "recbole": {
        "items": {
            "title": ("movie_title", "item_name", "name"),
            "categories": ("class", "genre", "genres", "category"),
            "year": ("release_year",),
        },
        "interactions": {},
    },
}
EVENT_NAMES = ("user_id", "item_id", "weight", "rating", "timestamp", "time", "position")


@dataclass(frozen=True)
class Opened:
    """A source, the habits of its format, and our column names to the file's."""

    source: Source
    style: Style
    columns: dict[str, str]


def open_path(path: str | Path, format: str, role: Role, columns: Mapping[str, str] | None) -> Opened:
    """Find what `path` stands for and which of its columns are ours.

    Raises
    ------
    DataError
        If it is not there, its format is unknown, or a column that is needed is not found.
    """
    if format not in FORMATS:
        near = closest(format, FORMATS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(FORMATS)}"
        raise DataError(f"there is no format {format!r}; {hint}")
    source, style = _source(path, format, role)
    found = source.columns
    if not found:
        raise DataError(f"{source.name} is empty; expected at least one row below the names of the columns")
    if style == "plain" and "item_id" not in found:
        style = "amazon" if {"asin", "parent_asin"} & set(found) else "movielens" if "movieId" in found else "plain"
    return Opened(source, style, _mapping(source.name, found, style, role, columns or {}))


def _mapping(name: str, found: list[str], style: Style, role: Role, given: Mapping[str, str]) -> dict[str, str]:
    """Return our names to the file's, those of `given` first."""
    for ours, theirs in given.items():
        if theirs not in found:
            raise _no_column(name, theirs, found, f" (asked for as {ours!r})")
        if role == "interactions" and ours not in EVENT_NAMES:
            raise DataError(f"interactions have no column {ours!r}; known: {', '.join(EVENT_NAMES)}")
    mapping = {c.split(":")[0] if style == "recbole" else c: c for c in found if c not in given.values()}
    for ours, others in _NAMES[style][role].items():
        match = next((mapping[c] for c in (ours, *others) if mapping.get(c)), None)
        if match is not None:
            mapping = {o: t for o, t in mapping.items() if t != match} | {ours: match}
    mapping |= given
    needed = ("item_id",) if role == "items" else ("user_id", "item_id")
    for ours in needed:
        if ours not in mapping:
            raise _no_column(name, ours, found)
        if found.count(mapping[ours]) > 1:
            raise DataError(f"{name} has {found.count(mapping[ours])} columns {mapping[ours]!r}, expected one")
    if role == "interactions":
        weight = next((c for c in ("weight", "rating") if c in mapping and c in given), None)
        time = next((c for c in ("timestamp", "time") if c in mapping and c in given), None)
        sources = {
            "user_id": mapping["user_id"],
            "item_id": mapping["item_id"],
            "weight": mapping.get(weight or "weight", mapping.get("rating")),
            "timestamp": mapping.get(time or "timestamp", mapping.get("time")),
            "position": mapping.get("position"),
        }
        return {ours: theirs for ours, theirs in sources.items() if theirs is not None}
    return mapping


def _no_column(name: str, wanted: str, found: list[str], why: str = "") -> DataError:
    near = closest(wanted, found, 1)
    hint = f"the nearest is {near[0]!r}; " if near else ""
    return DataError(
        f"{name} has no column {wanted!r}{why}; found: {', '.join(found)}; {hint}name the right one with "
        f"columns={{{wanted if not why else why.split(chr(39))[1]!r}: ...}} (in a config: [data] item_columns or "
        "interaction_columns)"
    )


def _source(path: str | Path, format: str, role: Role) -> tuple[Source, Style]:
    if str(path).startswith("hf:") or format == "hf":
        return _dataset(str(path).removeprefix("hf:")), "plain"
    path = Path(path)
    if not path.exists():
        near = closest(path.name, [p.name for p in path.parent.iterdir()], 1) if path.parent.is_dir() else []
        hint = f"did you mean {near[0]!r} in the same folder?" if near else "check the path"
        raise DataError(f"there is no file or folder {path}; {hint}")
    if path.is_dir():
        return _folder(path, format, role)
    return _file(path, format)


def _file(path: Path, format: str) -> tuple[Source, Style]:
    plain = path.name.removesuffix(".gz")
    kind = _ENDINGS.get(Path(plain).suffix, "movielens" if plain == "u.item" else "")
    if plain in _FIXED_NAMES and format in ("auto", "movielens"):
        separator, names = _FIXED_NAMES[plain]
        encoding = "utf8" if _is_utf8(path) else "latin1"
        return CsvSource(path, separator=separator, names=names, quoted=False, encoding=encoding), "movielens"
    style: Style = format if format in ("amazon", "movielens", "recbole") else "plain"  # type: ignore[assignment]
    if format in ("csv", "jsonl", "parquet", "recbole"):
        kind = format
    if kind == "recbole":
        return CsvSource(path, separator="\t", quoted=False), "recbole"
    if kind == "parquet":
        return ParquetSource([path]), style
    if kind == "jsonl":
        return JsonlSource(path, scalars=("user_id", "item_id", "reviewerID", "asin", "parent_asin")), style
    if kind == "csv":
        return CsvSource(path, separator=_separator(path)), style
    raise DataError(
        f"cannot tell the format of {path} from its name; give format= one of {', '.join(FORMATS[1:])} "
        "(in a config: [data] format)"
    )


def _folder(path: Path, format: str, role: Role) -> tuple[Source, Style]:
    names = {p.name.removesuffix(".gz"): p for p in sorted(path.iterdir()) if p.is_file()}
    if format in ("auto", "movielens"):
        for name in _MOVIELENS_FILES[role]:
            if name in names and (format == "movielens" or any(x in names for x in _MOVIELENS_FILES["items"])):
                return _file(names[name], "movielens")
    if format in ("auto", "recbole"):
        ending = ".item" if role == "items" else ".inter"
        atomic = [p for name, p in names.items() if name.endswith(ending)]
        exact = [p for p in atomic if p.name.removesuffix(".gz") == path.name + ending]
        if len(exact or atomic) == 1:
            return _file((exact or atomic)[0], "recbole")
    known = {name: p for name, p in names.items() if Path(name).suffix in _ENDINGS}
    for stem in _FOLDER_FILES[role]:
        for name, file in known.items():
            if name.split(".")[0] == stem:
                return _file(file, format)
    shards = [p for name, p in names.items() if name.endswith((".parquet", ".pq"))]
    if shards and format in ("auto", "parquet"):
        return ParquetSource(shards), "plain"
    listed = ", ".join(list(names)[:10]) or "nothing"
    raise DataError(f"no {role} found in the folder {path}, which holds {listed}; name the file itself")


def _dataset(name: str) -> DatasetSource:
    """Load ``NAME[:config][:split]``: a name on the hub, a local folder or a local file."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "all") from None

    name, *rest = re.split(r":(?![\\/])", name)  # no cut inside of C:\\...
    if len(rest) > 2:
        raise DataError(f"hf:{name} is followed by {len(rest)} parts, expected hf:NAME[:config][:split]")
    split = rest.pop() if len(rest) == 2 or (rest and rest[0] in ("train", "validation", "test")) else None
    config = rest[0] if rest else None
    local = Path(name)
    try:
        if (local / "state.json").is_file() or (local / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(name)
        elif local.is_file():
            kind = _ENDINGS.get(Path(local.name.removesuffix(".gz")).suffix, "csv").replace("jsonl", "json")
            loaded = datasets.load_dataset(kind, data_files=str(local))
        else:
            loaded = datasets.load_dataset(name, config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"the data set hf:{name} cannot be loaded: {error}") from error
    if isinstance(loaded, dict):
        wanted = split or ("train" if "train" in loaded else next(iter(loaded)))
        if wanted not in loaded:
            raise DataError(f"hf:{name} has no split {wanted!r}; it has: {', '.join(loaded)}")
        loaded = loaded[wanted]
    return DatasetSource(f"hf:{name}", loaded)


def _separator(path: Path) -> str:
    """Return the separator that stands most often in the first line; comma where none does."""
    if path.name.removesuffix(".gz").endswith(".tsv"):
        return "\t"
    with reading(str(path)), open_bytes(path) as stream:
        line = stream.readline(1 << 16).decode("utf8", "replace")
    return max(",\t;|", key=lambda c: (line.count(c), c == ","))


def _is_utf8(path: Path) -> bool:
    with reading(str(path)), open_bytes(path) as stream:
        while data := stream.read(1 << 20):
            data += stream.readline()
            try:
                data.decode("utf8")
            except UnicodeDecodeError:
                return False
    return True
