#!/usr/bin/env bash
# The examples in C and C++, and those in Rust and Python that talk with them: compiled without a warning, run, and compared
# with what their comments promise.
#
# From the environment:
#   INCLUDE         folder of ringport.h and ringport.hpp
#   LIBRARIES       folder of libringport.so (Python needs it in any case) and, for LINK=static, libringport.a
#   RUST_EXAMPLES   folder of the compiled Rust examples multimessage, archive, ring and ring_station
#   CC, CXX, CFLAGS, PYTHON   the compilers, what else to tell both of them, the interpreter
#   LINK            shared (as it is without) or static
#   WRAP            a command to run each C and C++ program with, such as `valgrind -q --error-exitcode=9`
set -euo pipefail
INCLUDE=$(realpath -e "$INCLUDE")
LIBRARIES=$(realpath -e "$LIBRARIES")
RUST_EXAMPLES=$(realpath -e "$RUST_EXAMPLES")
CC=${CC:-gcc} CXX=${CXX:-g++} CFLAGS=${CFLAGS:-} PYTHON=${PYTHON:-python3} LINK=${LINK:-shared} WRAP=${WRAP:-}
cd "$(dirname "$0")/../../examples"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONDONTWRITEBYTECODE=1

complain() {
    printf 'examples: %s\n' "$@" >&2
    exit 1
}

# ---- Compiling ----

case $LINK in
shared) link=("-L$LIBRARIES" -lringport) ;;
static) link=("$LIBRARIES/libringport.a" -lgcc_s -lpthread -lm -ldl) ;;
*) complain "LINK is shared or static, not $LINK" ;;
esac

# Programs look for the library by the name that it gives itself, which is another than that of the file.
export RINGPORT_LIBRARY=$LIBRARIES/libringport.so
soname=$(readelf -d "$RINGPORT_LIBRARY" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
mkdir "$work"/{c,cpp,ring,library}
ln -s "$RINGPORT_LIBRARY" "$work/library/${soname:-libringport.so}"
export LD_LIBRARY_PATH=$work/library${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# Makes the program of a command that compiles it and only lacks where to write it.
program() { # PROGRAM COMMAND...
    local program=$1
    shift
    # shellcheck disable=SC2086 # several words
    "$@" $CFLAGS -I"$INCLUDE" "${link[@]}" -o "$program"
    if [ -n "$WRAP" ]; then
        mv "$program" "$program.compiled"
        printf '#!/bin/sh\nexec %s "%s" "$@"\n' "$WRAP" "$program.compiled" >"$program"
        chmod +x "$program"
    fi
}

program_in_c() { # PROGRAM SOURCE
    program "$1" $CC -std=c99 -Wall -Wextra -pedantic -Werror "$2"
}

program_in_cpp() { # PROGRAM SOURCE
    program "$1" $CXX -std=c++17 -pthread -Wall -Wextra -Werror "$2"
}

# ---- Running ----

# What a source's comment promises of a command: the lines below it.
promised() { # SOURCE COMMAND
    command=$2 awk '
        {
            line = $0
            comment = sub(/^\/\/!? ?/, "", line)
            sub(/^    /, "", line)
        }
        !comment || line == "" || line == "```" { within = 0 }
        within { print line; found = 1 }
        line == "$ " ENVIRON["command"] { within = 1 }
        END { exit !found }
    ' "$1" || complain "$1 promises nothing of $2"
}

# Runs a command, which has to end with a status, and to print exactly this.
ends() { # STATUS EXPECTED COMMAND...
    local expected_status=$1 expected=$2 status=0 printed_it=yes
    shift 2
    timeout 120 "$@" >"$work/printed" 2>"$work/errors" || status=$?
    diff <(printf '%s\n' "$expected") "$work/printed" >"$work/difference" || printed_it=no
    if [ "$status" -ne "$expected_status" ] || [ "$printed_it" = no ]; then
        head -c 10000 "$work/errors" >&2
        head -c 10000 "$work/difference" >&2
        complain "$*" "ended with $status, should have with $expected_status; above, what it should print (<) and printed (>)"
    fi
    printf 'as promised: %s\n' "${*//"$work/"/}"
}

# ---- The examples ----

for source in c/*.c; do
    program_in_c "$work/${source%.c}" "$source"
done
for source in cpp/*.cpp; do
    program_in_cpp "$work/${source%.cpp}" "$source"
done
program_in_c "$work/ring/station-c" ring/station.c
program_in_cpp "$work/ring/station-cpp" ring/station.cpp

# Those that need nobody else. A new one is run without being named here.
for source in c/*.c cpp/*.cpp; do
    name=$(basename "${source%.*}")
    case $source in c/multimessage.c | c/archive.c) continue ;; esac
    expected=$(promised "$source" "./$name")
    ends 0 "$expected" "$work/${source%.*}"
done

# Page and frame in C, one of them in Rust, and both as programs of their own.
multimessage() { # COMMAND...
    printf 'hello\nworld\n' >"$work/lines"
    ends 0 "$expected" "$@" <"$work/lines"
    # Both show it, in an order of their own.
    grep -qxF '• hello' "$work/errors" && grep -qxF '• world' "$work/errors" || complain "$*: the frame shows no lines"
}
in_c=$work/c/multimessage in_rust=$RUST_EXAMPLES/multimessage
expected=$(promised c/multimessage.c "printf 'hello\nworld\n' | ./multimessage")
multimessage "$in_c"
multimessage "$in_c" --frame "$in_c"
multimessage "$in_rust" --frame "$in_c"
expected=$(promised c/multimessage.c \
    "printf 'hello\nworld\n' | ./multimessage --frame ../../target/release/examples/multimessage")
multimessage "$in_c" --frame "$in_rust"

# Lines that are too long are not posted, and many megabytes do not stick: page and frame both have to wait for room.
awk 'BEGIN {
    for (digits = "0123456789"; length(digits) < 60000;) digits = digits digits
    for (line = 0; line < 3000; line++) print substr(digits, 1, line * 7919 % 6000)
    printf "%s\n%s", digits, "the last one has no end of its own"
}' >"$work/lines"
expected=$(awk 'length < 60000 { printf "Message received by IFrame: \"%s\"\n", $0 }' "$work/lines")
for page in "$in_c" "$in_rust"; do
    for frame in "$in_c" "$in_rust"; do
        ends 2 "$expected" "$page" --frame "$frame" <"$work/lines"
    done
done
# The death of a frame is told, and ends the page. (Without WRAP: a program that gives up frees nothing before.)
for page in "$in_c${WRAP:+.compiled}" "$in_rust"; do
    status=0
    timeout 120 "$page" --frame false <"$work/lines" >"$work/printed" 2>"$work/errors" || status=$?
    if [ "$status" -ne 1 ] || [ -s "$work/printed" ]; then
        complain "$page ended with $status after the death of its frame"
    fi
done

# Archives, both ways.
in_c=$work/c/archive in_rust=$RUST_EXAMPLES/archive
by_c=$(promised c/archive.c './archive ../../target/release/examples/archive')
by_rust=$(promised c/archive.c '../../target/release/examples/archive ./archive')
[ "$by_rust" = "$(promised archive.rs 'cargo run --release --example archive examples/c/archive')" ] ||
    complain "c/archive.c and archive.rs do not promise the same"
ends 0 "$by_c" "$in_c" "$in_rust"
ends 0 "$by_rust" "$in_rust" "$in_c"
ends 0 "${by_c//Rust reads/C reads}" "$in_c" "$in_c"

# The ring, with each of the languages as its last, which ends it.
declare -A station=([C]=$work/ring/station-c [C++]=$work/ring/station-cpp [Python]=ring/station.py
    [Rust]=$RUST_EXAMPLES/ring_station)
by_four=$(promised ring.rs \
    'cargo run --release --example ring -- ./station-c -- ./station-cpp -- python3 examples/ring/station.py -- ./ring_station')
ring() { # LANGUAGES...
    local language commands=()
    for language; do
        commands+=(--)
        [ "$language" != Python ] || commands+=("$PYTHON")
        commands+=("${station[$language]}")
    done
    local expected
    expected=$(languages="$*" awk '
        BEGIN { split(ENVIRON["languages"], language, " ") }
        /^station / { sub(/in [^,]*,/, "in " language[++number] ",") }
        { print }
    ' <<<"$by_four")
    ends 0 "$expected" "$RUST_EXAMPLES/ring" "${commands[@]:1}"
}
ends 0 "$by_four" "$RUST_EXAMPLES/ring" "${station[C]}" -- "${station[C++]}" -- \
    "$PYTHON" "${station[Python]}" -- "${station[Rust]}"
ring C++ Python Rust C
ring Python Rust C C++
ring Rust C C++ Python
echo "all examples do what their comments say"
