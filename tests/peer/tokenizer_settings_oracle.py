#!/usr/bin/env python3
"""What the files beside a tokenizer's own make of it: ids by transformers 4.57 (the slow tokenizer for a tokenizer.model) and 5.

    cd tests/peer; for p in peers peers4; do ${MOE_DEPS:-$HOME/.cache/moe-deps}/$p/bin/python tokenizer_settings_oracle.py FILE; done

Writes FILE, tests/testing/fixtures/tokenizer_settings.json: the first run makes it, the second adds its own answers. Each case has a
folder of fixtures that it starts from, the files beside it, texts, and per line of transformers ("4", "5"): ids of each text with
what the tokenizer adds, bos, eos. The C++ test of the same name reads it.
"""
import json
import os
import pathlib
import shutil
import sys
import tempfile

import transformers
from transformers import AutoTokenizer

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "testing/fixtures"
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
TEXTS = ["Once upon a time", "<|im_start|>user\nOnce<|im_end|>\n", " <|im_start|> user Once <|im_end|> upon", "a<s>b</s>c <unk> d",
         "upon zzz Once upon, uponupon upon", "<|im_end|>", "", "  two  spaces ", "\u2581x\u2581 y", "<pad>q<|x|>", "zzz<|im_end|>\n <|im_start|>", " <s>a"]


def added(content, special=True, **flags):
    return {"content": content, "lstrip": False, "normalized": not special, "rstrip": False, "single_word": False, "special": special, **flags}


def sentencepiece_cases():
    """Name, files beside tokenizer.model of stories260k (512 pieces)."""
    base = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    marks = {"512": added("<|im_start|>"), "513": added("<|im_end|>")}
    json_marks = {"<|im_start|>": 512, "<|im_end|>": 513}
    chat = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}

    def config(**values):
        return {CONFIG: {**base, **values}}

    yield "no_files", {}
    yield "config", config()
    yield "no_bos", config(add_bos_token=False)
    yield "eos_behind", config(add_eos_token=True)
    yield "decoder", config(eos_token="<|im_end|>", added_tokens_decoder=marks)
    yield "decoder_not_legacy", config(legacy=False, eos_token="<|im_end|>", added_tokens_decoder=marks)
    yield "decoder_not_legacy_additional", config(legacy=False, added_tokens_decoder=marks, **chat)
    yield "json", {**config(), ADDED: json_marks}
    yield "json_not_legacy", {**config(legacy=False), ADDED: json_marks}
    yield "json_and_roles", {**config(**chat), ADDED: json_marks}
    yield "json_and_map", {**config(), ADDED: json_marks, MAP: chat}
    yield "map_alone", {MAP: {"eos_token": "<|im_end|>", "bos_token": added("<s>")}}
    yield "map_before_config", {**config(), MAP: {"eos_token": "<|im_end|>"}}
    yield "map_not_beside_a_decoder", {**config(added_tokens_decoder=marks), MAP: {"eos_token": "<|im_end|>"}}
    yield "roles_without_ids", config(pad_token="<pad>", eos_token="<|im_end|>", additional_special_tokens=["<|x|>", "<|im_start|>"])
    yield "ids_with_holes", config(added_tokens_decoder={"600": marks["512"], "513": marks["513"]}, pad_token="<pad>")
    yield "ids_of_pieces", config(added_tokens_decoder={"0": added("<unk>"), "1": added("<s>"), "2": added("</s>"), "300": added("zzz")})
    yield "not_special", config(added_tokens_decoder={"512": added("user", False), "513": added("<|im_end|>", False, lstrip=True, rstrip=True)})
    yield "not_special_not_legacy", config(legacy=False, added_tokens_decoder={"512": added("user", False), "513": added("<|im_end|>", False, lstrip=True, rstrip=True)})
    yield "stripping", config(legacy=False, added_tokens_decoder={"512": added("<|im_start|>", rstrip=True), "513": added("<|im_end|>", lstrip=True)}, **chat)
    yield "no_prefix", config(legacy=False, add_prefix_space=False)
    yield "no_prefix_legacy", config(legacy=True, add_prefix_space=False)
    yield "role_as_object", config(eos_token={"__type": "AddedToken", **added("<|im_end|>")})


def json_cases(end):
    """Name, files beside a tokenizer.json of `end` tokens."""
    base = {"tokenizer_class": "PreTrainedTokenizerFast"}
    marks = {str(end): added("<|im_start|>"), str(end + 1): added("<|im_end|>")}
    json_marks = {"<|im_start|>": end, "<|im_end|>": end + 1}

    def config(**values):
        return {CONFIG: {**base, **values}}

    yield "config", config()
    for flag in ("add_bos_token", "add_eos_token"):
        for value in (True, False):
            yield f"{flag}_{value}", config(**{flag: value})
            yield f"{flag}_{value}_llama", config(tokenizer_class="LlamaTokenizerFast", bos_token="<s>", eos_token="</s>", **{flag: value})
    yield "decoder", config(eos_token="<|im_end|>", added_tokens_decoder=marks)
    yield "json", {**config(), ADDED: json_marks}
    yield "json_and_role", {**config(eos_token="<|im_end|>"), ADDED: json_marks}
    yield "map_alone", {MAP: {"eos_token": "<|im_end|>"}, CONFIG: base}
    yield "map_before_config", {**config(eos_token="<|im_start|>", added_tokens_decoder={}), MAP: {"eos_token": "<|im_end|>"}}
    yield "map_not_beside_a_decoder", {**config(eos_token="<|im_start|>", added_tokens_decoder=marks), MAP: {"eos_token": "<|im_end|>"}}
    yield "map_before_config_without_decoder", {**config(eos_token="<|im_start|>"), MAP: {"eos_token": "<|im_end|>"}}
    yield "roles_without_ids", config(pad_token="<pad>", eos_token="<|im_end|>", additional_special_tokens=["<|x|>", "<|im_start|>"])
    yield "extra_object", config(extra_special_tokens={"image_token": "<|im_start|>"})
    yield "ids_with_holes", config(added_tokens_decoder={str(end + 8): marks[str(end)], str(end + 1): marks[str(end + 1)]})
    yield "a_piece", config(added_tokens_decoder={"7": added("upon", False), "8": added("zzz", False)})
    yield "stripping_role", config(eos_token={"__type": "AddedToken", **added("<|im_end|>", normalized=True, rstrip=True)})
    yield "null", config(eos_token=None)


def cases():
    for name, files in sentencepiece_cases():
        yield "stories260k", name, files
    for family in ("llama3", "smollm2"):
        folder = FIXTURES / "tokenizers" / family
        document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        end = 1 + max([*document["model"]["vocab"].values(), *(token["id"] for token in document["added_tokens"])])
        for name, files in json_cases(end):
            yield "tokenizers/" + family, name, files


def answer(folder, files):
    with tempfile.TemporaryDirectory() as out:
        for name in ("tokenizer.json", "tokenizer.model"):
            if (FIXTURES / folder / name).exists():
                shutil.copy(FIXTURES / folder / name, out)
        pathlib.Path(out, "config.json").write_text(json.dumps({"model_type": "llama"}))
        for name, content in files.items():
            pathlib.Path(out, name).write_text(json.dumps(content))
        try:
            tokenizer = AutoTokenizer.from_pretrained(out, use_fast=not os.path.exists(out + "/tokenizer.model"))
            return {"ids": [tokenizer(text)["input_ids"] for text in TEXTS], "bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
        except Exception as error:  # whatever it raises: it does not load
            return {"error": str(error)[:100]}


def main():
    transformers.logging.set_verbosity_error()
    out, line = pathlib.Path(sys.argv[1]), transformers.__version__.split(".")[0]
    document = json.loads(out.read_text()) if out.exists() else {"texts": TEXTS, "cases": {}}
    document[f"transformers_{line}"] = transformers.__version__
    for folder, name, files in cases():
        if folder == "stories260k" and line != "4":
            continue
        entry = document["cases"].setdefault(f"{folder}/{name}", {"folder": folder, "files": files})
        entry[line] = answer(folder, files)
    lines = [json.dumps(key) + ": " + json.dumps(document[key]) for key in document if key != "cases"]
    rows = ",\n".join(json.dumps(key) + ": " + json.dumps(value) for key, value in document["cases"].items())
    out.write_text("{" + ",\n".join(lines) + ',\n"cases": {\n' + rows + "\n}}\n")


if __name__ == "__main__":
    main()
