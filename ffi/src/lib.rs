//! The C interface of ringport.
//!
//! A thin layer: every function converts what it was given, calls the Rust library, and converts the answer. What
//! can be wrong about pointers is looked at in `arguments`, what went wrong becomes a status in `failure`, and nothing
//! unwinds out of here (`failure::answer`). The comments of the exported items are the C programmer's documentation:
//! `include/ringport.h` is generated from them, in the order of the modules below.
//!
//! Every exported function is `unsafe`, since it trusts its caller in what the header asks for: a pointer is NULL or valid
//! for what it is used for, a handle is used by one thread at a time and not after it was freed. That is said once, at
//! the top of the header, and is the safety contract of them all.
#![allow(clippy::missing_safety_doc)]
// Their bodies dereference what that contract covers.
#![allow(unsafe_op_in_unsafe_fn)]
// They are named as C names them.
#![allow(non_camel_case_types)]

mod arguments;
mod failure;

// In the order of a port's life.
pub mod archive;
pub mod channel;
pub mod event_loop;
pub mod foreign_loop;
pub mod handle;
pub mod meeting;
pub mod port;
pub mod post;
pub mod process;
pub mod receive;
pub mod settings;
pub mod status;
pub mod version;
