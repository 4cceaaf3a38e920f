"""The connection to Apache Pulsar: receive, ack, nak, publish, dead-letter, read records. Imports pulsar."""

from supervisor.broker.access import Access
from supervisor.broker.client import PulsarBroker
from supervisor.broker.contract import Batches, Broker
from supervisor.broker.handshake import NoConnection, Session
from supervisor.broker.naks import Burst, Naks
from supervisor.broker.probe import Answer, may_store, may_take
from supervisor.broker.record_reader import NoRecords, Published, read_records
from supervisor.broker.topics import Topics, short_name, whole_name

__all__ = [
    "Access",
    "Answer",
    "Batches",
    "Broker",
    "Burst",
    "Naks",
    "NoConnection",
    "NoRecords",
    "Published",
    "PulsarBroker",
    "Session",
    "Topics",
    "may_store",
    "may_take",
    "read_records",
    "short_name",
    "whole_name",
]
