"""The connection to Apache Pulsar: receive, ack, nak, publish, dead-letter, read records. Imports pulsar."""

from supervisor.broker.access import Access
from supervisor.broker.client import PulsarBroker
from supervisor.broker.contract import Batches, Broker
from supervisor.broker.dry_run import Answer, may_claim, may_store, may_take
from supervisor.broker.handshake import NoConnection, Session
from supervisor.broker.naks import DueNaks, Naks
from supervisor.broker.record_reader import NoRecords, Published, read_records
from supervisor.broker.record_sender import STORE_RETRY, DeadLetter, RecordSender
from supervisor.broker.topics import Topics, short_name, whole_name

__all__ = [
    "STORE_RETRY",
    "Access",
    "Answer",
    "Batches",
    "Broker",
    "DeadLetter",
    "DueNaks",
    "Naks",
    "NoConnection",
    "NoRecords",
    "Published",
    "PulsarBroker",
    "RecordSender",
    "Session",
    "Topics",
    "may_claim",
    "may_store",
    "may_take",
    "read_records",
    "short_name",
    "whole_name",
]
