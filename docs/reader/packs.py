"""Packs of segments and the floors that tell of them: docs/format.md."""

import bisect
import hmac
import json

import cbor
import keys
from keys import Damaged, h

MAX_INDEX = 8 << 20
ZERO = bytes(32)


class Floor:
    """What is in packs, and where the log begins."""

    def __init__(self, bucket, partition):
        self.packed, self.start, self.start_hash = 0, 0, ZERO
        key = "floor/%02x" % partition
        if not bucket.has(key):
            return
        try:
            f = json.loads(bucket.get(key))
            text = [bucket.log.hex(), "%02x" % partition, str(f["packed"]), f["hash"], str(f["start"]), f["start_hash"]]
            text += ["%d %s" % (m["packed"], m["at"]) for m in f["marks"]]
            want = keys.mac(bucket.root.local_key("floor"), "\n".join(text).encode()).hex()
            if not hmac.compare_digest(f["mac"], want):
                raise Damaged("%s: the MAC is another" % key)
            self.packed, self.start, self.start_hash = f["packed"], f["start"], bytes.fromhex(f["start_hash"])
        except (ValueError, KeyError, TypeError) as e:
            raise Damaged("%s: not what it should be" % key) from e


class Pack:
    """A pack whose index was read."""

    def __init__(self, bucket, partition, name):
        self.key = "pack/%02x/%s" % (partition, name)
        last, first, digest = name.split("-")
        self.first, self.last = int(first), int(last)
        self.raw = bucket.get(self.key)
        end = 12 + int.from_bytes(self.raw[8:12], "big")
        if self.raw[:8] != b"HFPAK\0\0\1" or end - 12 > MAX_INDEX or end > len(self.raw):
            raise Damaged("%s: no pack of version 1" % self.key)
        if h(self.raw[12:end])[:16].hex() != digest:
            raise Damaged("%s: not the index of its name" % self.key)
        try:
            index = cbor.decode(self.raw[12:end])
            if (index[1], index[2], index[3]) != (bucket.log, partition, self.first):
                raise Damaged("%s: a pack of another place" % self.key)
            self.entries = index[4]
            fronts, bodies = [end], []
            for _, front, _, _ in self.entries:
                fronts.append(fronts[-1] + front)
            bodies.append(fronts[-1])
            for _, _, body, _ in self.entries:
                bodies.append(bodies[-1] + body)
        except (cbor.Malformed, LookupError, TypeError, ValueError) as e:
            raise Damaged("%s: an index that is none: %r" % (self.key, e)) from e
        if len(self.entries) != self.last - self.first + 1 or bodies[-1] != len(self.raw):
            raise Damaged("%s: longer or shorter than its index says" % self.key)
        self.fronts, self.bodies = fronts, bodies

    def segment(self, seq):
        """The bytes of a segment that are there, and the day before which parts are
        left out."""
        n = seq - self.first
        return self.raw[self.fronts[n]:self.fronts[n + 1]] + self.raw[self.bodies[n]:self.bodies[n + 1]], self.entries[n][3]


class Packs:
    """The packs of a partition. One is held in memory at a time."""

    def __init__(self, bucket, partition, found):
        self.bucket, self.partition, self.found = bucket, partition, found
        self.names, self.open = [], None
        for name in bucket.names("pack/%02x" % partition):
            parts = name.split("-")
            if len(parts) == 3 and all(len(p) == 20 and p.isdecimal() for p in parts[:2]) and 0 < int(parts[1]) <= int(parts[0]):
                self.names.append((int(parts[0]), int(parts[1]), name))
            else:
                found("pack/%02x/%s: no pack's name" % (partition, name))
        self.names.sort()

    def segment(self, seq):
        """As Pack.segment, of a pack that has it; None where none has."""
        if self.open and self.open.first <= seq <= self.open.last:
            return self.open.segment(seq)
        for last, first, name in self.names[bisect.bisect_left(self.names, (seq, 0, "")):]:
            if first <= seq:
                try:
                    self.open = Pack(self.bucket, self.partition, name)
                    return self.open.segment(seq)
                except Damaged as e:
                    self.found(str(e))
                    self.names.remove((last, first, name))
                    return self.segment(seq)
        return None
