#!/usr/bin/env python3
"""Reads a Holdfast bucket with nothing but the bucket and the root key. It was
written from docs/format.md, docs/format-keys.md and docs/format-facts.md alone.

It verifies the bucket's description, every certificate, signature, hash and
commitment and the chain of every partition, opens every event, prints each as one
line of JSON, and writes the messages, byte for byte, to DIR. What is wrong goes to
standard error, and makes the exit status 1."""

import argparse
import json
import os
import sys

import bucket as buckets
import cbor
import checkpoints
import facts
import keys
import packs
from bucket import BODY, META, STATE
from keys import Damaged, h


class Reader:
    """One run over a bucket."""

    def __init__(self, bucket, out, raw):
        self.bucket, self.out, self.raw = bucket, out, raw
        self.segments = self.events = self.messages = self.expired = self.ended = self.damaged = 0

    def found(self, what):
        self.damaged += 1
        print("DAMAGED", what, file=sys.stderr)

    def run(self):
        for partition in range(self.bucket.partitions):
            try:
                floor = packs.Floor(self.bucket, partition)
            except Damaged as e:
                self.found(str(e))
                continue
            hashes = [None] * floor.start + [floor.start_hash]
            for segment in buckets.segments(self.bucket, partition, floor, self.found):
                hashes.append(segment.hash)
                self.segments += 1
                for i in range(len(segment.events)):
                    self.event(segment, i)
            checkpoints.check(self.bucket, partition, hashes, floor.start, self.found)

    def event(self, segment, i):
        at = "%02x/%d/%d" % (segment.partition, segment.seq, i)
        event_id, tenant, cls = segment.events[i][:3]
        line = {"at": at, "id": event_id.hex(), "tenant": tenant.hex(), "class": cls, "time": segment.time}
        self.events += 1
        try:
            plain = segment.open(i)
        except Damaged as e:
            self.found("%s: %s" % (at, e))
            return
        for role in (STATE, META, BODY):
            if isinstance(plain.get(role), Damaged):
                self.found("%s, %s: %s" % (at, {STATE: "state", META: "metadata", BODY: "body"}[role], plain[role]))
        if isinstance(plain[STATE], Damaged):
            return
        if plain[STATE] is None:
            line["ended"] = True
            self.ended += 1
            print(json.dumps(line))
            return
        try:
            self.fact(line, plain)
        except (cbor.Malformed, LookupError, TypeError, ValueError) as e:
            self.found("%s: a fact that is none: %r" % (at, e))
            return
        print(json.dumps(line))

    def kind(self, line, kind):
        if kind not in facts.KINDS:
            raise SystemExit("%s: kind %d was written by a newer version; nothing after it can be understood" % (line["at"], kind))
        return facts.KINDS[kind]

    def fact(self, line, plain):
        kind, fact = cbor.decode(plain[STATE])
        meta = cbor.decode(plain[META]) if isinstance(plain.get(META), bytes) else None
        name, fields, meta_fields = self.kind(line, kind)
        if kind == facts.KEPT:  # what it says of the message is what the first event says
            line.update(kind=name, kept=facts.named({k: v for k, v in fact.items() if fields.get(k) != "Was"}, fields))
            kind, fact = cbor.decode(fact[next(k for k, v in fields.items() if v == "Was")])
            meta = meta and meta[next(k for k, v in meta_fields.items() if v == "Was")]
            name, fields, meta_fields = self.kind(line, kind)
        line.setdefault("kind", name)
        line["fact"] = facts.named(fact, fields)
        if meta is not None:
            shown = {k: v for k, v in meta.items() if meta_fields.get(k) != "Index"}
            line["meta"] = facts.named(shown, meta_fields)
        if None in plain.values():
            line["expired"] = True
            self.expired += 1
        body = plain.get(BODY)
        if isinstance(body, bytes):
            line["body"] = len(body)
            digest = meta and meta[next(k for k, v in meta_fields.items() if v == "SHA256")]
            size = fact.get(next(k for k, v in fields.items() if v == "Size"), 0)
            if len(body) != size or digest is not None and h(body) != digest:
                self.found("%s: a body of which its event does not speak" % line["at"])
            self.messages += 1
            if self.out:
                with open(os.path.join(self.out, line["id"] + ".eml"), "xb") as f:
                    f.write(body)
        if self.raw:
            line["raw"] = [plain[r].hex() if isinstance(plain.get(r), bytes) else None for r in (STATE, META)]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("bucket", help="the directory of the bucket")
    p.add_argument("--root", required=True, metavar="FILE", help="the root key file")
    p.add_argument("--keys", metavar="DIR", help="the directory of the bucket with the keys, if that is another")
    p.add_argument("-o", metavar="DIR", help="where to write messages, as <event id>.eml")
    p.add_argument("--raw", action="store_true", help="print the opened state and metadata in hexadecimal, too")
    a = p.parse_args()
    if a.o:
        os.makedirs(a.o, exist_ok=True)
    try:
        reader = Reader(buckets.Bucket(a.bucket, keys.Root(a.root), a.keys), a.o, a.raw)
    except (Damaged, OSError) as e:
        sys.exit("DAMAGED %s" % e)
    reader.run()
    print("%d segments, %d events, %d messages read, %d events expired in part, %d of tenants that have ended, %d damaged" % (
        reader.segments, reader.events, reader.messages, reader.expired, reader.ended, reader.damaged), file=sys.stderr)
    sys.exit(1 if reader.damaged else 0)


if __name__ == "__main__":
    main()
