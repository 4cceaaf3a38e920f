"""Pulsar on this machine for development and tests: finds or fetches a distribution, and runs a standalone broker."""

from devstack.broker.distribution import find_or_get, installed, missing_programs
from devstack.broker.standalone import Broker

__all__ = ["Broker", "find_or_get", "installed", "missing_programs"]
