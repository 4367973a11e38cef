"""Logits, gradients and greedy texts of transformers on the CPU, for the C++ side to compare with.

  transformers_oracle.py logits MODEL_DIR OUT_DIR TOKENS [--float64] [--ids FILE]
      Writes OUT_DIR/oracle.safetensors: ids [T] (int64, random unless FILE holds space-separated ids), logits [T, V] in float32
      and, with --float64, logits64 in float64.
  transformers_oracle.py {llama,qwen2,phi} OUT_DIR COUNT SEED
      Writes COUNT small random models of that family to OUT_DIR/<n>, each with its oracle.safetensors (also logits64). The first
      twelve also have greedy.safetensors (prompt<i>, and text<i>: what transformers' generate adds to it), the first three
      gradients.safetensors: those of the summed next-token losses on the oracle's ids, for every weight under its name.
  transformers_oracle.py golden MODEL_DIR FILE TOKENS
      Writes a small recording for machines without transformers: ids, every 64th column of the logits, log sum exp of all.
"""
import argparse
import json
import pathlib
import random

import torch
import transformers
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids[None]).logits[0]


def load(directory, dtype):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()


def write_oracle(directory, out, ids, with_float64):
    tensors = {"ids": ids, "logits": logits(load(directory, torch.float32), ids).float().contiguous()}
    if with_float64:
        tensors["logits64"] = logits(load(directory, torch.float64), ids).double().contiguous()
    save_file(tensors, str(pathlib.Path(out) / "oracle.safetensors"))


def random_rope(rng, number, positions):
    """(rope parameters, max_position_embeddings): each form in turn, some beyond the trained length."""
    theta = rng.choice([10000.0, 500000.0, 1234.5])
    form = number % 6
    if form == 1:
        return {"rope_type": "linear", "factor": rng.choice([2.0, 2.5]), "rope_theta": theta}, positions
    if form == 2:
        return {"rope_type": "dynamic", "factor": rng.choice([2.0, 3.5]), "rope_theta": theta}, rng.choice([24, 32])
    if form == 3:
        return {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": rng.choice([32, 64]), "rope_theta": theta}, positions
    if form == 4:
        yarn = {"rope_type": "yarn", "factor": rng.choice([4.0, 8.0]), "original_max_position_embeddings": positions // 4,
                "rope_theta": theta}
        yarn.update(rng.choice([{}, {"attention_factor": 1.3}, {"mscale": 0.7, "mscale_all_dim": 1.2}, {"truncate": False},
                                {"beta_fast": 8.0, "beta_slow": 2.0}]))
        return yarn, positions
    return {"rope_type": "default", "rope_theta": theta}, positions


def random_config(rng, number, family):
    heads, kv_heads = rng.choice([(3, 3), (3, 1), (5, 5), (5, 1), (4, 2), (6, 2), (8, 1), (9, 3), (1, 1), (2, 2)])
    head_dim = rng.choice([4, 6, 8, 10, 16, 20] if number % 6 != 2 else [6, 8, 16])
    tied_to_heads = rng.random() < 0.5  # otherwise head_dim stands in the config and heads * head_dim is not the hidden size
    rope, max_positions = random_rope(rng, number, rng.choice([128, 512]))
    common = dict(
        hidden_size=heads * head_dim if tied_to_heads else heads * rng.choice([4, 7, 12]),
        intermediate_size=rng.choice([7, 43, 86, 128]),
        num_hidden_layers=rng.choice([1, 2, 3]),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=rng.choice([17, 100, 333]),
        max_position_embeddings=max_positions,
        rope_parameters=rope,
        tie_word_embeddings=number % 2 == 0,
        # The first, whose gradients are compared, must not be so flat that the gradients of keys are fp32's noise.
        initializer_range=max(rng.choice([0.02, 0.1, 0.2]), 0.15 if number < 3 else 0),
        bos_token_id=None,
        eos_token_id=None,
    )
    if not tied_to_heads:
        common["head_dim"] = head_dim
    if family == "llama":
        return LlamaConfig(rms_norm_eps=rng.choice([1e-5, 1e-6]), attention_bias=rng.random() < 0.5, mlp_bias=rng.random() < 0.5, **common)
    if family == "qwen2":
        window = dict(use_sliding_window=True, sliding_window=rng.choice([1, 5, 40]), max_window_layers=0) if number % 4 == 3 else {}
        return Qwen2Config(rms_norm_eps=rng.choice([1e-5, 1e-6]), **window, **common)
    fractions = [f for f in (0.25, 0.4, 0.5, 1.0) if int(head_dim * f) % 2 == 0 and int(head_dim * f) >= 4]
    rope["partial_rotary_factor"] = rng.choice(fractions or [1.0])
    return PhiConfig(layer_norm_eps=rng.choice([1e-5, 1e-6]), **common)


def spell_as_transformers_4(path, old_type):
    written = json.loads(path.read_text())
    rope = written.pop("rope_parameters")
    written["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        written["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if old_type:
        rope["type"] = rope.pop("rope_type")
    written["rope_scaling"] = None if "default" in rope.values() else rope
    written.pop("layer_types", None)
    path.write_text(json.dumps(written, indent=1))


def write_gradients(model, directory, ids):
    losses = torch.nn.functional.cross_entropy(model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="sum")
    losses.backward()
    gradients = {name: parameter.grad.contiguous() for name, parameter in model.named_parameters()}
    save_file(gradients, str(directory / "gradients.safetensors"))


def write_greedy(model, directory, rng):
    tensors = {}
    for number in range(2):
        prompt = torch.randint(0, model.config.vocab_size, (rng.choice([1, 7, 20, 30]),))
        text = model.generate(prompt[None], attention_mask=torch.ones_like(prompt)[None], do_sample=False, use_cache=True,
                              max_new_tokens=24, pad_token_id=0)
        tensors[f"prompt{number}"] = prompt
        tensors[f"text{number}"] = text[0, len(prompt):].contiguous()
    save_file(tensors, str(directory / "greedy.safetensors"))


def write_random_models(family, out, count, seed):
    rng = random.Random(seed)
    kinds = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM, "phi": PhiForCausalLM}
    for number in range(count):
        torch.manual_seed(seed * 1000 + number)
        directory = pathlib.Path(out) / str(number)
        config = random_config(rng, number, family)
        model = kinds[family](config).float()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_(0.0, 0.2)
            elif "norm" in name:
                parameter.data.normal_(1.0, 0.2)
        model.save_pretrained(directory)
        if number % 3 != 1:
            spell_as_transformers_4(directory / "config.json", old_type=number % 3 == 0)
        ids = torch.randint(0, config.vocab_size, (rng.choice([1, 33, 100]) if number >= 6 else 100,))
        write_oracle(directory, directory, ids, True)
        if number < 12:
            write_greedy(load(directory, torch.float32), directory, rng)
        if number < 3:
            write_gradients(load(directory, torch.float32), directory, ids)


def write_golden(model, file, tokens):
    torch.manual_seed(2)
    llama = load(model, torch.float32)
    ids = torch.randint(0, llama.config.vocab_size, (tokens,))
    values = logits(llama, ids).float()
    save_file({"ids": ids, "columns": values[:, ::64].contiguous(), "log_sum": values.logsumexp(1), "argmax": values.argmax(1)}, file,
              metadata={"made_by": f"tests/peer/transformers_oracle.py golden, transformers {transformers.__version__}, "
                                   f"torch {torch.__version__}, float32 on CPU"})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["logits", "llama", "qwen2", "phi", "golden"])
    parser.add_argument("arguments", nargs=3)
    parser.add_argument("--float64", action="store_true")
    parser.add_argument("--ids")
    options = parser.parse_args()
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    if options.command in ("llama", "qwen2", "phi"):
        out, count, seed = options.arguments
        write_random_models(options.command, out, int(count), int(seed))
        return
    model, out, tokens = options.arguments
    if options.command == "golden":
        write_golden(model, out, int(tokens))
        return
    torch.manual_seed(1)
    if options.ids:
        ids = torch.tensor([int(word) for word in pathlib.Path(options.ids).read_text().split()])
    else:
        vocabulary = json.loads((pathlib.Path(model) / "config.json").read_text())["vocab_size"]
        ids = torch.randint(0, vocabulary, (int(tokens),))
    write_oracle(model, out, ids, options.float64)


if __name__ == "__main__":
    main()
