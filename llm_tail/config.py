"""Settings: one frozen class a stage, all of them in `RunConfig`; TOML in, TOML out.

A setting's one sentence lives beside it and feeds ``--help``, the README and the error messages. Paths in a file are
relative to that file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_tail.errors import ConfigError, closest

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


class Settings(BaseModel):
    """The common base: frozen, no unknown keys, errors of our own family."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(error, type(self))) from None

    # Tables inside a table are then checked together with it, so that the path of a wrong key is known whole.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def replace(self, **values: Any) -> Self:
        """Return a copy with these settings changed, checked like new ones."""
        return type(self)(**{**self.model_dump(), **values})


class DataConfig(Settings):
    """``[data]``: where items and interactions are and how to read them."""

    catalog: str = Field("", description="File, folder or Hugging Face data set (hf:NAME) that holds the items.")
    interactions: str = Field("", description="File, folder or data set that holds who took what.")
    validation: str = Field("", description="Interactions to tune on, never to fit on; a split of training if empty.")
    test: str = Field("", description="Interactions to report on; made by [split] if empty.")
    format: Literal["auto", "csv", "jsonl", "parquet", "recbole", "movielens", "amazon"] = Field(
        "auto", description="How the files are written; auto goes by the names."
    )
    item_columns: dict[str, str] = Field({}, description="Our item column names to the file's, where they differ.")
    interaction_columns: dict[str, str] = Field({}, description="Our interaction column names to the file's.")
    positive: float | None = Field(None, description="Ratings below this are no positive sign and are left out.")
    min_user_events: int = Field(1, ge=1, description="People with fewer distinct items than this are left out.")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="Largest share of unreadable rows to go on with.")


class SplitConfig(Settings):
    """``[split]``: how interactions are cut into training, validation and test where no files are named."""

    method: Literal["cold-items", "leave-last-out", "time", "random", "none"] = Field(
        "cold-items", description="The cut; none puts everything into training."
    )
    cold_share: float = Field(0.2, ge=0, lt=1, description="Share of the items that is held out whole (cold-items).")
    held_share: float = Field(0.1, gt=0, lt=0.5, description="Share of events for validation and again for test.")


class TextConfig(Settings):
    """``[text]``: how an item becomes one text."""

    fields: list[str] = Field(["title", "description"], min_length=1, description="Columns that make up the text.")
    separator: str = Field(". ", description="What stands between two fields.")
    max_chars: int = Field(20_000, ge=100, le=1_000_000, description="Longer texts are cut here before tokenizing.")


class EncoderConfig(Settings):
    """``[encoder]``: the model that turns texts into vectors."""

    name: str = Field(DEFAULT_ENCODER, description="A sentence-transformers or transformers model: name or folder.")
    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        "auto", description="How token states become one vector; auto takes what the model says, else guesses."
    )
    max_tokens: int = Field(128, ge=8, le=32_768, description="Longer texts are cut at this many tokens.")
    dim: int | None = Field(None, ge=8, description="Vectors are cut to this width; the model's own if not given.")
    query_prompt: str | None = Field(None, description="Put before a query text; the model's own if not given.")
    document_prompt: str | None = Field(None, description="Put before an item text; the model's own if not given.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps ...")
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        "auto", description="Number format of the forward pass; auto takes bf16 only where the processor has it."
    )
    runtime: Literal["torch", "openvino", "static", "tfidf", "auto"] = Field(
        "torch", description="What makes the item vectors; auto takes the faster of torch and openvino, by measuring."
    )
    min_cosine: float = Field(
        0.999, gt=0, le=1, description="What auto takes has to be this near to torch in fp32: mean over measured texts."
    )
    min_cosine_int8: float = Field(0.99, gt=0, le=1, description="The same for int8.")
    measured_texts: int = Field(256, ge=16, le=100_000, description="Texts of the catalogue that auto measures on.")
    trust_remote_code: bool = Field(False, description="Let the model's own Python code run.")


class PretrainConfig(Settings):
    """``[pretrain]``: training of the encoder on the catalogue's own text, before any fine-tuning."""

    enabled: bool = Field(False, description="Adapt the encoder to the text before fine-tuning and embedding.")
    method: Literal["lm", "tsdae"] = Field(
        "lm", description="Guess hidden (decoders: next) words, or write a text again from the vector of its remains."
    )
    epochs: int = Field(1, ge=1, le=1000, description="How often each text is seen.")
    max_steps: int = Field(0, ge=0, description="Most steps; 0 sets no limit.")
    minutes: float = Field(0.0, ge=0, description="Training ends after this time, wherever it stands; 0 is no limit.")
    batch_size: int = Field(32, ge=1, le=65_536, description="Texts in a batch.")
    learning_rate: float = Field(3e-5, gt=0, le=1, description="Highest learning rate of the encoder, after warm-up.")
    head_learning_rate: float = Field(1e-3, gt=0, le=1, description="The same for the head or decoder, which is new.")
    warmup_share: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the rate climbs.")
    masked_share: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that lm hides; decoders guess all.")
    deleted_share: float = Field(0.6, gt=0, lt=1, description="Share of the tokens that tsdae deletes.")
    max_tokens: int = Field(128, ge=8, le=32_768, description="Training texts are cut at this many tokens.")
    checkpoint_steps: int = Field(200, ge=1, description="Steps between two checkpoints; what a kill can lose.")


class LoraConfig(Settings):
    """``[lora]``: fine-tuning of the encoder on what people took together."""

    enabled: bool = Field(False, description="Fine-tune before embedding.")
    kind: Literal["lora", "rslora", "dora", "prefix", "ia3", "top-layers", "full"] = Field(
        "lora", description="What is tuned: small matrices (lora, rslora, dora), factors, a prefix, blocks, everything."
    )
    rank: int = Field(16, ge=1, le=512, description="Rank of the update of each adapted matrix; length of a prefix.")
    alpha: float = Field(32.0, gt=0, description="Scale of the update is alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the input of the update; slower, more memory.")
    target_modules: list[str] = Field([], description="Layers to adapt; empty takes all linear layers of the blocks.")
    top_layers: int = Field(2, ge=1, le=1000, description="How many of the last blocks kind = 'top-layers' tunes.")
    quantize: bool = Field(
        False, description="Train a lora kind on a base in 4 bits (QLoRA); needs CUDA and bitsandbytes."
    )
    pairs: list[Literal["co-interaction", "history", "attribute", "text"]] = Field(
        ["co-interaction"], min_length=1, description="What is learned from; several kinds make several tasks."
    )
    n_pairs: int = Field(19_200, ge=1, description="How many text pairs of each kind to train on at most.")
    balance: float = Field(0.0, ge=0, le=1, description="Whose turn it is: 0 as often as taken, 1 all items alike.")
    session_days: float | None = Field(
        None, ge=0, description="Longest pause within which items make a pair; 0 is one basket, not given all time."
    )
    history_length: int = Field(3, ge=1, le=100, description="Items in the query text of a history pair.")
    attributes: list[str] = Field([], description="Columns whose shared values make pairs; [graph] relations if empty.")
    epochs: int = Field(1, ge=1, le=1000, description="How often each pair is seen.")
    batch_size: int = Field(128, ge=2, le=65_536, description="Pairs in a batch; each is a negative of the others.")
    hold_tokens: int = Field(
        32_768, ge=0, description="Larger batches are held as vectors and gone through twice: less memory, more time."
    )
    loss: Literal["contrastive", "multiple-negatives", "squared-error"] = Field(
        "contrastive", description="In-batch softmax, the plain one of sentence-transformers, or regression."
    )
    centre: bool = Field(
        True, description="Take the catalogue's mean off the vectors before comparing, as ranking does."
    )
    temperature: float = Field(0.1, gt=0, le=10, description="Divides the cosines in the contrastive loss.")
    popularity_correction: float = Field(0.0, ge=0, le=1, description="Weight of log-popularity off the logits (logQ).")
    soft_labels: float = Field(
        1.0, ge=0, le=1, description="Share of the target given by how often others of the batch were taken together."
    )
    teacher: Literal["together", "ease"] = Field(
        "together", description="Whom co-interaction pairs go by: who took both, or EASE's weights (to 30,000 items)."
    )
    keep: float = Field(
        0.3, ge=0, le=100, description="Weight of staying true to the base: texts of a batch keep who is near whom."
    )
    others: int = Field(
        64, ge=0, le=65_536, description="Texts of any items in a batch, touched or not, that only have to stay true."
    )
    others_apart: bool = Field(
        True, description="Those of them that anyone took are negatives of each pair, unless they were taken together."
    )
    false_negatives: Literal["none", "together", "similar"] = Field(
        "none", description="Left out of the negatives: nothing, what anyone took together, what the base finds nearer."
    )
    hard_negatives: int = Field(0, ge=0, le=64, description="Near texts that nobody took together, for each pair.")
    negative_ranks: tuple[int, int] = Field((10, 50), description="Ranks among the neighbours that they come from.")
    negative_margin: float = Field(0.95, gt=0, le=2, description="Their cosine stays below this share of the pair's.")
    matryoshka: list[Annotated[int, Field(ge=8)]] = Field([], description="Widths to which vectors may be cut later.")
    noise: float = Field(0.0, ge=0, le=1, description="Length of the adversarial step on the vectors; 0 is none.")
    word_dropout: float = Field(0.0, ge=0, lt=1, description="Share of the tokens left out at random in training.")
    field_dropout: float = Field(0.0, ge=0, le=1, description="Share of the training texts that lose some fields.")
    learning_rate: float = Field(5e-4, gt=0, le=1, description="Highest learning rate, after warm-up.")
    warmup_share: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the rate climbs.")
    max_tokens: int = Field(48, ge=8, le=32_768, description="Training texts are cut at this many tokens.")
    validations: int = Field(4, ge=1, le=1000, description="How often ranking by the texts alone is measured.")
    watch: Literal["ndcg", "recall"] = Field(
        "ndcg", description="What is measured and stops training early: at 20, mean of warm, tail, cold and overall."
    )
    patience: int = Field(2, ge=1, le=1000, description="Validations without a gain after which training stops.")
    checkpoints: int = Field(4, ge=0, le=1000, description="How often the state is saved; what a kill can lose.")
    log_to: list[Literal["jsonl", "tensorboard", "wandb"]] = Field(["jsonl"], description="Who is told of each step.")
    strengths: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [0.5, 1.0], min_length=1, description="Shares of the update that are tried on validation beside the base."
    )
    max_forgetting: float = Field(
        0.2, ge=0, le=1, description="Share of the probe's MRR (titles find their own descriptions) that may be lost."
    )


class EmbeddingConfig(Settings):
    """``[embedding]``: how a catalogue goes through the encoder."""

    batch_tokens: int = Field(2048, ge=8, le=1_000_000, description="Padded tokens in one batch.")
    shard_items: int = Field(8192, ge=1, description="Items in one file of the store; what a crash can lose.")
    storage: Literal["float32", "float16", "int8"] = Field(
        "float32", description="Number format of the vectors on disk; the rest always sees float32 of length 1."
    )
    engine: Literal["local", "processes", "ray"] = Field(
        "local", description="Who encodes: this process, several of this machine (one for each GPU), or Ray's workers."
    )
    address: str = Field("", description="A Ray cluster's address, such as 10.0.0.1:6379; a local one if empty.")
    workers: int = Field(
        0, ge=0, le=10_000, description="Workers of processes and ray; 0 is as many as there is room for."
    )
    gpus_per_worker: float | None = Field(
        None, ge=0, le=64, description="GPUs of each, may be a part of one; if not given, 1 where there are any."
    )
    threads_per_worker: int = Field(
        1, ge=1, le=1024, description="Processor threads of each; they, and not the workers, move the last digits."
    )
    retries: int = Field(3, ge=0, le=1000, description="How often a shard is tried again after its worker died.")


class IndexConfig(Settings):
    """``[index]``: the approximate neighbour index (HNSW)."""

    links: int = Field(16, ge=2, le=256, description="Links an item keeps on each level (M).")
    ef_construction: int = Field(200, ge=8, le=10_000, description="Candidates looked at while linking.")
    ef: int = Field(64, ge=1, le=100_000, description="Candidates looked at in a query; more is slower and better.")
    exact_below: int = Field(2000, ge=0, description="Smaller catalogues are searched exactly.")


class GraphConfig(Settings):
    """``[graph]``: the item knowledge graph."""

    relations: list[str] = Field([], description="Columns whose shared values tie items together.")
    neighbors: int = Field(15, ge=1, le=1000, description="Semantic neighbours an item is tied to.")
    min_similarity: float = Field(0.3, ge=-1, le=1, description="Semantic ties weaker than this are left out.")
    hub_cap: int = Field(200, ge=2, description="A value shared by more items than this says nothing and ties none.")
    co_interaction: bool = Field(True, description="Tie items that the same people took (training only).")
    co_neighbors: int = Field(15, ge=1, le=1000, description="Ties of that kind an item keeps.")


class HybridConfig(Settings):
    """``[hybrid]``: the recommender that lends signal to cold and tail items."""

    ridge: float = Field(50.0, gt=0, description="L2 penalty of the collaborative part.")
    pull: float = Field(100.0, ge=0, description="How strongly it is pulled towards the texts; 0 is plain EASE.")
    text_ridge: float = Field(10.0, gt=0, description="L2 penalty of the text matrix it is pulled towards.")
    damping: float = Field(
        0.2, ge=-1, le=2, description="An owned item speaks with popularity^-damping; 0 lets all speak alike."
    )
    recency: float = Field(
        1.0,
        gt=0,
        le=1,
        description="What a person took n events ago speaks with recency^n; 1 where no order is known.",
    )
    neighbors: int = Field(20, ge=1, le=1000, description="Semantic neighbours that an item attends over.")
    temperature: float = Field(0.05, gt=0, le=10, description="Sharpness of the attention; small looks at few.")
    gate: float = Field(0.3, ge=0, le=1000, description="People after whom an item trusts itself as much as others.")
    borrow: float = Field(1.0, ge=0, le=10, description="Scale of what is borrowed from the neighbours.")
    kernel_power: float = Field(3.0, gt=0, le=20, description="Exponent of the text kernel max(0, cosine)^p.")
    text_weight: float = Field(0.05, ge=0, le=100, description="Weight of the direct text signal of every item.")
    thin_text_weight: float = Field(
        0.25,
        ge=0,
        le=100,
        description="What an item without evidence borrows from the texts, beside its neighbours' IDs.",
    )
    goal: Literal["all", "warm", "tail", "cold", "overall"] = Field(
        "all", description="The ranking that settings are chosen for: one of the four, or the mean of all."
    )
    tune: bool = Field(True, description="Choose penalties, damping, recency, gate and weights by validation.")
    learn: bool = Field(True, description="Train the attention on items that are pretended cold; kept where it wins.")
    max_items: int = Field(30_000, ge=1, description="Most items with interactions that the closed form takes.")


class EvaluationConfig(Settings):
    """``[evaluation]``: what is measured and against whom."""

    k: list[Annotated[int, Field(ge=1)]] = Field(
        [10, 20], min_length=1, description="Lengths of the lists that are judged."
    )
    models: list[str] = Field(
        ["popularity", "content", "tfidf", "item-knn", "ease", "l3ae", "als"],
        description="Baselines that stand beside the hybrid.",
    )
    n_bootstrap: int = Field(1000, ge=0, le=100_000, description="Resamples behind each interval; 0 leaves it out.")


class ValueConfig(Settings):
    """``[value]``: which choices of embedding are compared, and what an hour of the machine costs."""

    runtimes: list[
        Literal["torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16", "openvino-int8", "static", "tfidf"]
    ] = Field(
        ["torch-fp32", "torch-bf16", "openvino-fp32", "openvino-bf16", "openvino-int8", "static", "tfidf"],
        min_length=1,
        description="What turns texts into vectors; what cannot run here is listed with the reason.",
    )
    dims: list[Annotated[int, Field(ge=8)]] = Field(
        [], description="Widths that vectors are cut to, beside the full one; a half and a quarter of it if empty."
    )
    storage: list[Literal["float32", "float16", "int8"]] = Field(
        ["float32", "float16", "int8"], min_length=1, description="Number formats of the vectors on disk."
    )
    max_items: int = Field(10_000, ge=1, description="Most items that are encoded and ranked for a judgement.")
    max_people: int = Field(2_000, ge=1, description="Most people of validation that are judged on.")
    min_seconds: float = Field(2.0, ge=0, le=3600, description="Fast runtimes encode again until this has passed.")
    keep_share: float = Field(
        0.99, gt=0, le=1, description="Without a budget, the cheapest that keeps this share of the best quality."
    )
    core_hour: float = Field(0.05, ge=0, description="Price of one processor core for an hour.")
    gpu_hour: float = Field(2.0, ge=0, description="Price of one GPU, with its host, for an hour.")
    currency: str = Field("EUR", min_length=1, max_length=12, description="The word behind the prices.")


class BenchConfig(Settings):
    """``[bench]``: who is compared on this run's data, on how many cuts of it, with how much tuning."""

    models: list[str] = Field([], description="Models that are compared; all there are if empty.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field([], description="One cut each; the run's own seed if empty.")
    trials: int = Field(20, ge=0, le=100_000, description="Settings tried for each model; 0 is the defaults alone.")
    minutes: float = Field(0.0, ge=0, description="No more settings of a model after this time; 0 is no limit.")
    k: int = Field(20, ge=1, le=10_000, description="Length of the lists that are judged, on validation and test.")
    max_people: int = Field(4_000, ge=1, description="Most people of validation that settings are judged on.")
    n_bootstrap: int = Field(1000, ge=0, le=100_000, description="Resamples of people behind each interval.")
    isolate: bool = Field(True, description="Fit each model in a process of its own, so that its memory is known.")


class RunConfig(Settings):
    """A whole run: every stage's settings, one seed, one folder."""

    seed: int = Field(0, ge=0, description="Seeds every random choice.")
    folder: str = Field("run", description="Where everything that this run makes is kept.")
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    text: TextConfig = TextConfig()
    encoder: EncoderConfig = EncoderConfig()
    pretrain: PretrainConfig = PretrainConfig()
    lora: LoraConfig = LoraConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    index: IndexConfig = IndexConfig()
    graph: GraphConfig = GraphConfig()
    hybrid: HybridConfig = HybridConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    value: ValueConfig = ValueConfig()
    bench: BenchConfig = BenchConfig()

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a TOML file; `overrides` are ``table.key=value`` strings that win over it.

        Raises
        ------
        ConfigError
            If the file is missing or no TOML, or a key or value is wrong; a misspelt key is named with its path and
            the nearest right one.
        """
        path = Path(path)
        try:
            with path.open("rb") as stream:
                values = tomllib.load(stream)
        except FileNotFoundError:
            raise ConfigError(f"there is no config file at {path}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no valid TOML: {error}") from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}; expected a TOML file") from None
        for override in overrides:
            _override(values, override)
        try:
            return cls(**values).resolved(path.parent)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def resolved(self, root: Path) -> RunConfig:
        """Return the same settings with relative paths taken from `root`."""

        def absolute(value: str) -> str:
            return value if not value or value.startswith("hf:") else str((root / value).resolve())

        paths = {name: absolute(getattr(self.data, name)) for name in ("catalog", "interactions", "validation", "test")}
        data = {**self.data.model_dump(), **paths}
        encoder = self.encoder.model_dump()
        if encoder["name"].startswith((".", "/")):
            encoder["name"] = absolute(encoder["name"])
        return self.replace(folder=absolute(self.folder), data=data, encoder=encoder)

    def overridden(self, overrides: Sequence[str]) -> RunConfig:
        """Return the same settings with ``table.key=value`` strings applied; paths in them stay as they are."""
        values = self.model_dump()
        for override in overrides:
            _override(values, override)
        return type(self)(**values)

    def to_toml(self) -> str:
        """Return the settings as TOML that `load` reads back to the same settings."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def explain(error: ValidationError, settings: type[Settings]) -> str:
    """Return the complaints of pydantic in our words: the path of the key, what was found, what is legal."""
    lines = []
    for problem in error.errors(include_url=False):
        keys = [str(key) for key in problem["loc"]]
        path = ".".join(keys)
        if problem["type"] == "extra_forbidden":
            known = _known_keys(settings, keys[:-1])
            near = closest(keys[-1], known, 1)
            hint = f"did you mean {'.'.join([*keys[:-1], near[0]])!r}?" if near else f"known: {', '.join(known)}"
            lines.append(f"unknown setting {path!r}; {hint}")
        else:
            text = problem["msg"].removeprefix("Value error, ")
            lines.append(f"setting {path!r} is {problem['input']!r}: {text[:1].lower()}{text[1:]}")
    return "; ".join(lines)


def _known_keys(settings: type[BaseModel], path: Sequence[str]) -> list[str]:
    for key in path:
        annotation = settings.model_fields[key].annotation if key in settings.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        settings = annotation
    return list(settings.model_fields)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r}: expected table.key=value")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    *tables, last = key.strip().split(".")
    for table in tables:
        inner = values.setdefault(table, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"--set {override!r}: {table!r} is no table")
        values = inner  # type: ignore[assignment]
    values[last] = value
