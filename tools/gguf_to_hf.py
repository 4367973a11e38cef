"""A GGUF file of architecture `llama` with a byte-level BPE tokenizer (`gpt2`) as a Hugging Face directory with bf16 weights.

    gguf_to_hf.py FILE.gguf OUT_DIR          needs gguf, numpy, tokenizers; tools/get_smollm2.sh installs them aside

GGUF stores the rows of q and k for rotary pairs that lie side by side; Hugging Face wants halves, so they are permuted back.
"""
import json
import os
import struct
import sys

import gguf
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL_TOKEN = 3  # token_type of GGUF
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


def to_halves(weight, heads):
    """[heads * head_dim, in]: rows in pairs (2j, 2j + 1) -> rows in halves (j, j + head_dim / 2)."""
    pairs = weight.shape[0] // heads // 2
    return weight.reshape(heads, pairs, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def bf16(values):
    """float32 -> bf16 bit patterns, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def hugging_face_tensors(reader, heads, kv_heads):
    tensors = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type).reshape([int(size) for size in tensor.shape][::-1])
        name = TOP_NAMES.get(tensor.name)
        if name is None:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"
            if part in ("attn_q", "attn_k"):
                weight = to_halves(weight, heads if part == "attn_q" else kv_heads)
        tensors[name] = bf16(weight)
    return tensors


def write_safetensors(path, tensors):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        begin, end = end, end + tensors[name].nbytes
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name in sorted(tensors):
            file.write(tensors[name].tobytes())


def byte_level_tokenizer(pieces, kinds, merges):
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[tuple(merge.split(" ")) for merge in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece, kind in zip(pieces, kinds) if kind == CONTROL_TOKEN])
    return tokenizer


def main(source, out):
    reader = gguf.GGUFReader(source)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    os.makedirs(out)

    def write_json(name, value):
        with open(f"{out}/{name}", "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False)

    heads, kv_heads = fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]
    tensors = hugging_face_tensors(reader, heads, kv_heads)
    ids = {key: fields[f"tokenizer.ggml.{key}_token_id"] for key in ("bos", "eos", "padding")}
    pieces, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    special_ids = {"bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": ids["padding"]}
    write_json("config.json", {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": fields["llama.rope.dimension_count"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": fields["llama.rope.freq_base"],
        "rope_scaling": None,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "vocab_size": fields["llama.vocab_size"],
        **special_ids,
        "torch_dtype": "bfloat16",
    })
    byte_level_tokenizer(pieces, kinds, fields["tokenizer.ggml.merges"]).save(f"{out}/tokenizer.json")
    write_json("tokenizer_config.json", {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "bos_token": pieces[ids["bos"]],
        "eos_token": pieces[ids["eos"]],
        "pad_token": pieces[ids["padding"]],
        "unk_token": pieces[0],
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": fields["tokenizer.chat_template"],
    })
    write_json("generation_config.json", special_ids)
    write_safetensors(f"{out}/model.safetensors", tensors)


if __name__ == "__main__":
    main(*sys.argv[1:])
