"""Checkpoints: signed notes about a partition, docs/format.md."""

import base64
import binascii
import re

import keys
from keys import Damaged, h

TEXT = re.compile(
    r"holdfast/([0-9a-f]{32})/([0-9a-f]{2})\n"
    r"([1-9][0-9]*)\n"
    r"([A-Za-z0-9+/]{43}=)\n"
    r"time ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z)\n"
    r"tree (0|[1-9][0-9]*) ([A-Za-z0-9+/]{43}=)\n"
    r"certificate ([A-Za-z0-9+/]{132})\n"
)
MAX_LEAVES = 4096
CLASS = 6


def _unbase64(s):
    try:
        b = base64.b64decode(s, validate=True)
    except binascii.Error as e:
        raise Damaged("no base64") from e
    if base64.b64encode(b).decode() != s:
        raise Damaged("base64 with spare bits")
    return b


def tree_hash(leaves):
    """The Merkle tree hash of RFC 6962, section 2.1."""
    if len(leaves) == 1:
        return h(b"\0" + leaves[0])
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return h(b"\1" + tree_hash(leaves[:k]) + tree_hash(leaves[k:]))


def open_note(raw, installation):
    """Verifies a note. Returns log id, partition, seq, hash, from, tree hash."""
    try:
        text, signatures = raw.decode("utf-8").rsplit("\n\n", 1)
    except ValueError as e:
        raise Damaged("no signed note") from e
    text += "\n"
    m = TEXT.fullmatch(text)
    s = re.fullmatch("— (\\S+) (\\S+)\n", signatures)
    if not m or not s or len(raw) > 8 << 10:
        raise Damaged("no checkpoint with one signature")
    origin = text.split("\n")[0]
    public, classes = keys.check_certificate(installation, _unbase64(m[8]))
    if not classes >> CLASS & 1:
        raise Damaged("signed by a node that may not sign checkpoints")
    signed = _unbase64(s[2])
    if s[1] != origin or signed[:4] != h(origin.encode() + b"\n\1" + public)[:4]:
        raise Damaged("signed by another key")
    keys.verify(public, signed[4:], text.encode())
    return bytes.fromhex(m[1]), int(m[2], 16), int(m[3]), _unbase64(m[4]), int(m[6]), _unbase64(m[7])


def check(bucket, partition, hashes, begin, found):
    """Holds the checkpoints of a partition against its segments; hashes[n] is the
    hash of segment n, as far as they could be read, from begin on: what a checkpoint says
    of segments before that, where the log begins, cannot be compared."""
    prefix = "checkpoint/%02x" % partition
    for name in bucket.names(prefix):
        key = "%s/%s" % (prefix, name)
        try:
            log, p, seq, claimed, start, tree = open_note(bucket.get(key), bucket.root.installation)
            if (log, p, "%020d" % seq) != (bucket.log, partition, name):
                raise Damaged("a checkpoint of another place")
            if seq >= len(hashes):
                raise Damaged("the log is rolled back: segment %d is not there" % seq)
            if seq < begin:
                continue
            if hashes[seq] != claimed:
                raise Damaged("the log is forked: segment %d is another" % seq)
            if not 0 < seq - start <= MAX_LEAVES or start >= begin and tree_hash(hashes[start + 1:seq + 1]) != tree:
                raise Damaged("the tree is another")
        except Damaged as e:
            found("%s: %s" % (key, str(e).removeprefix(key + ": ")))
