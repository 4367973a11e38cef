"""Model directories that differ from one clean file in ways that people's do, and what a transformers makes of each.

  checkpoints_oracle.py write OUT_DIR
      Writes the directories OUT_DIR/<variant> (one tiny random LLaMA or Phi each) and OUT_DIR/ids.safetensors, and loads them.
  checkpoints_oracle.py load OUT_DIR
      Writes OUT_DIR/<variant>/logits<4 or 5>.safetensors, by the version of transformers that runs this, for each that it loads with
      every weight from the files.
"""
import json
import math
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=16, intermediate_size=24, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, vocab_size=40, max_position_embeddings=64, rms_norm_eps=1e-5,
             rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="float32")
PHI = dict(architectures=["PhiForCausalLM"], model_type="phi", hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
           vocab_size=40, max_position_embeddings=64, layer_norm_eps=1e-5, partial_rotary_factor=0.5, hidden_act="gelu_new",
           bos_token_id=1, eos_token_id=2, torch_dtype="float32")
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
SINGLE = "model.safetensors"


def shard(i):
    return f"model-{i + 1:05d}-of-00002.safetensors"


def weights(config, seed):
    torch.manual_seed(seed)
    kind = getattr(transformers, config["architectures"][0])
    state = kind(getattr(transformers, config["model_type"].capitalize() + "Config")(**{k: v for k, v in config.items() if k != "torch_dtype"})).state_dict()
    return {k: (torch.rand_like(v) + 0.5 if "norm" in k else torch.randn_like(v) * 0.3) for k, v in state.items() if not (k == HEAD and config.get("tie_word_embeddings"))}


class Writer:
    def __init__(self, out):
        self.out = pathlib.Path(out)

    def directory(self, name, config):
        path = self.out / name
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config))
        return path

    def single(self, name, config, tensors):
        path = self.directory(name, config)
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, str(path / SINGLE), metadata={"format": "pt"})
        return path

    def shards(self, name, config, tensors, change=lambda parts, names: None, path=None):
        path = path or self.directory(name, config)
        parts = [dict(list(tensors.items())[i::2]) for i in range(2)]
        names = {k: shard(i) for i in range(2) for k in parts[i]}
        change(parts, names)
        for i in range(2):
            save_file({k: v.contiguous().clone() for k, v in parts[i].items()}, str(path / shard(i)), metadata={"format": "pt"})
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": math.nan}, "weight_map": names}))


def write_weights(w, llama, tied):
    w.shards("stale_index", LLAMA, weights(LLAMA, 9), path=w.single("stale_index", LLAMA, llama))
    w.shards("index_names_a_buffer", LLAMA, llama, lambda p, n: n.update({"model.layers.0.self_attn.rotary_emb.inv_freq": shard(0)}))
    w.shards("index_names_what_is_nowhere", LLAMA, llama, lambda p, n: n.update({"foo.weight": shard(0)}))
    w.shards("index_names_a_missing_weight", LLAMA, llama, lambda p, n: p[0].pop(EMBEDDING))
    w.shards("index_names_a_missing_shard", LLAMA, llama, lambda p, n: n.update({"foo.weight": "model-00003-of-00003.safetensors"}))
    w.shards("index_names_another_shard", LLAMA, llama, lambda p, n: n.update({EMBEDDING: shard(1)}))
    w.shards("index_leaves_a_weight_out", LLAMA, llama, lambda p, n: n.pop(EMBEDDING))
    w.shards("a_weight_in_two_shards", LLAMA, llama, lambda p, n: p[1].update({EMBEDDING: llama[EMBEDDING]}))
    w.shards("two_values_in_two_shards", LLAMA, llama, lambda p, n: p[1].update({EMBEDDING: -llama[EMBEDDING]}))
    (w.out / "two_values_in_two_shards/refused_by_us").touch()  # other readers take the shard that the index names
    t = dict(LLAMA, tie_word_embeddings=True)
    w.single("tied", t, tied)
    head_alone = {(HEAD if k == EMBEDDING else k): v for k, v in tied.items()}
    (w.single("tied_head_alone", t, head_alone) / "loaded_by_5_alone").touch()  # 4 leaves the embedding empty and fails later
    w.single("tied_head_alone_and_short", t, dict(head_alone, **{HEAD: tied[EMBEDDING][:-1]}))
    w.single("tied_and_both", t, dict(tied, **{HEAD: tied[EMBEDDING]}))
    w.single("tied_and_two_values", t, dict(tied, **{HEAD: tied[EMBEDDING] * 0.5}))
    w.single("tied_and_head_in_bf16", t, dict(tied, **{HEAD: tied[EMBEDDING].bfloat16()}))
    w.single("tied_and_embedding_in_bf16", t, dict(tied, **{HEAD: tied[EMBEDDING], EMBEDDING: tied[EMBEDDING].bfloat16()}))
    exact = tied[EMBEDDING].bfloat16()
    w.single("tied_and_head_exact_in_bf16", t, dict(tied, **{EMBEDDING: exact.float(), HEAD: exact}))
    w.single("tied_and_embedding_exact_in_bf16", t, dict(tied, **{EMBEDDING: exact, HEAD: exact.float()}))

    def bare(tensors):
        return {k.removeprefix("model."): v for k, v in tensors.items()}

    w.single("bare_names_tied", t, bare(tied))
    w.single("bare_names_tied_with_a_buffer", t, dict(bare(tied), **{"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}))
    w.shards("bare_names_tied_in_shards", t, bare(tied))
    w.single("bare_names_with_a_head", LLAMA, bare(llama))
    w.single("bare_names_without_a_head", LLAMA, {k: v for k, v in bare(llama).items() if k != HEAD})
    w.single("bare_names_in_part", LLAMA, {(k.removeprefix("model.") if "norm" in k else k): v for k, v in llama.items()})
    w.single("names_twice_prefixed", LLAMA, {k.replace("model.", "model.model."): v for k, v in llama.items()})


def write_configs(w, llama):
    def changed(name, **values):
        w.single(name, dict(LLAMA, **values), llama)

    changed("infinity", time_step_limit=[0.0, math.inf], unknown={"a": math.nan, "b": -math.inf})
    changed("bos_minus_one", bos_token_id=-1)
    changed("eos_minus_one", eos_token_id=-1)
    changed("eos_list_of_minus_one", eos_token_id=[-1])
    changed("bos_list", bos_token_id=[1])
    changed("bos_text", bos_token_id="<s>")
    changed("swish", hidden_act="swish")
    changed("SiLU", hidden_act="SiLU")
    changed("bias_text", attention_bias="false")
    changed("layers_float", num_hidden_layers=2.0)
    phi = weights(PHI, 3)
    for name in ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"):
        w.single("phi_" + name, dict(PHI, hidden_act=name), phi)


def load_all(out):
    ids = load_file(str(out / "ids.safetensors"))["ids"]
    for path in sorted(p for p in out.iterdir() if p.is_dir()):
        try:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.float32, attn_implementation="eager",
                                                                            output_loading_info=True)
            if info["missing_keys"] or info["mismatched_keys"]:
                continue
            with torch.no_grad():
                logits = model.eval()(input_ids=ids[None]).logits[0]
        except Exception:  # whatever it raises: it does not load
            continue
        save_file({"logits": logits.float().contiguous()}, str(path / f"logits{transformers.__version__[0]}.safetensors"))


def main():
    command, out = sys.argv[1], pathlib.Path(sys.argv[2])
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if command == "write":
        llama, tied = weights(LLAMA, 1), weights(dict(LLAMA, tie_word_embeddings=True), 2)
        writer = Writer(out)
        write_weights(writer, llama, tied)
        write_configs(writer, llama)
        save_file({"ids": torch.tensor([1, 7, 39, 20, 3, 3, 11])}, str(out / "ids.safetensors"))
    load_all(out)


if __name__ == "__main__":
    main()
