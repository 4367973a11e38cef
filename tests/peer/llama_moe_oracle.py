"""LLaMA-MoE checkpoints in the layouts of their authors, with random weights, and a forward of their own.

  llama_moe_oracle.py OUT_DIR
      Writes OUT_DIR/<case>/{config.json, model.safetensors} in float32, and OUT_DIR/<case>/oracle.safetensors with ids [T] and logits
      [T, V] in float64, computed here from the formulas of both papers (numpy alone, no class of either program). A case whose name
      begins with "refused_" has no oracle.
"""
import json
import pathlib
import sys

import numpy as np
from safetensors.numpy import save_file

HIDDEN, HEADS, KV_HEADS, LAYERS, VOCAB, THETA, EPS, TOKENS = 32, 4, 2, 3, 61, 10000.0, 1e-5, 40
HEAD = HIDDEN // HEADS
BASE = dict(hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, vocab_size=VOCAB,
            max_position_embeddings=64, rms_norm_eps=EPS, rope_theta=THETA, hidden_act="silu", tie_word_embeddings=False, bos_token_id=1,
            eos_token_id=2, torch_dtype="float32", attention_bias=False, mlp_bias=False)
# What the program that wrote the published v2 files puts beside the keys of mixtral.
V2 = dict(BASE, architectures=["MixtralForCausalLM"], model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, intermediate_size=12,
          scale_factor=4.0, moe_type="modulelist", num_moe_contract_layers=0, router_aux_loss_coef=0.01, output_router_logits=False,
          act_rescale=True, use_attn_moe=False, top_k_attn=7, scale_factor_attn=2, use_layer_wise_balance=False, sliding_window=None,
          attention_dropout=0.0, auto_map={"AutoConfig": "configuration_mixtral.MixtralConfig"})
V1 = dict(BASE, architectures=["LlamaMoEForCausalLM"], model_type="llama_moe", intermediate_size=48, num_experts=4, num_selects=2,
          size_experts=None, gate_type="TopKBalancedNoisyGate", gate_network="linear", gate_use_softmax=True, gate_use_balance=True,
          gate_balance_loss_weight=0.01, gate_add_noise=True, gate_noise_epsilon=0.01, calculator_type="UniversalCalculator",
          multiply_gate_scores=True, score_scale_factor=2.0, add_weight_norm=False, drop_tokens=True, dropped_padding="zero",
          capacity_factor=1.25, pretraining_tp=1, auto_map={"AutoConfig": "configuration_llama_moe.LlamaMoEConfig"})


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def norm(x, weight):
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS)


def turn(x, positions=None):
    """RoPE of [T, heads, d] in the half-split form; angles in float32, as models compute them."""
    frequencies = 1 / np.float32(THETA) ** (np.arange(0, HEAD, 2, dtype=np.float32) / np.float32(HEAD))
    at = np.arange(len(x)) if positions is None else np.asarray(positions)
    angles = at.astype(np.float32)[:, None] * frequencies[None].astype(np.float32)
    cos, sin = (np.tile(f(angles), 2)[:, None].astype(np.float64) for f in (np.cos, np.sin))
    half = HEAD // 2
    return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin


def attention(x, w):
    q, k, v = (x @ w[f"{name}_proj.weight"].T for name in "qkv")
    q, k, v = turn(q.reshape(-1, HEADS, HEAD)), turn(k.reshape(-1, KV_HEADS, HEAD)), v.reshape(-1, KV_HEADS, HEAD)
    mask = np.triu(np.full((len(x), len(x)), -np.inf), 1)
    out = []
    for head in range(HEADS):
        of = head // (HEADS // KV_HEADS)
        out.append(softmax(q[:, head] @ k[:, of].T / np.sqrt(HEAD) + mask) @ v[:, of])
    return np.concatenate(out, -1) @ w["o_proj.weight"].T


def attention_experts(x, w, config):
    """An expert has its own q, k, v and o, and sees of the tokens before one those alone that chose it, at their own positions."""
    p = softmax(x @ w["gate.weight"].T)
    ids = chosen(p, config["top_k_attn"])
    weights = np.zeros_like(p)
    np.put_along_axis(weights, ids, np.take_along_axis(p, ids, -1), -1)
    weights = weights / weights.sum(-1, keepdims=True)
    y = np.zeros_like(x)
    for expert in range(p.shape[1]):
        rows = [t for t in range(len(x)) if expert in ids[t]]
        if not rows:
            continue
        q, k, v = (x[rows] @ w[f"{name}_proj.{expert}.weight"].T for name in "qkv")
        q, k = turn(q.reshape(len(rows), -1, HEAD), rows), turn(k[:, None], rows)
        mask = np.triu(np.full((len(rows), len(rows)), -np.inf), 1)
        heads = [softmax(q[:, head] @ k[:, 0].T / np.sqrt(HEAD) + mask) @ v for head in range(q.shape[1])]
        y[rows] += config["scale_factor_attn"] * weights[rows, expert][:, None] * (np.concatenate(heads, -1) @ w[f"o_proj.{expert}.weight"].T)
    return y


def glu(x, gate, up, down):
    z = x @ gate.T
    return (z / (1 + np.exp(-z)) * (x @ up.T)) @ down.T


def chosen(z, k):
    """The k largest of each row, by falling value."""
    return np.argsort(-z, axis=-1, kind="stable")[:, :k]


def mixed(x, ids, weights, experts):
    y = np.zeros_like(x)
    for t in range(len(x)):
        for slot, expert in enumerate(ids[t]):
            y[t] += weights[t, slot] * glu(x[t:t + 1], *experts[expert])[0]
    return y


def ffn_v2(x, w, config, layer):
    """softmax over all, the chosen renormalised, times the scale; the residual at weight 1."""
    if "mlp.gate_proj.weight" in w:
        return glu(x, w["mlp.gate_proj.weight"], w["mlp.up_proj.weight"], w["mlp.down_proj.weight"])
    p = softmax(x @ w["block_sparse_moe.gate.weight"].T)
    ids = chosen(p, config["num_experts_per_tok"])
    weights = np.take_along_axis(p, ids, -1)
    weights = weights / weights.sum(-1, keepdims=True)
    experts = [[w[f"block_sparse_moe.experts.{e}.{m}.weight"] for m in ("w1", "w3", "w2")] for e in range(config["num_local_experts"])]
    scale = config["scale_factor"] if config["act_rescale"] else 1.0
    y = mixed(x, ids, weights, experts) * (scale[layer] if isinstance(scale, list) else scale)
    if config.get("intermediate_size_residual"):
        y = y + glu(x, *(w[f"mlp_residual.{m}.weight"] for m in ("w1", "w3", "w2")))
    return y


def ffn_v1(x, w, config, layer):
    """softmax over the chosen logits, times the scale; or experts at weight 1. Noise is of training alone."""
    if config["gate_network"] == "mlp":
        z = np.tanh(x @ w["mlp.gate.gate_network.0.weight"].T) @ w["mlp.gate.gate_network.2.weight"].T
    else:
        z = x @ w["mlp.gate.gate_network.weight"].T
    ids = chosen(z, config["num_selects"])
    if config["multiply_gate_scores"]:
        scale = config["score_scale_factor"]
        weights = softmax(np.take_along_axis(z, ids, -1)) * (scale[layer] if isinstance(scale, list) else scale)
    else:
        weights = np.ones(ids.shape)
    experts = [[w[f"mlp.calculator.experts.weight_{m}.{e}"] for m in ("gate", "up", "down")] for e in range(config["num_experts"])]
    return mixed(x, ids, weights, experts)


def logits_of(tensors, ids, config, ffn):
    w = {name: value.astype(np.float64) for name, value in tensors.items()}
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(LAYERS):
        own = f"model.layers.{layer}."
        of = {name.removeprefix(own): value for name, value in w.items() if name.startswith(own)}
        attend = {name.removeprefix("self_attn."): value for name, value in of.items()}
        read = norm(x, of["input_layernorm.weight"])
        x = x + (attention_experts(read, attend, config) if "gate.weight" in attend else attention(read, attend))
        x = x + ffn(norm(x, of["post_attention_layernorm.weight"]), of, config, layer)
    return norm(x, w["model.norm.weight"]) @ w["lm_head.weight"].T


class Writer:
    def __init__(self, out):
        self.out, self.rng = pathlib.Path(out), np.random.default_rng(5)

    def matrix(self, rows, columns):
        return (self.rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def decoder(self):
        scale = lambda: (1 + 0.1 * self.rng.standard_normal(HIDDEN)).astype(np.float32)
        tensors = {"model.embed_tokens.weight": self.matrix(VOCAB, HIDDEN), "model.norm.weight": scale(), "lm_head.weight": self.matrix(VOCAB, HIDDEN)}
        for layer in range(LAYERS):
            own = f"model.layers.{layer}."
            tensors |= {own + "input_layernorm.weight": scale(), own + "post_attention_layernorm.weight": scale()}
            for name, rows in (("q", HIDDEN), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD), ("o", HIDDEN)):
                tensors[f"{own}self_attn.{name}_proj.weight"] = self.matrix(rows, HIDDEN)
        return tensors

    def save(self, name, config, tensors, ffn):
        path = self.out / name
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(config))
        save_file(tensors, str(path / "model.safetensors"), metadata={"format": "pt"})
        if name.startswith("refused_"):
            return
        ids = self.rng.integers(0, VOCAB, TOKENS)
        save_file({"ids": ids.astype(np.int64), "logits": logits_of(tensors, ids, config, ffn)}, str(path / "oracle.safetensors"))

    def experts_of_attention(self, tensors, experts):
        """In the place of the dense ones, for all layers."""
        for layer in range(LAYERS):
            own = f"model.layers.{layer}.self_attn."
            for name in "qkvo":
                del tensors[f"{own}{name}_proj.weight"]
            tensors[own + "gate.weight"] = self.matrix(experts, HIDDEN)
            for expert in range(experts):
                for name, rows in (("q", HIDDEN // experts), ("k", HEAD), ("v", HEAD)):
                    tensors[f"{own}{name}_proj.{expert}.weight"] = self.matrix(rows, HIDDEN)
                tensors[f"{own}o_proj.{expert}.weight"] = self.matrix(HIDDEN, HIDDEN // experts)

    def v2(self, name, **keys):
        config = dict(V2, **keys)
        tensors, experts, width = self.decoder(), config["num_local_experts"], config["intermediate_size"]
        if config["use_attn_moe"]:
            self.experts_of_attention(tensors, config.get("attn_experts") or KV_HEADS)
        residual, ends = config.get("intermediate_size_residual") or 0, config["num_moe_contract_layers"]
        for layer in range(LAYERS):
            own = f"model.layers.{layer}."
            if not ends <= layer < LAYERS - ends:
                full = experts * width + residual
                tensors |= {own + "mlp.gate_proj.weight": self.matrix(full, HIDDEN), own + "mlp.up_proj.weight": self.matrix(full, HIDDEN),
                            own + "mlp.down_proj.weight": self.matrix(HIDDEN, full)}
                continue
            tensors[own + "block_sparse_moe.gate.weight"] = self.matrix(experts, HIDDEN)
            parts = [(f"block_sparse_moe.experts.{e}.", width) for e in range(experts)] + ([("mlp_residual.", residual)] if residual else [])
            for part, size in parts:
                tensors |= {f"{own}{part}w1.weight": self.matrix(size, HIDDEN), f"{own}{part}w3.weight": self.matrix(size, HIDDEN),
                            f"{own}{part}w2.weight": self.matrix(HIDDEN, size)}
        self.save(name, config, tensors, ffn_v2)

    def v1(self, name, noise=0.0, **keys):
        config = dict(V1, **keys)
        tensors, experts = self.decoder(), config["num_experts"]
        for layer in range(LAYERS):
            own = f"model.layers.{layer}.mlp."
            if config["gate_network"] == "linear":
                tensors[own + "gate.gate_network.weight"] = self.matrix(experts, HIDDEN)
            else:
                tensors |= {own + "gate.gate_network.0.weight": self.matrix(experts, HIDDEN), own + "gate.gate_network.2.weight": self.matrix(experts, experts)}
            if config["gate_add_noise"]:
                tensors[own + "gate.weight_noise.weight"] = np.full((experts, HIDDEN), noise, np.float32)
            sizes = config["size_experts"][layer] if config["size_experts"] else [config["intermediate_size"] // experts] * experts
            for expert, size in enumerate(sizes):
                stored = own + "calculator.experts.weight_"
                tensors |= {f"{stored}gate.{expert}": self.matrix(size, HIDDEN), f"{stored}up.{expert}": self.matrix(size, HIDDEN),
                            f"{stored}down.{expert}": self.matrix(HIDDEN, size)}
        self.save(name, config, tensors, ffn_v1)


def main():
    writer = Writer(sys.argv[1])
    writer.v2("v2_vanilla")
    writer.v2("v2_residual_top1", num_local_experts=3, num_experts_per_tok=1, intermediate_size_residual=12, scale_factor=1.0)
    writer.v2("v2_residual_contract", num_local_experts=3, intermediate_size_residual=12, scale_factor=3.0, num_moe_contract_layers=1)
    writer.v2("v2_scale_by_layer", scale_factor=[4.0, 0.5, 3.3])
    writer.v2("v2_not_rescaled", act_rescale=False, num_moe_contract_layers=1)
    writer.v2("v2_window_that_nothing_reaches", sliding_window=4096)
    writer.v2("refused_v2_window", sliding_window=16)
    writer.v2("v2_attention", use_attn_moe=True, attn_experts=None, top_k_attn=1, scale_factor_attn=1.5)
    writer.v2("v2_attention_in_halves", use_attn_moe=True, attn_experts=4, top_k_attn=3, scale_factor_attn=4.0, num_local_experts=3,
              intermediate_size_residual=12, scale_factor=3.0, num_moe_contract_layers=1)
    writer.v2("refused_v2_attention", use_attn_moe=True, attn_experts=1)
    writer.v1("v1_linear")
    writer.v1("v1_scale_by_layer", score_scale_factor=[2.0, 4.0, 1.5], num_selects=3)
    writer.v1("v1_weights_of_one", multiply_gate_scores=False)
    writer.v1("v1_top1", num_selects=1)
    writer.v1("v1_without_noise", gate_add_noise=False)
    writer.v1("v1_sizes", size_experts=[[12, 12, 12, 12], [20, 4, 8, 16], [1, 2, 3, 42]])
    writer.v1("v1_tanh", gate_network="mlp")
    writer.v1("v1_tanh_without_noise", gate_network="mlp", gate_add_noise=False, score_scale_factor=8.0)
    writer.v1("v1_noise", noise=0.1)


if __name__ == "__main__":
    main()
