"""Optimizer steps of a small mixture in PyTorch, for the C++ side to compare with: written from the formulas, with autograd,
torch.optim.AdamW and loops over tokens' experts, and nothing of ours.

  train_step_oracle.py CASE_DIR...
      Each holds model/ (config.json, model.safetensors with float64 weights) and case.json: steps, a list of lists of
      micro-batches {tokens, labels (-100: no target), cu_seqlens}, and the options. Writes CASE_DIR/oracle.safetensors: of each
      step n `loss.n`, `balance.n`, `norm.n` and every gradient as `NAME.grad.n`; after the last step the weights as `NAME` and
      the moments as `NAME.m` and `NAME.v`.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file


def rms_norm(x, weight, eps):
    return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def rope(x, cos, sin):
    """x [T, heads, d]; the halves of a head are the two coordinates that turn."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def attention(x, w, config, angles, cu_seqlens):
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    d = config["hidden_size"] // heads
    q, k, v = ((x @ w[f"self_attn.{n}_proj.weight"].T).view(len(x), -1, d) for n in "qkv")
    q, k = (rope(t, angles.cos().double()[:, None], angles.sin().double()[:, None]) for t in (q, k))
    out = []
    for begin, end in zip(cu_seqlens, cu_seqlens[1:]):
        rows = []
        for head in range(heads):
            of = head // (heads // kv_heads)
            scores = q[begin:end, head] @ k[begin:end, of].T / d**0.5
            mask = torch.ones(end - begin, end - begin, dtype=torch.bool).triu(1)
            rows.append(torch.softmax(scores.masked_fill(mask, float("-inf")), -1) @ v[begin:end, of])
        out.append(torch.stack(rows, 1))
    return torch.cat(out).flatten(1) @ w["self_attn.o_proj.weight"].T


def ffn(x, w, prefix):
    gate, up, down = (w[f"{prefix}.{n}_proj.weight"] for n in ("gate", "up", "down"))
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def mixture(x, w, moe, layer):
    """Output, and the layer's (counts, probabilities) for the balance loss."""
    p = torch.softmax(x @ w["mlp.router.weight"].T, -1)
    chosen = torch.topk(p, moe["top_k"]).indices
    weights = p.gather(1, chosen)
    if moe["topk_norm"] == "renorm":
        weights = weights / weights.sum(1, keepdim=True)
    elif moe["topk_norm"] == "straight_through":
        weights = weights / weights.detach()
    y = torch.zeros_like(x)
    counts = torch.zeros(moe["num_experts"], dtype=torch.float64)
    for expert in range(moe["num_experts"]):
        tokens, slots = torch.where(chosen == expert)
        counts[expert] = len(tokens)
        y = y.index_add(0, tokens, weights[tokens, slots, None] * ffn(x[tokens], w, f"mlp.experts.{expert}"))
    y = moe["output_scale"][layer] * y
    if moe["shared_widths"][layer] > 0:
        y = y + ffn(x, w, "mlp.shared_expert")
    return y, counts, p


def micro_batch(weights, config, batch):
    """Summed loss of the targets, balance loss."""
    moe, tokens, cu_seqlens = config["moe"], torch.tensor(batch["tokens"]), batch["cu_seqlens"]
    d = config["hidden_size"] // config["num_attention_heads"]
    positions = torch.cat([torch.arange(e - b) for b, e in zip(cu_seqlens, cu_seqlens[1:])])
    # Sines and cosines are float32 numbers, as in transformers at any type of the model.
    frequencies = 1 / config["rope_theta"] ** (torch.arange(0, d, 2, dtype=torch.float32) / d)
    angles = positions[:, None].float() * frequencies
    x = weights["model.embed_tokens.weight"][tokens]
    balance = 0
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        w = {name[len(prefix):]: value for name, value in weights.items() if name.startswith(prefix)}
        x = x + attention(rms_norm(x, w["input_layernorm.weight"], config["rms_norm_eps"]), w, config, angles, cu_seqlens)
        y, counts, p = mixture(rms_norm(x, w["post_attention_layernorm.weight"], config["rms_norm_eps"]), w, moe, layer)
        x = x + y
        fractions = counts / (moe["top_k"] * len(tokens))
        balance = balance + moe["num_experts"] * (fractions * p.mean(0)).sum() / config["num_hidden_layers"]
    x = rms_norm(x, weights["model.norm.weight"], config["rms_norm_eps"])
    losses = torch.nn.functional.cross_entropy(x @ weights["lm_head.weight"].T, torch.tensor(batch["labels"]), ignore_index=-100,
                                               reduction="sum")
    return losses, balance


def run(folder):
    config = json.loads((folder / "model/config.json").read_text())
    case = json.loads((folder / "case.json").read_text())
    weights = {name: value.double().requires_grad_() for name, value in load_file(str(folder / "model/model.safetensors")).items()}
    decaying = [w for w in weights.values() if w.dim() > 1]
    others = [w for w in weights.values() if w.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decaying, "weight_decay": case["weight_decay"]}, {"params": others, "weight_decay": 0.0}],
                                  lr=0.0, betas=(case["beta1"], case["beta2"]), eps=case["epsilon"])
    out = {}
    for n, batches in enumerate(case["steps"]):
        optimizer.zero_grad(set_to_none=True)
        targets = sum(label != -100 for batch in batches for label in batch["labels"])
        loss = balance = 0
        for batch in batches:
            losses, of_batch = micro_batch(weights, config, batch)
            loss, balance = loss + losses / targets, balance + of_batch / len(batches)
        (loss + case["balance_loss"] * balance).backward()
        norm = torch.sqrt(sum((w.grad**2).sum() for w in weights.values()))
        out |= {f"loss.{n}": loss.detach(), f"balance.{n}": balance.detach(), f"norm.{n}": norm}
        out |= {f"{name}.grad.{n}": w.grad.clone() for name, w in weights.items()}
        scale = min(1.0, case["clip_norm"] / (norm.item() + 1e-6))
        for w in weights.values():
            w.grad *= scale
        for group in optimizer.param_groups:
            group["lr"] = case["learning_rates"][n]
        optimizer.step()
    for name, w in weights.items():
        out |= {name: w.detach(), f"{name}.m": optimizer.state[w]["exp_avg"], f"{name}.v": optimizer.state[w]["exp_avg_sq"]}
    save_file({name: value.contiguous().reshape(value.shape or (1,)) for name, value in out.items()}, str(folder / "oracle.safetensors"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for path in sys.argv[1:]:
        run(pathlib.Path(path))
