"""`--check`: checks what the node needs (settings, broker, upstream, rights) and says what to do about each fault."""

from supervisor.check.command import check

__all__ = ["check"]
