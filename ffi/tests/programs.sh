#!/usr/bin/env bash
# Builds the test programs in `programs`, C and C++, and runs them.
#
#     INCLUDE      folder of the headers               LIBRARIES   folder of libringport.so and libringport.a
#     LINK         shared or static                    CFLAGS      more flags for both compilers
#     WRAP         a command in front of each program  CC, CXX     the compilers
#     PROGRAMS     those, and not all
set -euo pipefail
cd "$(dirname "$0")/programs"

: "${INCLUDE:?}" "${LIBRARIES:?}"
export INCLUDE LIBRARIES LINK="${LINK:-shared}" CFLAGS="${CFLAGS:-}" WRAP="${WRAP:-}" CC="${CC:-gcc}" CXX="${CXX:-g++}"
made=$(mktemp -d)
export made
trap 'rm -rf "$made"' EXIT
# Programs look for the library by its soname.
ln -s "$(realpath "$LIBRARIES")/libringport.so" "$made/libringport.so.0.1"
export LD_LIBRARY_PATH="$made"

build_and_run() {
    set -euo pipefail
    local source=$1 program="$made/${1//./_}"
    local compiler=("$CC" -std=c99 -D_POSIX_C_SOURCE=200809L -pedantic)
    [[ $source == *.cpp ]] && compiler=("$CXX" -std=c++17 -Wpedantic)
    local library=("-L$LIBRARIES" -lringport)
    [ "$LINK" = static ] && library=("$LIBRARIES/libringport.a" -lgcc_s -lutil -lrt -lpthread -lm -ldl)
    # shellcheck disable=SC2086 # several words
    "${compiler[@]}" -g -Wall -Wextra -Werror $CFLAGS -I"$INCLUDE" "$source" -o "$program" "${library[@]}" -lpthread
    # shellcheck disable=SC2086
    timeout 120 $WRAP "$program" > "$program.log" 2>&1 ||
        { echo "$source ended with $?:" >&2; cat "$program.log" >&2; return 1; }
    echo "$source: $(grep -c '^ok ' "$program.log") ok"
}
export -f build_and_run

# Two at a time: most of it is the compiler.
# shellcheck disable=SC2086
printf '%s\n' ${PROGRAMS:-*.c *.cpp} | xargs -P 2 -I '{}' bash -c 'build_and_run "$1"' _ '{}'
