#!/usr/bin/env python3
"""Lines of the decoder that were run, from `llvm-cov export` (scripts/coverage): python3 decoder.py < export.json

The decoder is what PacketCodec::decode calls; the crate also encodes, compares and prints. A function that stands once for
each type (what a macro or a generic wrote) counts its lines once, run if any of them ran it; that each type's own was run
is counted beside. Exit code 1: less than 95 % of the lines, or a type that was never read.
"""

import json
import re
import sys

# In mangled names: the codec, the head, bodies by kind, every type's `Wire::take` and what these call.
DECODER = re.compile(
    r"11PacketCodec(6stream|8datagram|6packet)$|codec7decoder7Decoder\w*(6decode|10decode_eof)$|4Head4read$|9take_body$"
    r"|4wire4Wire4take|NtB\w*4Wire4take|4wire(4text)?1\dtake_|4wireNtB\w*5Input|From[ht]E4from$|8Unlisted3new$"
)
CODE, GAP = 0, 3


def lines_of(function):
    """{line: run}, from a function's regions: the innermost region that covers a line's code says."""
    regions = sorted((r for r in function["regions"] if r[7] == CODE), key=lambda r: (r[2] - r[0], r[3] - r[1]))
    lines = {}
    for first, _, last, _, count, *_ in reversed(regions):
        for line in range(first, last + 1):
            lines[line] = count > 0
    # Stricter than llvm-cov's own count: a line on which something was not run, such as the way out of a `?`, is not run.
    for first, _, last, _, count, *_ in regions:
        if count == 0:
            lines.update({line: False for line in range(first, last + 1)})
    return lines


def main():
    files, types, unread = {}, 0, []
    for function in json.load(sys.stdin)["data"][0]["functions"]:
        name, (path, *_) = function["name"], function["filenames"]
        # Not what another crate's own generic made: it is no decoder of packets.
        if "/protocol/src/" not in path or not DECODER.search(name) or not re.search(r"15remeet_protocol", name):
            continue
        file = files.setdefault(path.split("/protocol/src/")[1], {})
        for line, run in lines_of(function).items():
            file[line] = file.get(line, False) or run
        if re.search(r"Wire4take(B\w*_)?$", name):
            types += 1
            if function["count"] == 0:
                unread.append(name)
    run = sum(sum(lines.values()) for lines in files.values())
    all_lines = sum(map(len, files.values()))
    for file, lines in sorted(files.items()):
        missed = [str(line) for line, was_run in sorted(lines.items()) if not was_run]
        print(f"{file:24} {sum(lines.values()):4} of {len(lines):4} lines  {'not run: ' + ', '.join(missed) if missed else ''}")
    part = run / all_lines
    print(f"the decoder: {run} of {all_lines} lines, {part:.1%}; {types - len(unread)} of {types} types were read")
    for name in unread:
        print(f"  never read: {name}")
    return 0 if part >= 0.95 and not unread else 1


sys.exit(main())
