"""The log: one line an event on stderr, in JSON or text, without secrets; repeated lines are folded into a number.

Modules log with the standard library, and put an event's name and its fields into `extra`:

    log.warning("no connection to Pulsar: %s", why, extra={"event": "broker_down", "why": why})

A line has time, level, event, message, model and worker (where there is one), then the fields. No field may have the
name of an attribute of LogRecord (`name`, `args`, `module`, ...): the library refuses it. No line holds the text of a
task. Logging raises nothing, and a log that nobody reads costs lines, never the node.
"""

from workernode.logs.configuration import configure, setup

__all__ = ["configure", "setup"]
