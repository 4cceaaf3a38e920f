"""The environment, the `.env` file and the files of secrets → `Settings`, or every error in them at once.

Nothing here opens a connection: that is `--check`. No error message shows a secret.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workernode.settings.formats import NODE_TYPE
from workernode.settings.table import VARIABLES, Settings, Variable

# A worker's tasks wait for upstream most of the time, so a few processes carry all slots; each costs about 20 MB.
MOST_WORKERS = 4
# At least two: a worker that dies takes its share of the tasks with it, and never all of them.
FEWEST_WORKERS = 2
# A secret may be in a file, whose path is in a variable of its own.
FILE_VARIABLES = {
    "API_KEY": "API_KEY_FILE",
    "PULSAR_TOKEN": "PULSAR_TOKEN_FILE",
    "UPSTREAM_HEADERS": "UPSTREAM_HEADERS_FILE",
}
LARGEST_FILE = 65536  # bytes; no secret is nearly as long


class SettingsError(Exception):
    """The settings cannot be used. `faults` has a line for each: the variable, what is wrong, what it must be."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        return "\n".join(self.faults)


def read_environment(environ: Mapping[str, str], dotenv_path: str | Path) -> dict[str, str]:
    """Return `environ`, with what it lacks filled in from the `.env` file. An empty text counts as lacking.

    Values are taken as they stand: a `$` in a key is a `$`. A missing file is no error.

    Raises:
        SettingsError: the file is there and cannot be read.
    """
    from dotenv import dotenv_values  # only here: --version and --help need no package that is to be installed

    try:
        from_file = dotenv_values(dotenv_path, interpolate=False, encoding="utf-8-sig")  # -sig: editors on Windows
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError((f"{dotenv_path} cannot be read ({why}); make it readable, or remove it",)) from None
    merged = {name: value for name, value in from_file.items() if value}
    merged.update({name: value for name, value in environ.items() if value})
    return merged


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings that `environ` holds. Secrets that are in files are read now.

    White space around a value does not count: most files end in a line end.

    Raises:
        SettingsError: with every error there is.
    """
    texts = {name: environ.get(name, "").strip() for name in VARIABLES}
    sources = _read_proxies(texts, environ)
    node_type = _node_type(texts["NODE_TYPE"])
    values: dict[str, Any] = {}
    faults = _read_secret_files(texts, node_type)
    sources |= {name: file for name, file in FILE_VARIABLES.items() if texts[file]}
    unreadable = {fault.split(" ")[0] for fault in faults}
    for name, variable in VARIABLES.items():
        text = texts[name] if variable.node_type in ("", node_type) else ""
        try:
            if FILE_VARIABLES.get(name) in unreadable:
                continue
            if variable.required and not text and variable.node_type in ("", node_type):
                raise ValueError("is not set")
            values[name.lower()] = parse(variable, text)
        except ValueError as error:
            wrong = "is wrong (not shown: it holds a secret)" if _holds_a_secret(name, texts) else error
            faults.append(f"{_with_source(name, sources)} {wrong}; it must be {variable.format.expected}")
    if faults:
        raise SettingsError(tuple(faults))
    workers = values["worker_processes"] or max(FEWEST_WORKERS, min(_cpus(), MOST_WORKERS))
    values["worker_processes"] = min(workers, values["max_process_num"])  # a worker without a slot is of no use
    settings = Settings(**values)
    try:
        settings.upstream_proxy  # noqa: B018  # a proxy that is not for API_URL may be what it likes
    except ValueError as error:
        name = "HTTPS_PROXY" if settings.api_url.startswith("https:") else "HTTP_PROXY"
        name = _with_source(name, sources)
        raise SettingsError((f"{name} {error}; it must be http://[user:password@]host:port",)) from None
    return settings


def _read_proxies(texts: dict[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Read the proxies as curl and requests do: the names in lower case come first, and ALL_PROXY last.

    Returns:
        Which variable each was read from.
    """
    sources: dict[str, str] = {}
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        more = () if name == "NO_PROXY" else ("all_proxy", "ALL_PROXY")
        for source in (name.lower(), name, *more):
            if text := environ.get(source, "").strip():
                texts[name], sources[name] = text, source
                break
    return sources


def _with_source(name: str, sources: Mapping[str, str]) -> str:
    """Return the name of a variable, and of another one that its value came from."""
    source = sources.get(name, name)
    return name if source == name else f"{name} (from {source})"


def parse(variable: Variable, text: str) -> object:
    """Return the value of a variable. An empty text stands for the default.

    Raises:
        ValueError: the text is wrong; says why.
    """
    text = text or variable.default or ""
    return variable.format.parse(text) if text else variable.unset


def _read_secret_files(texts: dict[str, str], node_type: str) -> list[str]:
    """Fill in the secrets whose files are named, and return a line for each that cannot be used."""
    token = texts["PULSAR_TOKEN"]
    if token.startswith("file:"):  # as Pulsar's own tools write it: file:///path or file:/path
        if texts["PULSAR_TOKEN_FILE"]:
            return ["PULSAR_TOKEN_FILE is set, and PULSAR_TOKEN names a file, too; it must be one of them"]
        texts["PULSAR_TOKEN_FILE"], texts["PULSAR_TOKEN"] = token.removeprefix("file:").removeprefix("//"), ""
    faults = []
    for name, file_variable in FILE_VARIABLES.items():
        path = texts[file_variable]
        if not path or VARIABLES[name].node_type not in ("", node_type):
            continue
        try:
            if texts[name]:
                raise ValueError(f"is set, and {name}, too; it must be one of them")
            texts[name] = read_secret(path)
        except ValueError as error:
            faults.append(f"{file_variable} {error}")
    return faults


def read_secret(path: str) -> str:
    """Return the text of a secret's file without white space around it.

    Raises:
        ValueError: it cannot be read, or is empty. The text completes a sentence that begins with the variable.
    """
    # Only an absolute path is shown: anything else may be the secret itself, set in the wrong variable.
    file = f"names {path}, which" if path.startswith("/") else "names a file that"
    try:
        with open(path, "rb") as opened:
            text = opened.read(LARGEST_FILE).decode("utf-8-sig").strip()
    except OSError as error:
        why = error.strerror
        raise ValueError(f"{file} cannot be read ({why}); it must be a file that the node can read") from None
    except ValueError:  # not UTF-8, or a path with a NUL
        raise ValueError(f"{file} is not text; it must be a file that holds the secret alone") from None
    if not text:
        raise ValueError(f"{file} is empty; it must be a file that holds the secret alone")
    return text


def _holds_a_secret(name: str, texts: Mapping[str, str]) -> bool:
    """Whether the wrong value of a variable that is no secret holds the value of one that is."""
    if VARIABLES[name].secret:
        return False  # its format's own message never shows it
    return any(
        variable.secret and texts[other] and texts[other] in texts[name] for other, variable in VARIABLES.items()
    )


def _node_type(text: str) -> str:
    """Return whose variables are read. "" where NODE_TYPE is wrong: then the variables of one type are not judged."""
    try:
        return str(NODE_TYPE.parse(text))
    except ValueError:
        return ""


def _cpus() -> int:
    """Return how many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
