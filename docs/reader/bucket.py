"""A bucket in a directory, and what is in it: docs/format.md."""

import datetime
import hmac
import json
import os

import cbor
import keys
import packs
from keys import Damaged, Ended, Expired, h

STATE, META, BODY = 1, 2, 3
MAX_HEADER = 16 << 20
EPOCH = datetime.date(1970, 1, 1).toordinal()
SYSTEM_TENANT = bytes(15) + b"\1"


def day_name(day):
    return str(datetime.date(1970, 1, 1) + datetime.timedelta(days=day))


class Bucket:
    """The objects, what the bucket is, and its keys as they are needed."""

    def __init__(self, directory, root, keys_directory=None):
        self.directory, self.root = directory, root
        self.keys_directory = keys_directory or directory  # of what is under key/
        self.tenants, self.days, self.pages = {}, {}, {}
        try:
            f = json.loads(self.get("format"))
            version, log, partitions, check, url, created = (f[k] for k in ("holdfast", "log", "partitions", "check", "url", "created"))
            given = f["mac"]
            self.log = bytes.fromhex(log)
        except (ValueError, KeyError, TypeError) as e:
            raise Damaged("format: not what it should be") from e
        if version != 1:
            raise Damaged("format: version %r, this reads 1" % version)
        if check != root.check.hex():
            raise Damaged("format: the bucket belongs to another root key")
        text = "\n".join(str(x) for x in (version, log, partitions, check, url, created))
        if not hmac.compare_digest(given, keys.mac(root.local_key("format"), text.encode()).hex()):
            raise Damaged("format: the MAC is another")
        if len(self.log) != 16 or not 1 <= partitions <= 64:
            raise Damaged("format: impossible values")
        self.partitions = partitions

    def path(self, key):
        return os.path.join(self.keys_directory if key.startswith("key/") else self.directory, *key.split("/"))

    def get(self, key):
        try:
            with open(self.path(key), "rb") as f:
                return f.read()
        except OSError as e:
            raise Damaged("%s: missing" % key) from e

    def has(self, key):
        return os.path.exists(self.path(key))

    def names(self, prefix):
        """The names right below a prefix, sorted."""
        try:
            return sorted(os.listdir(os.path.join(self.directory, *prefix.split("/"))))
        except OSError:
            return []

    def partition_of(self, tenant):
        if tenant == SYSTEM_TENANT:
            return 0
        return int.from_bytes(tenant[:8], "big") % self.partitions

    def secrets(self, tenant):
        if tenant not in self.tenants:
            key = "key/tenant/" + tenant.hex()
            try:
                secrets = self.get(key)
                if secrets[:4] == b"HFE1":
                    keys.ended_tenant(self.root.installation, self.log, tenant, secrets)
                    secrets = None
                else:
                    secrets = self.root.tenant(self.log, tenant, secrets)
            except Damaged as e:
                raise Damaged("%s: %s" % (key, e)) from e
            self.tenants[tenant] = secrets
        if self.tenants[tenant] is None:
            raise Ended("the tenant has ended")
        return self.tenants[tenant]

    def leaf(self, page, number, writer):
        """The secret of an event; page is an entry of a header's array 9."""
        page_id, tenant, day, digest = page
        if page_id not in self.pages:
            key = "key/%s/%s/%s" % (day_name(day), tenant.hex(), page_id.hex())
            self.secrets(tenant)  # of one that has ended the page is gone, too
            over = day < self.root.day  # then the page may be gone, too
            sealed = None if over and not self.has(key) else self.get(key)
            if sealed is not None and h(sealed) != digest:
                binding = self.log + tenant + keys.i32(day) + page_id + writer
                try:
                    sealed = keys.rewritten_page(self.root.installation, binding, sealed)
                except Damaged as e:
                    raise Damaged("%s: %s" % (key, e)) from e
            if (tenant, day) not in self.days:
                secret = self.secrets(tenant)[0]
                self.days[tenant, day] = keys.DayPair(secret, self.root.of_day(day), self.log, tenant, day)
            try:
                self.pages[page_id] = keys.Page(self.days[tenant, day], self.log, tenant, day, page_id, writer, sealed)
            except Damaged as e:
                raise Damaged("%s: %s" % (key, e)) from e
        return self.pages[page_id].leaf(number)


class Segment:
    """A segment whose header was verified. Of a pack raw is what is left of it, and
    parts of days before cut are not."""

    def __init__(self, bucket, partition, seq, raw, cut=0):
        self.bucket, self.raw, self.cut = bucket, raw, cut
        self.partition, self.seq = partition, seq
        if raw[:8] != b"HFSEG\0\0\1" or len(raw) < 12:
            raise Damaged("no segment of version 1")
        end = 12 + int.from_bytes(raw[8:12], "big")
        if end - 12 > MAX_HEADER or len(raw) < end + 64:
            raise Damaged("a header cut short")
        try:
            head = cbor.decode(raw[12:end])
            log, self.prev, self.writer, self.time = head[1], head[4], head[5], head[7]
            self.pages, self.events = head[9], head[10]
            public, classes = keys.check_certificate(bucket.root.installation, head[8])
            keys.verify(public, raw[end:end + 64], keys.labelled("holdfast header v1", h(raw[:end])))
        except (cbor.Malformed, LookupError, TypeError, ValueError) as e:
            raise Damaged("a header that is none: %r" % e) from e
        if (log, head[2], head[3]) != (bucket.log, partition, seq):
            raise Damaged("a segment of another place")
        self.hash = h(raw[:end + 64])
        for event in self.events:
            if event[2] not in (1, 2, 3, 4, 5, 7) or not classes >> event[2] & 1:
                raise Damaged("an event of a class that the certificate does not allow")
            if event[3] > len(self.pages):
                raise Damaged("an event under no key page")
        self.place(end + 64)

    def place(self, offset):
        """Finds where each part that is inside begins."""
        self.offsets = {}
        for bodies in (False, True):
            for i, event in enumerate(self.events):
                for role, length, _, _, blobs in event[5]:
                    if (role == BODY) == bodies and not blobs and not self.left_out(i, role):
                        self.offsets[i, role] = offset
                        offset += length
        if offset != len(self.raw):
            raise Damaged("%d bytes, and the header speaks of %d" % (len(self.raw), offset))

    def left_out(self, i, role):
        """Whether a part that is inside a segment was left out of the pack."""
        page = self.events[i][3]
        return role != STATE and page > 0 and self.pages[page - 1][2] < self.cut

    def sealed(self, i, role, part, day):
        """The sealed bytes of a part, against their digests."""
        _, length, digest, _, blobs = part
        if not blobs:
            if self.left_out(i, role):
                day = self.pages[self.events[i][3] - 1][2]
                if day >= self.bucket.root.day and day >= datetime.datetime.now(datetime.timezone.utc).toordinal() - EPOCH:
                    raise Damaged("left out of its pack before its day was over")
                raise Expired("left out of its pack")
            at = self.offsets[i, role]
            b = self.raw[at:at + length]
            if h(b) != digest:
                raise Damaged("the digest is another")
            return b
        if h(b"".join(d for _, d in blobs)) != digest or sum(n for n, _ in blobs) != length:
            raise Damaged("blobs that do not add up")
        parts = []
        for n, (size, blob_digest) in enumerate(blobs):
            key = "blob/%s/%s/%04d" % (day_name(day), self.events[i][0].hex(), n)
            b = self.bucket.get(key)
            if len(b) != size or h(b) != blob_digest:
                raise Damaged("%s: not the part that was stored" % key)
            parts.append(b)
        return b"".join(parts)

    def open(self, i):
        """Opens event i. Returns the plain parts by role; None for what has expired.
        What is damaged is an exception in its place."""
        event_id, tenant, _, page, leaf_number, parts = self.events[i]
        if self.bucket.partition_of(tenant) != self.partition:
            raise Damaged("an event in a partition that is not its tenant's")
        page = self.pages[page - 1] if page else None
        if page and page[1] != tenant:
            raise Damaged("an event under another tenant's key page")
        plain, last = {}, 0
        for part in parts:
            role, commitment = part[0], part[3]
            if not last < role <= BODY or role != STATE and not page:
                raise Damaged("an impossible part")
            last = role
            binding = self.bucket.log + tenant + event_id + bytes([role]) + keys.u32(0)
            try:
                inside = not part[4] and self.sealed(i, role, part, None)  # also of what has expired
                if role == STATE:
                    plain[role] = keys.open_state(self.bucket.secrets(tenant)[1], binding, commitment, inside)
                    continue
                leaf = self.bucket.leaf(page, leaf_number, self.writer)
                sealed = self.sealed(i, role, part, page[2]) if part[4] else inside
                plain[role] = (keys.open_small if role == META else keys.open_stream)(leaf, binding, commitment, sealed)
            except Expired:
                plain[role] = None
            except Damaged as e:
                plain[role] = e
        if STATE not in plain:
            raise Damaged("an event without a state part")
        return plain


def segments(bucket, partition, floor, found):
    """Yields the segments of a partition as far as they are whole and follow each
    other. found is told of what is wrong."""
    prefix = "log/%02x" % partition
    names = bucket.names(prefix)
    for name in names:
        if not (len(name) == 20 and name.isdecimal() and int(name) > 0):
            found("%s/%s: no segment's name" % (prefix, name))
    numbers = [int(n) for n in names if len(n) == 20 and n.isdecimal() and int(n) > 0]
    packed = packs.Packs(bucket, partition, found)
    last = floor.start_hash
    for seq in range(floor.start + 1, max(numbers + [floor.packed]) + 1):
        key = "%s/%020d" % (prefix, seq)
        try:
            # At or below the floor a key may be gone, or hold what came too late.
            there = packed.segment(seq) if seq <= floor.packed or not bucket.has(key) else None
            segment = Segment(bucket, partition, seq, *(there or (bucket.get(key),)))
        except Damaged as e:
            found("%s: %s" % (key, str(e).removeprefix(key + ": ")))
            return
        if segment.prev != last:
            found("%s: does not follow the segment before it" % key)
            return
        last = segment.hash
        yield segment
