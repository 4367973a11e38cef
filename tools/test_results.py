#!/usr/bin/env python3
"""What CTest runs came to: skipped cases with their reasons, the slowest tests, and how many cases passed, failed or were skipped.

    python3 tools/test_results.py build/release build/asan build/fuzz     of these build folders' last runs
    python3 tools/test_results.py --self-test

Reads BUILD-tests.log beside each folder (CTest's own lines, of deploy/test.sh) and Testing/Temporary/LastTest.log in it (what tests
wrote). A test of several GoogleTest cases counts as those; one that ended without saying which case failed counts as one more failure;
any other test is one case. Exit 1 if a case failed or none ran.
"""
import re
import sys
import tempfile
from pathlib import Path

SLOWEST = 10
CASE = re.compile(r"^\[ +(OK|SKIPPED|FAILED) +\] ([^ ,]+).* \(\d+ ms\)$")
STATUS = re.compile(r"^ *\d+/\d+ Test +#\d+: (.+?) \.+(?: +(Passed)|\*\*\*(.+?)) +([0-9.]+) sec")


def cases_of(log):
    """{test: [(outcome, case, reason)]} of a LastTest.log."""
    found, test, reason, inside = {}, None, [], False
    for line in log.read_text(errors="replace").splitlines():
        if match := re.match(r"\d+/\d+ Test: (.*)", line):
            test, reason, inside = match[1].strip(), [], False
        elif re.match(r".*: Skipped$", line):
            reason, inside = [], True
        elif (match := CASE.match(line)) and test is not None:
            found.setdefault(test, []).append((match[1], match[2], " ".join(reason)))
            reason, inside = [], False
        elif inside and line.strip() and not line.startswith("["):
            reason.append(line.strip())
    return found


def results(folders):
    """(outcomes "OK" | "SKIPPED" | "FAILED" with case and reason, (seconds, test) of all tests)."""
    outcomes, times = [], []
    for folder in folders:
        lines, log = folder.with_name(folder.name + "-tests.log"), folder / "Testing/Temporary/LastTest.log"
        statuses = {}  # of two binaries' tests of one name, both
        for line in lines.read_text(errors="replace").splitlines() if lines.is_file() else []:
            if match := STATUS.match(line):
                name, is_passed, otherwise, seconds = match.groups()
                statuses.setdefault(name, []).append("OK" if is_passed else "SKIPPED" if otherwise == "Skipped" else "FAILED")
                times.append((float(seconds), name))
        cases = cases_of(log) if log.is_file() else {}
        for name, of_name in statuses.items():
            of_test = cases.get(name, [])
            if "FAILED" not in of_name:  # what a passing test made fail on purpose
                of_test = [case for case in of_test if case[0] != "FAILED"]
            outcomes += of_test or [(status, name, "") for status in of_name]
            if of_test and "FAILED" in of_name and not any(outcome == "FAILED" for outcome, _, _ in of_test):
                outcomes.append(("FAILED", name, ""))
    return outcomes, times


def report(folders):
    outcomes, times = results(folders)
    skipped = [(case, reason) for outcome, case, reason in outcomes if outcome == "SKIPPED"]
    if skipped:
        print("\nSkipped, and why (bash deploy/test.sh -R NAME shows more):")
        for case, reason in skipped:
            print(f"  {case}: {reason or 'no reason given'}")
    print("\nThe slowest tests, in seconds:")
    for seconds, name in sorted(times, reverse=True)[:SLOWEST]:
        print(f"{seconds:8.1f}  {name}")
    count = {name: sum(outcome == name for outcome, _, _ in outcomes) for name in ("OK", "FAILED", "SKIPPED")}
    print(f"{count['OK']} passed, {count['FAILED']} failed, {count['SKIPPED']} skipped")
    return 0 if outcomes and not count["FAILED"] else 1


def self_test():
    lines = """      Start  1: plain
 1/6 Test #11: plain ...................................   Passed    0.10 sec
 2/6 Test #12: All/SuiteTest.1_of_2 ....................   Passed    9.50 sec
 3/6 Test #13: OtherTest/2  # GetParam() = 8-byte object <FA-5D> ...........................***Failed    0.30 sec
 4/6 Test #14: CrashTest ...............................***Exception: SegFault  0.00 sec
 5/6 Test  #5: missing .................................***Not Run   0.00 sec
 6/6 Test #16: CardTest.Runs ...........................***Skipped   0.40 sec
"""
    log = """1/6 Test: plain
<end of output>
2/6 Test: All/SuiteTest.1_of_2
[       OK ] All/SuiteTest.Adds/llama, where GetParam() = 3 (3 ms)
a.cc:7: Skipped
it has
no width
[  SKIPPED ] All/SuiteTest.Adds/phi (0 ms)
[  FAILED  ] AChild.OfIt (1 ms)
[       OK ] All/SuiteTest.Adds/qwen (1 ms)
[----------] 3 tests from All/SuiteTest (4 ms total)
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] All/SuiteTest.Adds/phi
3/6 Test: OtherTest/2  # GetParam() = 8-byte object <FA-5D>
[       OK ] OtherTest.One (3 ms)
[  FAILED  ] OtherTest.Two, where GetParam() = "x" (3 ms)
[  FAILED  ] 1 test, listed below:
4/6 Test: CrashTest
[       OK ] CrashTest.One (3 ms)
[ RUN      ] CrashTest.Two
4/6 Test: CardTest.Runs
b.cc:9: Skipped
no card
[  SKIPPED ] CardTest.Runs (0 ms)
"""
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder) / "release"
        (build / "Testing/Temporary").mkdir(parents=True)
        (build / "Testing/Temporary/LastTest.log").write_text(log)
        build.with_name("release-tests.log").write_text(lines)
        outcomes, times = results([build, Path(folder) / "asan"])
    count = {name: sum(outcome == name for outcome, _, _ in outcomes) for name in ("OK", "FAILED", "SKIPPED")}
    assert count == {"OK": 5, "FAILED": 3, "SKIPPED": 2}, outcomes
    assert ("SKIPPED", "All/SuiteTest.Adds/phi", "it has no width") in outcomes and ("SKIPPED", "CardTest.Runs", "no card") in outcomes
    assert max(times) == (9.5, "All/SuiteTest.1_of_2") and len(times) == 6
    print("test_results: 10 cases counted, 2 reasons found")


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        self_test()
    elif len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if len(sys.argv) == 2 else 64)
    else:
        sys.exit(report([Path(folder) for folder in sys.argv[1:]]))
