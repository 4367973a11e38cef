"""The file that an oracle leaves for the tests: little-endian, read by tests/testing/oracle_vectors.h. Imported by the oracles."""
import argparse
import sys
from array import array
from itertools import accumulate


def byte_offsets(text):
    """Byte offset of each character, and of the end."""
    if text.isascii():
        return None
    return [0, *accumulate(1 if c < "\x80" else 2 if c < "\u0800" else 3 if c < "\U00010000" else 4 for c in text)]


class OracleFile:
    """Blocks: 'E' text, modes with ids and offsets in bytes; 'D' ids and what they decode to."""

    def __init__(self, path):
        assert sys.byteorder == "little"
        self.file = open(path, "wb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.write(b"Z")
        self.file.close()

    def text(self, text):
        data = text.encode()
        self.file.write(array("I", [len(data)]).tobytes() + data)

    def encoding(self, kind, text, ids, offsets, in_bytes=False):
        """`kind`: b"T" special tokens are text, b"P" they are parsed. `offsets` (in characters or bytes): begin, end, begin, end ..."""
        positions = None if in_bytes else byte_offsets(text)
        flat = array("I", offsets if positions is None else [positions[i] for i in offsets])
        self.file.write(kind)
        self.text(text)
        self.file.write(array("I", [len(ids)]).tobytes() + array("i", ids).tobytes() + flat.tobytes())

    def decoding(self, kind, ids, text):
        """`kind`: b"D" of all ids, b"S" without special tokens."""
        self.file.write(kind + array("I", [len(ids)]).tobytes() + array("i", ids).tobytes())
        self.text(text)


def oracle_arguments(description):
    """The command line of an oracle."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="the file to load")
    parser.add_argument("out", help="the file to write")
    parser.add_argument("--strings", type=int, default=200000, help="fuzzed strings")
    parser.add_argument("--text-bytes", type=int, default=10000000, help="bytes of real text, an equal share of each file")
    parser.add_argument("--text", nargs="*", default=[], help="JSONL files with the text")
    parser.add_argument("--no-ids", action="store_true", help="leave the text of every id out")
    parser.add_argument("--seed", type=int, default=20261124)
    return parser.parse_args()
