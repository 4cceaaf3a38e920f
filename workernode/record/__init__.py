"""The billing record of one delivery (spec 6): what is known of it → bytes of JSON. Pure.

Every record has the same members; what is not known is null (docs/record.schema.json). Most of a record comes from the
client, so `encode` bounds all of it: whatever a task holds, its record is strict JSON of less than MAX_BYTES, without
prompt or answer text, keys, or a client's Authorization.
"""

from workernode.record.encoding import MAX_BYTES, SCHEMA, encode
from workernode.record.members import Client, Error, Node, Record, Request, Resume, Times
from workernode.record.moments import rfc3339
from workernode.record.readers import client_of, error_of, request_of

__all__ = [
    "MAX_BYTES",
    "SCHEMA",
    "Client",
    "Error",
    "Node",
    "Record",
    "Request",
    "Resume",
    "Times",
    "client_of",
    "encode",
    "error_of",
    "request_of",
    "rfc3339",
]
