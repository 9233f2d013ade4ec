"""The names of kinds and fields: docs/format-facts.md."""

UNIT = {1: "Source", 2: "N"}
POSITION = {1: "Partition", 2: "Seq", 3: "Index"}
REF = {1: ("Position", POSITION), 2: "ID"}
RECIPIENT = {1: "Path", 2: "Domain", 3: "Account", 4: "Notify", 5: "ORcpt", 6: "Outside", 7: "Via"}
OUTCOME = {1: ("Unit", UNIT), 2: "Result", 3: "Code", 4: "RetryAt", 5: "Normalised", 6: "Phase", 7: "Uncertain", 8: "Epoch"}

MATCH = {1: "Domain", 2: "User", 3: "Rcpt", 4: "From", 5: "Subject", 6: "MessageID", 7: "Since", 8: "Until", 9: "Messages"}

# kind: name, fields, metadata fields
KINDS = {
    1: ("MessageAccepted", {
        1: "Origin", 2: "At", 3: "Size", 4: "Shown", 5: "Recipients",
        6: ("Allotments", {1: "Account", 2: "Place", 3: "Seen", 4: "Copy"}), 7: "Routes", 8: "Sender",
    }, {
        1: "From", 2: ("Recipients", RECIPIENT), 3: "Ret", 4: "EnvID", 5: "Body8", 6: "UTF8", 7: "Helo", 8: "Peer", 9: "TLS",
        10: "Login", 11: "Trace", 12: "SHA256", 13: "Index",
    }),
    2: ("Repudiated", {1: "Message", 2: "Accounts"}, None),
    10: ("DeliveryIntended", {1: "At", 2: "Epoch", 3: ("Units", UNIT)}, None),
    11: ("DeliverySettled", {1: "At", 2: ("Outcomes", OUTCOME)}, {1: "Replies"}),
    12: ("HealthChanged", {
        1: "At", 2: "Domain", 3: "From", 4: "To", 5: ("Evidence", {1: "At", 2: "What", 3: "Phase", 4: "Code", 5: "Detail"}),
        6: "NeedsDelivery",
    }, None),
    13: ("RedeliveryOrdered", {
        1: "At", 2: "Who", 3: ("Items", {1: ("Message", REF), 2: "N", 3: "Domain", 4: "Outside", 5: "Expiry", 6: "Kept"}),
        4: "To", 5: "Until",
    }, None),
    20: ("MailboxCreated", {1: "Account", 2: "Name", 3: "Use"}, None),
    21: ("MailboxDeleted", {1: "Account", 2: "Name"}, None),
    22: ("MailboxRenamed", {1: "Account", 2: "From", 3: "To"}, None),
    23: ("MailboxSubscribed", {1: "Account", 2: "Name", 3: "Subscribed"}, None),
    24: ("FlagsChanged", {1: "Account", 2: "Mailbox", 3: "UIDs", 4: "Op", 5: "Flags", 6: "UnchangedSince"}, None),
    25: ("Expunged", {1: "Account", 2: "Mailbox", 3: "UIDs"}, None),
    26: ("Copied", {1: "Account", 2: "From", 3: "UIDs", 4: "To", 5: "Move"}, None),
    27: ("Appended", {1: "Account", 2: "Mailbox", 3: "At", 4: "Date", 5: "Size", 6: "Flags", 7: "Copy", 8: "Domain"}, {1: "SHA256", 2: "Index", 3: "Owner"}),
    40: ("TenantCreated", {1: "Name"}, None),
    41: ("DomainClaimed", {1: "Domain", 2: "Tenant", 3: "Release"}, None),
    42: ("DomainSet", {
        1: "Domain", 2: "Primary", 3: "Outbound", 4: "Continuity", 5: "ShadowDays", 6: "Recipients", 7: "ProbeEvery",
        8: "DownAfter", 9: "UpAfter", 10: "DotTimeout",
    }, None),
    43: ("DomainRemoved", {1: "Domain"}, None),
    44: ("UserSet", {1: "Account", 2: "Address", 3: "Aliases", 4: "Password"}, None),
    45: ("UserRemoved", {1: "Address"}, None),
    46: ("FailoverSet", {1: "At", 2: "Domain", 3: "Mode", 4: "Who"}, None),
    47: ("Audited", {1: "At", 2: "Who", 3: "Act", 4: "Detail", 5: "Count"}, None),
    48: ("KeysBackedUp", {1: "At"}, None),
    49: ("Adopted", {1: "At", 2: "URL"}, None),
    60: ("Posted", {1: "Topic", 2: "UUID", 3: "Metadata", 4: "Payload"}, None),
    61: ("CursorMoved", {1: "Group", 2: "Topic", 3: ("To", POSITION)}, None),
    70: ("DayCondemned", {1: "At", 2: "Day"}, None),
    71: ("Kept", {1: "At", 2: "Message", 3: ("From", REF), 4: "Why", 5: "Was"}, {1: "Was"}),
    72: ("DayExpired", {1: "At", 2: "Day"}, None),
    73: ("RatchetMoved", {1: "At", 2: "To"}, None),
    74: ("DayRemoved", {1: "At", 2: "Day", 3: "Objects", 4: "Bytes", 5: "Locked"}, None),
    75: ("ObjectsCondemned", {1: "At", 2: "Messages"}, None),
    76: ("HoldPlaced", {1: "At", 2: "Who", 3: "Name", 4: "Reason", 5: ("Match", MATCH)}, None),
    77: ("HoldReleased", {1: "At", 2: "Who", 3: "Name", 4: "Reason"}, None),
    78: ("ErasureOrdered", {1: "At", 2: "Who", 3: "Reason", 4: ("Items", REF), 5: "Holds"}, None),
    79: ("Erased", {
        1: "At", 2: "Order", 3: "Who", 4: "Reason",
        5: ("Items", {1: "Message", 2: ("Place", REF), 3: "Accounts", 4: "Digests", 5: "Size"}),
    }, None),
    80: ("TenantEnded", {
        1: "At", 2: "Who", 3: "Reason", 4: "Tenant", 5: "Name", 6: "Order", 7: "Objects", 8: "Bytes", 9: "Locked",
    }, None),
    81: ("BaseTaken", {
        1: "At", 2: "Projection", 3: "Version", 4: ("Cursors", {1: "Seq", 2: "Hash", 3: "Prev"}), 5: "Hash", 6: "Size",
        7: "Index", 8: "Chunks",
    }, None),
    82: ("DaySwept", {1: "At"}, None),
    83: ("TenantEndOrdered", {1: "At", 2: "Who", 3: "Reason", 4: "Name", 5: "Holds"}, None),
    84: ("TenantCondemned", {1: "At", 2: "Who", 3: "Reason", 4: "Name", 5: "Tenant"}, None),
}
KEPT = 71


def named(value, fields=None):
    """Makes a value fit for JSON, with names for the keys of maps."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [named(v, fields) for v in value]
    if not isinstance(value, dict):
        return value
    out = {}
    for key, v in value.items():
        name, below = (fields or {}).get(key, str(key)), None
        if isinstance(name, tuple):
            name, below = name
        out[name] = named(v, below)
    return out
