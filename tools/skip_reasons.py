#!/usr/bin/env python3
"""Prints one line per skipped GoogleTest case of a CTest log: its name and the reason it gave.

    python3 tools/skip_reasons.py build/release/Testing/Temporary/LastTest.log
"""
import re
import sys

if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
    print(__doc__)
    sys.exit(0 if len(sys.argv) == 2 else 64)

name, reason, inside = "", [], False
for line in open(sys.argv[1], errors="replace"):
    if match := re.match(r"\d+/\d+ Test: (.*)", line):
        name, reason, inside = match[1].strip(), [], False
    elif re.match(r".*: Skipped$", line):
        inside, reason = True, []
    elif inside and line.startswith("["):
        print(f"  {name}: {' '.join(reason) or 'no reason given'}")
        inside = False
    elif inside and line.strip():
        reason.append(line.strip())
