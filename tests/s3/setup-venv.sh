#!/bin/sh
# Prints the python of a virtual environment that holds tests/s3/requirements.txt, making it first if it is
# missing. With --path it makes nothing: it prints the python if it is there, and fails if not.
#
# The environment's folder is named after the requirements' hash, so changed requirements make another one. It
# is built under a name of its own and renamed when whole: two runs at once, or one that was killed, do no harm.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/requirements.txt
tools=${STREAMHOUSE_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/streamhouse}
hash=$(sha256sum "$requirements" | cut -c1-16)
venv=$tools/moto-$hash

# The interpreter that made it may be gone: then it is made anew.
if [ -e "$venv/ready" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    echo "$venv/bin/python"
    exit 0
fi
if [ "${1:-}" = --path ]; then
    echo "setup-venv.sh: the S3 test server is not installed at $venv: run 'make test'" >&2
    exit 1
fi

fail() {
    echo "setup-venv.sh: $1" >&2
    exit 1
}

command -v python3 >/dev/null || fail "python3 is missing (Debian: apt-get install python3 python3-venv)"
rm -rf "$venv"
mkdir -p "$tools" || fail "cannot make $tools: set STREAMHOUSE_TOOLS to a folder that can be written"
build=$(mktemp -d "$tools/moto-$hash.build-XXXXXX") || fail "cannot write to $tools"
trap 'rm -rf "$build"' EXIT
trap 'exit 1' HUP INT TERM

log=$build/setup.log
python3 -m venv "$build" >"$log" 2>&1 || {
    tail -n 5 "$log" >&2
    fail "python3 cannot make a virtual environment (Debian: apt-get install python3-venv)"
}
# Everything is pinned, so nothing else is pulled in.
"$build/bin/python" -m pip install --disable-pip-version-check --no-deps --quiet -r "$requirements" \
    >>"$log" 2>&1 || {
    tail -n 15 "$log" >&2
    fail "pip cannot install $requirements (log above): is the package index reachable?"
}
"$build/bin/python" -c 'import moto.server' >>"$log" 2>&1 || {
    tail -n 15 "$log" >&2
    fail "moto was installed and does not start"
}
: >"$build/ready"
# Only `python -m …` is used, which works from any folder; the scripts in bin/ name the old one.
# The loser of a race finds the winner's folder in place and drops its own.
if ! mv -T "$build" "$venv" 2>/dev/null; then
    [ -e "$venv/ready" ] || fail "cannot put the environment in place at $venv: remove it and run again"
fi
echo "$venv/bin/python"
