#!/usr/bin/env python3
"""Trains small tokenizers in the exact pipeline of each model family, since the originals may not be redistributed.

    PEERS=${MOE_DEPS:-$HOME/.cache/moe-deps}/peers/bin/python
    $PEERS tests/peer/make_tokenizers.py OUT_FOLDER [FAMILY ...] [--vocabulary 900]

Writes OUT_FOLDER/FAMILY/tokenizer.json. The text is that of examples/data and a few lines in other languages. The files that the
tests keep under tests/testing/fixtures/tokenizers were made by this script.
"""
import argparse
import json
import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[2]
SPACE = "\u2581"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LANGUAGES = ["été Straße ñandú", "привет мир, как дела", "你好世界 你好", "こんにちは 世界", "한국어 세계", "שלום עולם", "مرحبا بالعالم",
             "हिन्दी की दुनिया", "🦙🎉 🦙", "e\u0301 o\u0308 Å", "x1 = foo_bar(3.14)  # don't", "\t\tif (a == b) {\n\t\t}\n", "    return  x\n\n\n"]


def corpus():
    texts = LANGUAGES * 20
    for name in ("books", "general", "maths", "code"):
        with open(ROOT / f"examples/data/{name}.valid.jsonl", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                text = record["text"] if "text" in record else "\n".join(m["content"] for m in record["messages"])
                texts.append(text[:4000])
    return texts


def special(text):
    return AddedToken(text, special=True, normalized=False)


def picky():
    """Added tokens that reach every rule: they swallow spaces, want to stand alone, overlap, are normalised."""
    return [AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
            AddedToken("<both>", lstrip=True, rstrip=True, special=True, normalized=False), AddedToken("cat", single_word=True, normalized=False),
            AddedToken("dog", single_word=True, lstrip=True, normalized=True), AddedToken("<|x|>", normalized=False),
            AddedToken("<|x|>>", normalized=False), AddedToken("<|x|>>>>", special=True, normalized=False), AddedToken("é", normalized=True),
            AddedToken("   ", normalized=True), AddedToken("\n\n", rstrip=True, normalized=False), AddedToken("new york", normalized=True)]


def train(size, specials, pre_tokenizer, normalizer=None, alphabet=(), **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=list(alphabet), show_progress=False,
                                  limit_alphabet=420)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def sentencepiece_like(size, fallback=True, **model):
    """Vocabulary as of a converted SentencePiece model: <unk>, <s>, </s>, bytes; runs of spaces are pieces, too."""
    tokenizer = train(size, ["<unk>", "<s>", "</s>"] + (BYTES if fallback else []), pre_tokenizers.Split(Regex(f"{SPACE}*[^{SPACE}]*"), "isolated"),
                      normalizers.Replace(" ", SPACE), unk_token="<unk>", byte_fallback=fallback, **model)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # bytes are tokens of the model alone
    state["normalizer"] = state["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(state))


def sentencepiece_decoder():
    return decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def begin_with(tokenizer, token):
    return processors.TemplateProcessing(single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, tokenizer.token_to_id(token))])


def llama2(size):
    tokenizer = sentencepiece_like(size, fuse_unk=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = sentencepiece_decoder()
    tokenizer.post_processor = begin_with(tokenizer, "<s>")
    return tokenizer


def llama2_first(size):
    tokenizer = sentencepiece_like(size, fuse_unk=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", split=False)
    tokenizer.decoder = sentencepiece_decoder()
    tokenizer.post_processor = begin_with(tokenizer, "<s>")
    tokenizer.add_tokens(picky())
    return tokenizer


def metaspace_always(size):
    tokenizer = sentencepiece_like(size, fallback=False, fuse_unk=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "always", split=True)
    tokenizer.decoder = decoders.Metaspace(SPACE, "always", split=True)
    tokenizer.add_tokens(picky())
    return tokenizer


def metaspace_never(size):
    tokenizer = sentencepiece_like(size, fallback=False, fuse_unk=False)
    tokenizer.normalizer = normalizers.Replace("\n", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("-", "merged_with_previous"), pre_tokenizers.Split("q", "contiguous"),
                                                       pre_tokenizers.Split("=", "removed"), pre_tokenizers.Digits(individual_digits=False),
                                                       pre_tokenizers.Metaspace(SPACE, "never", split=True)])
    tokenizer.decoder = decoders.Metaspace(SPACE, "never", split=True)
    tokenizer.add_tokens(picky())
    return tokenizer


def llama3(size):
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(False, trim_offsets=True, use_regex=False)])
    tokenizer = train(size, [], split, alphabet=pre_tokenizers.ByteLevel.alphabet(), ignore_merges=True)
    tokenizer.add_special_tokens([special(f"<|{name}|>") for name in ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id")])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), begin_with(tokenizer, "<|begin_of_text|>")])
    return tokenizer


def qwen2(size):
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(False, trim_offsets=False, use_regex=False)])
    tokenizer = train(size, [], split, normalizers.NFC(), pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens([special(f"<|{name}|>") for name in ("endoftext", "im_start", "im_end")])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False), AddedToken("e\u0301tat", normalized=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    return tokenizer


def phi2(size):
    tokenizer = train(size, [], pre_tokenizers.ByteLevel(False, trim_offsets=True, use_regex=True), alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens([special("<|endoftext|>")])
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(31, 1, -1)] + [AddedToken("\t" * n, normalized=True) for n in range(9, 1, -1)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    return tokenizer


def gpt2_prefix(size):
    tokenizer = train(size, [], pre_tokenizers.ByteLevel(True, trim_offsets=True, use_regex=True), alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens([special("<|endoftext|>")])
    tokenizer.add_tokens(picky())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    return tokenizer


def smollm2(size):
    """As the original, without tokens for bytes that its text did not have: they vanish."""
    split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False, trim_offsets=True, use_regex=True)])
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>"]
    tokenizer = train(size, [special(name) for name in names], split)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


FAMILIES = {name: function for name, function in globals().items()
            if name in ("llama2", "llama2_first", "metaspace_always", "metaspace_never", "llama3", "qwen2", "phi2", "gpt2_prefix", "smollm2")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--vocabulary", type=int, default=900)
    arguments = parser.parse_args()
    for name in arguments.families:
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        # One entry a line as the library writes it, without the indentation.
        (folder / "tokenizer.json").write_text(re.sub(r"\n +", "\n", FAMILIES[name](arguments.vocabulary).to_str(pretty=True)), encoding="utf-8")


if __name__ == "__main__":
    main()
