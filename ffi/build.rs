//! The library's name for who links with it: programs keep it, and find no other version by it.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // As long as the version begins with 0, each minor one is an interface of its own.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libringport.so.0.1");
}
