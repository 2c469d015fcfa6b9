#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]
#![cfg_attr(loom, allow(dead_code))]

#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little"
)))]
compile_error!("ringport needs Linux on a 64-bit little-endian processor");

// In the order in which a message travels. Under loom only what it can model is built.
#[cfg(not(loom))]
mod address;
#[cfg(all(feature = "tokio", not(loom)))]
mod async_port;
mod barrier;
#[cfg(not(loom))]
mod channel;
#[cfg(not(loom))]
mod connect;
#[cfg(not(loom))]
mod descriptors;
#[cfg(not(loom))]
mod doorbell;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod event_loop;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod handle;
#[cfg(not(loom))]
mod handover;
#[cfg(not(loom))]
mod handshake;
#[cfg(not(loom))]
mod listener;
#[cfg(not(loom))]
mod message;
#[cfg(not(loom))]
mod pool;
#[cfg(not(loom))]
mod port;
#[cfg(not(loom))]
mod post;
#[cfg(not(loom))]
mod receive;
#[cfg(not(loom))]
mod reserve;
mod ring;
#[cfg(not(loom))]
mod segment;
#[cfg(not(loom))]
mod socket;
#[cfg(not(loom))]
mod stats;
mod sync;
#[cfg(not(loom))]
mod transfer;
#[cfg(not(loom))]
mod wait;
#[cfg(not(loom))]
mod worker;

#[cfg(all(feature = "tokio", not(loom)))]
pub use async_port::AsyncMessagePort;
pub use barrier::Barrier;
#[cfg(not(loom))]
pub use {
    barrier::set_barrier,
    channel::{ChannelOptions, MessageChannel},
    connect::{ConnectOptions, connect, connect_with},
    error::{
        AcceptError, AddError, BindError, Cause, CloseReason, ConnectError, DataError, DetachError,
        EventLoopError, ImportError, ImportFault, NewError, PostError, ReceiveOverError, RecvError,
        ReserveError, SpawnError, TransferError,
    },
    event_loop::{
        Attached, ChildId, CloseEvent, EventLoop, ListenerId, LoopWaker, MessageErrorEvent,
        PortEvent, PortId, TimerId, TypedEvent,
    },
    handle::PortHandle,
    listener::{Credentials, Listener, ListenerOptions},
    message::{
        Message, MessageEvent, MessageSerializer, MessageValidator, OwnedMessageEvent, RecordWriter,
    },
    port::MessagePort,
    receive::Iter,
    reserve::{Batch, Slot},
    stats::Stats,
    wait::{Armed, Interest, WaitStrategy, wait_any},
    worker::{Worker, parent_port},
};

/// The serialisation library whose archives messages are; derive its traits on what you post.
#[cfg(not(loom))]
pub use rkyv;
