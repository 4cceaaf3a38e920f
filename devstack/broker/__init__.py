"""Pulsar on this machine for development and tests: finds or fetches it, runs a standalone broker or a cluster."""

from devstack.broker.cluster import Cluster
from devstack.broker.distribution import find_or_get, installed, missing_programs
from devstack.broker.standalone import Broker

__all__ = ["Broker", "Cluster", "find_or_get", "installed", "missing_programs"]
