#!/usr/bin/env python3
"""Reads the golden packets with the field tables of SPEC.md and nothing of the Rust code.

    python3 check.py            check everything; exit 1 and say what is wrong
    python3 check.py --write    write each file's field comments anew, then check
    python3 check.py --show F   print the packet in file F field by field

Checked: the frame (P-1 to P-6), the CRC with zlib, that every body is exactly the fields of its table,
the tables' offsets, the message numbers, the digest of the pulled leg and vectors.txt with hashlib and
hmac, and that the comments in the files are those that this script would write.
"""
import hashlib
import hmac
import pathlib
import re
import sys
import zlib

sys.dont_write_bytecode = True

HERE = pathlib.Path(__file__).resolve().parent
SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "bool": 1, "id": 16, "digest": 16}
KINDS = {1: "LegRow", 2: "TerminalRow", 3: "WindowRow", 4: "EntryRow"}
KEYS = {1: [], 2: ["text(32)"], 3: ["text(32)", "u8"], 4: ["text(32)", "text(64)"]}
FRAME = [("destination", 8), ("source", 8), ("reserved", 2), ("version", 1), ("flags", 1), ("message type", 2),
         ("body length", 2), ("hops", 1), ("reserved", 1), ("session", 8), ("request", 8), ("index", 4), ("reserved", 4)]


class Wrong(Exception):
    pass


class Spec:
    """Structures, enumerations, operations and message numbers, as SPEC.md has them."""

    def __init__(self, text):
        self.structs, self.enums, self.ops, self.messages, self.offsets = {}, {}, {}, {}, {}
        self.listed = dict((name, int(number, 16)) for number, name in
                           re.findall(r"^\| (0x[0-9A-F]{4}) \| (\w+) \|", text, re.M))
        name, columns = None, []
        for line in text.splitlines():
            heading = re.match(r"#### `(\w+)`(?: (0x[0-9A-F]{4}))?$", line)
            if heading:
                name = heading[1]
                self.structs.setdefault(name, [])
                if heading[2]:
                    self.messages[int(heading[2], 16)] = name
            elif line.startswith("#"):
                name = None
            if not name or not line.startswith("|"):
                columns = [] if not line.startswith("|") else columns
                continue
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not columns:
                columns = cells
            elif set(cells[0]) <= {"-"}:
                continue
            elif columns[:3] == ["offset", "field", "type"]:
                self.structs[name].append((cells[1], cells[2]))
                self.offsets.setdefault(name, []).append(cells[0])
            elif columns[:2] == ["value", "name"]:
                self.enums.setdefault(name, {})[int(cells[0])] = cells[1]
            elif columns[:2] == ["op", "name"]:
                self.ops.setdefault(name, {})[int(cells[0])] = (cells[1], cells[2])
        for name in self.enums:
            del self.structs[name]

    def size(self, kind):
        """Bytes of a type of fixed size, else None."""
        if kind in SIZES:
            return SIZES[kind]
        if kind in self.enums:
            return 1
        sized = re.fullmatch(r"bytes\((\d+)\)", kind)
        if sized:
            return int(sized[1])
        if kind in self.structs:
            sizes = [self.size(field) for _, field in self.structs[kind]]
            return None if None in sizes else sum(sizes)
        return None

    def check_tables(self):
        if {name: number for number, name in self.messages.items()} != self.listed:
            raise Wrong("SPEC.md: the message table and the headings differ: %s" %
                        (set(self.listed.items()) ^ {(n, k) for k, n in self.messages.items()}))
        for name, offsets in self.offsets.items():
            at = 0
            for (field, kind), said in zip(self.structs[name], offsets):
                if said != ("…" if at is None else str(at)):
                    raise Wrong(f"SPEC.md: {name}.{field} is said to stand at {said}, it stands at {at}")
                size = self.size(kind)
                at = None if at is None or size is None else at + size


class Reader:
    """Walks a body by a type; notes each leaf as (bytes, name, value)."""

    def __init__(self, spec, body):
        self.spec, self.body, self.at, self.leaves = spec, body, 0, []

    def bytes(self, count, path, show=None):
        piece = self.body[self.at:self.at + count]
        if len(piece) != count:
            raise Wrong(f"{path} needs {count} bytes, {len(piece)} are left")
        self.at += count
        self.leaves.append((piece, path, show(piece) if show else piece.hex()))
        return piece

    def number(self, count, path):
        return int.from_bytes(self.bytes(count, path, lambda b: str(int.from_bytes(b, "big"))), "big")

    def read(self, kind, path, message=None):
        spec = self.spec
        if kind == "op":
            number = self.body[self.at]
            name, struct = spec.ops[message][number]
            self.bytes(1, path, lambda b: f"{b[0]} {name}")
            if struct:
                self.read(struct, path)
        elif kind == "Change":
            self.change(path)
        elif kind in spec.structs:
            for field, inner in spec.structs[kind]:
                self.read(inner, f"{path}.{field}" if path else field, message or kind)
        elif kind in spec.enums:
            names = spec.enums[kind]
            self.bytes(1, path, lambda b: f"{b[0]} {names.get(b[0], '(a later version)')}")
        elif kind == "bool":
            if self.number(1, path) > 1:
                raise Wrong(f"{path} is neither 0 nor 1")
        elif kind in ("u8", "u16", "u32", "u64"):
            self.number(SIZES[kind], path)
        elif kind in ("id", "digest"):
            self.bytes(16, path)
        else:
            name, argument = re.fullmatch(r"(\w+)\((.*)\)", kind).groups()
            getattr(self, "take_" + name)(argument, path)

    def take_bytes(self, count, path):
        self.bytes(int(count), path)

    def take_text(self, most, path):
        length = self.limited(most, path)
        value = self.bytes(length, path, lambda b: repr(b.decode("utf-8")))
        if 0 in value:
            raise Wrong(f"{path} holds U+0000")

    def take_blob(self, most, path):
        self.bytes(self.limited(most, path), path)

    def limited(self, most, path):
        length = self.number(2, path + " length")
        if length > int(most):
            raise Wrong(f"{path} has {length} bytes, at most {most} are allowed")
        return length

    def take_option(self, inner, path):
        flag = self.number(1, path + " is there")
        if flag > 1:
            raise Wrong(f"{path}: option flag {flag}")
        if flag:
            self.read(inner, path)

    def take_list(self, inner, path):
        for place in range(self.number(2, path + " count")):
            length = self.number(2, f"{path}[{place}] length")
            end = self.at + length
            self.read(inner, f"{path}[{place}]")
            if self.at != end:
                raise Wrong(f"{path}[{place}] has {length} bytes, its fields end at {self.at - end:+}")

    def change(self, path):
        self.number(8, path + ".revision")
        kind = self.body[self.at]
        what = KINDS[kind & 0x7F] + (" removed" if kind & 0x80 else "")
        self.bytes(1, path + ".kind", lambda b: f"{b[0]:#04x} {what}")
        end = self.number(2, path + ".length") + self.at
        start = self.at
        if kind & 0x80:
            for key in KEYS[kind & 0x7F]:
                self.read(key, path + ".key")
        else:
            self.read(KINDS[kind], path)
        if self.at != end:
            raise Wrong(f"{path}: the record ends at {self.at}, its length says {end}")
        self.canonical = getattr(self, "canonical", [])
        if not kind & 0x80:
            self.canonical.append(bytes([kind]) + self.body[start:end])


def packet_of(text):
    return bytes.fromhex("".join(line.split("#")[0] for line in text.splitlines()))


def about(text):
    return [line for line in text.splitlines() if line.startswith("#")]


def frame(packet):
    """The head's fields by name, and the lines that show them."""
    lines, fields, at = [], {}, 0
    for name, count in FRAME:
        piece = packet[at:at + count]
        at += count
        if piece:
            number = int.from_bytes(piece, "big")
            hexadecimal = count == 8 or name in ("version", "message type")
            lines.append((piece, name, f"{number:#0{2 * count + 2}x}" if hexadecimal else str(number)))
        fields[name] = int.from_bytes(piece, "big")
    return fields, lines


def annotated(spec, path, good):
    """(what the file should hold, the body's reader); for a bad packet its body is shown as it is."""
    text = path.read_text()
    packet = packet_of(text)
    fields, lines = frame(packet)
    reader = None
    if good:
        if packet[25:26] + packet[16:18] + packet[46:50] != bytes(7) or fields["version"] != 0x20:
            raise Wrong("reserved bytes or version")
        if len(packet) != 54 + fields["body length"] or len(packet) > 1078:
            raise Wrong("the body length does not fit the packet")
        if zlib.crc32(packet[:-4]) != int.from_bytes(packet[-4:], "big"):
            raise Wrong("the CRC is not zlib's")
        reader = Reader(spec, packet[50:-4])
        name = spec.messages[fields["message type"]]
        reader.read(name, "")
        if reader.at != len(reader.body):
            raise Wrong(f"{name}: {len(reader.body) - reader.at} bytes beyond the fields")
        lines += reader.leaves
    elif packet[50:-4]:
        lines.append((packet[50:-4], "body", "not read here"))
    if len(packet) > 50:
        whole = len(packet) == 54 + fields["body length"]
        lines.append((packet[-4:], "CRC" if whole else "last bytes", packet[-4:].hex()))
    return "\n".join(about(text)[:1] + [show(*line) for line in lines]) + "\n", reader


def show(piece, name, value):
    digits = piece.hex()
    if len(digits) <= 32:
        return f"{digits:<32}  # {name}: {value}".rstrip() if digits else f"{'':<32}  # {name}: {value}"
    rows = [digits[at:at + 64] for at in range(0, len(digits), 64)]
    return "\n".join([f"{'':<32}  # {name}:" + (f" {value}" if value != digits else "")] + rows)


def sections(text):
    for block in re.split(r"^\[", text, flags=re.M)[1:]:
        name, _, rest = block.partition("]")
        pairs = [line.split(" ", 1) for line in rest.splitlines() if " " in line and not line.startswith("#")]
        yield name, dict(pairs)


def check_vectors(text):
    """CRC, parts, sum and proof; gives the leg's digest."""
    total, count, digest = 0, 0, None
    for name, fields in sections(text):
        raw = {key: bytes.fromhex(value) for key, value in fields.items() if key != "count"}
        if name == "crc" and zlib.crc32(raw["bytes"]).to_bytes(4, "big") != raw["crc"]:
            raise Wrong("vectors.txt: crc")
        if name == "record":
            part = hashlib.sha256(raw["canonical"]).digest()[:16]
            if part != raw["part"]:
                raise Wrong("vectors.txt: part of " + fields["canonical"])
            total, count = (total + int.from_bytes(part, "big")) % 2**128, count + 1
        if name == "leg":
            digest = raw["digest"]
            if total.to_bytes(16, "big") != digest or count != int(fields["count"]):
                raise Wrong("vectors.txt: the leg's digest is not the sum of its parts")
        if name == "proof":
            claim = b"".join(raw[key] for key in ("server", "boot", "handle", "meeting", "leg", "epoch", "holder"))
            if len(claim) != 70 or hmac.new(raw["secret"], claim, hashlib.sha256).digest() != raw["proof"]:
                raise Wrong("vectors.txt: proof")
            proof = raw["proof"]
    return digest, proof


def check_world(readers, digest, proof):
    """What the packets say of one another: a pulled leg's records give its mark's digest."""
    parts = [hashlib.sha256(record).digest()[:16] for record in readers["32-pull-page-whole-leg"].canonical]
    total = sum(int.from_bytes(part, "big") for part in parts) % 2**128
    said = {name: value for _, name, value in readers["33-pull-end"].leaves}
    if said["upto.digest"] != f"{total:032x}" or total.to_bytes(16, "big") != digest or said["upto.count"] != str(len(parts)):
        raise Wrong("the digest of the pulled leg")
    if [value for _, name, value in readers["22-takeover"].leaves if name == "claims[0].proof"] != [proof.hex()]:
        raise Wrong("the proof of the takeover")


def main(arguments):
    spec = Spec((HERE.parent / "SPEC.md").read_text())
    if arguments[:1] == ["--show"]:
        print(annotated(spec, pathlib.Path(arguments[1]), True)[0])
        return 0
    wrong, readers = [], {}
    try:
        spec.check_tables()
    except Wrong as reason:
        wrong.append(str(reason))
    files = sorted(HERE.glob("*.hex")) + sorted(HERE.glob("bad/*.hex"))
    for path in files:
        try:
            text, reader = annotated(spec, path, path.parent == HERE)
            readers[path.stem] = reader
            if "--write" in arguments:
                path.write_text(text)
            elif text != path.read_text():
                wrong.append(f"{path.name}: its comments are old: check.py --write")
        except (Wrong, KeyError, ValueError, IndexError) as reason:
            wrong.append(f"{path.name}: {type(reason).__name__} {reason}")
    try:
        check_world(readers, *check_vectors((HERE / "vectors.txt").read_text()))
    except (Wrong, KeyError, AttributeError) as reason:
        wrong.append(f"{type(reason).__name__} {reason}")
    unseen = set(spec.messages) - {int.from_bytes(packet_of(path.read_text())[20:22], "big") for path in files}
    wrong += [f"no packet of {spec.messages[number]}" for number in sorted(unseen)]
    print("\n".join(wrong) or f"{len(files)} packets and the vectors agree with SPEC.md")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
