"""Settings of words to vectors: the encoder, its training, and how a catalogue goes through it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llm_tail.config.base import Settings

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


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
    pairs: list[Literal["co-interaction", "history", "attribute", "text", "question"]] = Field(
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
