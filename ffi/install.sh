#!/usr/bin/env bash
# Builds the C library and installs it: what `cargo cinstall` does, for those who do not have cargo-c.
#
#     ffi/install.sh [PREFIX]        # /usr/local unless told otherwise
#
# DESTDIR, if set, is put in front of everything, for packagers. LIBDIR is PREFIX/lib unless set.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=${1:-/usr/local}
libdir=${LIBDIR:-$prefix/lib}
root=${DESTDIR:-}
version=$(sed -n 's/^version = "\([0-9.]*\)"$/\1/p' ffi/Cargo.toml | head -n 1)
# As in build.rs: while the major version is 0, each minor one is an interface of its own.
soname=libringport.so.${version%.*}

cargo build --locked --release --package ringport-ffi
built=${CARGO_TARGET_DIR:-target}/release

install -d "$root$prefix/include" "$root$libdir/pkgconfig"
install -m 644 include/ringport.h include/ringport.hpp "$root$prefix/include/"
install -m 644 "$built/libringport.a" "$root$libdir/"
install -m 755 "$built/libringport.so" "$root$libdir/libringport.so.$version"
ln -sf "libringport.so.$version" "$root$libdir/$soname"
ln -sf "$soname" "$root$libdir/libringport.so"
cat > "$root$libdir/pkgconfig/ringport.pc" <<PC
prefix=$prefix
includedir=\${prefix}/include
libdir=$libdir

Name: ringport
Description: Entangled message ports over shared memory
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lringport
Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc
PC
echo "installed ringport $version: $root$prefix/include, $root$libdir"
