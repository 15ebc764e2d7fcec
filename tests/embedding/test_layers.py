import pytest
import torch
import transformers as hf
from torch import nn

from llm_tail.embedding.layers import blocks, ia3_layers, target_layers
from llm_tail.errors import ConfigError

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": 50}
# The model, how many linear layers a block has, the layers that IA3 scales by their output, the one by its input.
ARCHITECTURES = {
    "bert": (hf.BertModel, hf.BertConfig, SIZES, 6, "key value", "output.dense"),
    "xlm-r": (hf.XLMRobertaModel, hf.XLMRobertaConfig, SIZES, 6, "key value", "output.dense"),
    "mpnet": (hf.MPNetModel, hf.MPNetConfig, SIZES, 6, "k v", "output.dense"),
    "deberta": (hf.DebertaV2Model, hf.DebertaV2Config, SIZES, 6, "key_proj value_proj", "output.dense"),
    "modernbert": (
        hf.ModernBertModel,
        hf.ModernBertConfig,
        {**SIZES, "cls_token_id": 1, "sep_token_id": 2},
        4,
        "Wqkv",
        "mlp.Wo",
    ),
    "distilbert": (
        hf.DistilBertModel,
        hf.DistilBertConfig,
        {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 50},
        6,
        "k_lin v_lin",
        "ffn.lin2",
    ),
    "llama": (hf.LlamaModel, hf.LlamaConfig, GROUPED, 7, "k_proj v_proj", "mlp.down_proj"),
    "mistral": (hf.MistralModel, hf.MistralConfig, GROUPED, 7, "k_proj v_proj", "mlp.down_proj"),
    "qwen3": (hf.Qwen3Model, hf.Qwen3Config, {**GROUPED, "head_dim": 16}, 7, "k_proj v_proj", "mlp.down_proj"),
    "gemma3": (hf.Gemma3TextModel, hf.Gemma3TextConfig, {**GROUPED, "head_dim": 16}, 7, "k_proj v_proj", "down_proj"),
    "gpt2": (hf.GPT2Model, hf.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, **ENDS}, 4, "c_attn", "mlp.c_proj"),
    "t5": (
        hf.T5EncoderModel,
        hf.T5Config,
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 50},
        6,
        "k v",
        "DenseReluDense.wo",
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_are_found_by_rule(name):
    kind, settings, sizes, n_linear, scaled, inner = ARCHITECTURES[name]
    with torch.device("meta"):
        model = kind(settings(**sizes))
    assert len(blocks(model)) == 2
    linear = target_layers(model)
    assert len(linear) == 2 * n_linear and not any("pooler" in layer for layer in linear)
    layers, feedforward = ia3_layers(model)
    assert len(feedforward) == 2 and all(layer.endswith(inner) for layer in feedforward)
    outside = [layer for layer in layers if layer not in feedforward]
    assert {layer.rpartition(".")[2] for layer in outside} == set(scaled.split())
    assert len(outside) == 2 * len(scaled.split())


def test_layers_by_name(minilm):
    model = minilm.model[0].model
    assert target_layers(model, ["query"]) == [n for n in target_layers(model) if n.endswith(".query")]
    assert ia3_layers(model, ["value"]) == ([n for n in target_layers(model) if n.endswith(".value")], [])
    layers, feedforward = ia3_layers(model, ["output.dense"])
    assert len(layers) == 12 and len(feedforward) == 6  # those of the attention are scaled by their output


def test_what_is_there_is_named_where_nothing_fits():
    model = nn.ModuleDict(
        {"stack": nn.ModuleList([nn.ModuleDict({"mixer": nn.Linear(4, 4)})]), "head": nn.Linear(4, 1)}
    )
    assert target_layers(model) == ["stack.0.mixer"]
    with pytest.raises(ConfigError, match=r"'ia3' finds no layer .* are: mixer"):
        ia3_layers(model)
    with pytest.raises(ConfigError, match=r"\['q_proj'\], which matches no linear layer.* are: head, mixer"):
        target_layers(model, ["q_proj"])
    with pytest.raises(ConfigError, match=r"'inside the blocks' matches no linear layer.* are: none"):
        target_layers(nn.LayerNorm(3))
    assert blocks(nn.LayerNorm(3)) == []
