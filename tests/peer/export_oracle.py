"""What transformers makes of exported directories, for the C++ side to judge.

  export_oracle.py DIR
      For every DIR/<case> that holds `export` (a model directory) and `ours.safetensors` (input_ids [N, T] int64, logits [N, T, V]
      float32, prompts [P, S] and greedy [P, G] int64 of our program), loads `export` with AutoModelForCausalLM in float32 with eager
      attention and writes DIR/<case>/verdict.json: class, what loading found missing, unexpected or mismatched (weights that
      version 5 cannot convert raise), every warning, the largest difference of logits, routing ties, clear choices that differ, and
      greedy tokens that differ.

A routing tie is a position where, in some layer, what the router chooses by (logits; of sigmoid routers the score and the bias for the
choice) differs by less than TIE between the k-th and the next expert, of routers with small logits by less than TIE of the largest: there
another expert is as good, and the position is left out and counted. Runs with transformers from 4.50 on.
"""
import json
import logging
import pathlib
import sys
import warnings

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TIE = 1e-5
CLEAR_GAP = 1e-4


class Collector(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def watch_routers(model, experts, found):
    """Calls found.append with [tokens, experts] of every router: the values that it chooses by, whatever class it is."""
    for name, module in model.named_modules():
        is_router = name.endswith((".gate", ".router")) and getattr(module, "weight", None) is not None
        if not is_router and not name.endswith(".router.layer"):
            continue

        def hook(module, inputs, output):
            bias = getattr(module, "e_score_correction_bias", None)
            if bias is not None:
                hidden = inputs[0].reshape(-1, inputs[0].shape[-1])
                values = torch.nn.functional.linear(hidden, module.weight).sigmoid() + bias
            else:
                values = output[0] if isinstance(output, tuple) else output
            assert values.shape[-1] == experts, (values.shape, experts)
            found.append(values.detach().reshape(-1, experts))

        module.register_forward_hook(hook)


def margins(found, top_k, experts, shape):
    """Smallest gap between the k-th and the next value over the layers, by position, in units of TIE."""
    if top_k >= experts:
        return torch.full(shape, float("inf"))
    gaps = []
    for values in found:
        best = values.topk(top_k + 1, dim=-1).values
        gaps.append((best[:, top_k - 1] - best[:, top_k]) / (TIE * min(1, float(values.abs().max()))))
    assert gaps, "no router was seen"
    return torch.stack(gaps).amin(0).reshape(shape)


def judge(case):
    collector = Collector()
    logging.getLogger("transformers").addHandler(collector)
    with warnings.catch_warnings(record=True) as python_warnings:
        warnings.simplefilter("always")
        takes_dtype = tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 56)
        keyword = {"dtype" if takes_dtype else "torch_dtype": torch.float32}
        model, info = AutoModelForCausalLM.from_pretrained(case / "export", attn_implementation="eager", output_loading_info=True, **keyword)
        assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= info.keys(), info
        model.eval()
        ours = load_file(str(case / "ours.safetensors"))
        ids = ours["input_ids"]
        config = model.config
        experts = next(getattr(config, key) for key in ("num_local_experts", "n_routed_experts", "num_experts") if hasattr(config, key))
        found = []
        watch_routers(model, experts, found)
        with torch.no_grad():
            logits = model(input_ids=ids).logits.float()
        is_tie = margins(found, config.num_experts_per_tok, experts, ids.shape) < 1
        with torch.no_grad():
            prompts = ours["prompts"]
            greedy = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=ours["greedy"].shape[1], do_sample=False,
                                    use_cache=True, pad_token_id=0, eos_token_id=None)[:, prompts.shape[1]:]
    logging.getLogger("transformers").removeHandler(collector)
    difference = (logits - ours["logits"]).abs().amax(-1).masked_fill(is_tie, 0)
    best = logits.topk(2, dim=-1).values
    is_clear = (best[..., 0] - best[..., 1] > CLEAR_GAP) & ~is_tie
    return {
        "transformers": transformers.__version__,
        "class": type(model).__name__,
        "problems": {key: sorted(map(str, value)) for key, value in info.items() if value},
        "warnings": collector.lines + [str(warning.message) for warning in python_warnings],
        "positions": ids.numel(),
        "ties": int(is_tie.sum()),
        "max_difference": float(difference.max()),
        "max_logit": float(logits.abs().max()),
        "wrong_choices": int(((logits.argmax(-1) != ours["logits"].argmax(-1)) & is_clear).sum()),
        "greedy_tokens": greedy.numel(),
        "greedy_differences": int((greedy != ours["greedy"]).sum()) if greedy.shape == ours["greedy"].shape else greedy.numel(),
    }


def main():
    torch.set_num_threads(1)
    for case in sorted(pathlib.Path(sys.argv[1]).iterdir()):
        (case / "verdict.json").write_text(json.dumps(judge(case)))


if __name__ == "__main__":
    main()
