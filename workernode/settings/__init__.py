"""Settings from the environment and `.env`: the table of variables, their formats, and reading them (spec 2)."""

from workernode.settings.addresses import Address, chat_address
from workernode.settings.environment import FILE_VARIABLES, SettingsError, load, parse, read_environment
from workernode.settings.table import VARIABLES, Settings, describe

__all__ = [
    "FILE_VARIABLES",
    "VARIABLES",
    "Address",
    "Settings",
    "SettingsError",
    "chat_address",
    "describe",
    "load",
    "parse",
    "read_environment",
]
