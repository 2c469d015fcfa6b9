//! The polling calls, as most tests want to have them answered.

#![allow(dead_code)] // each test binary uses a part of it

use std::task::Poll;

use ringport::MessagePort;

/// What is received now, if it is not pending.
#[track_caller]
pub fn received(port: &MessagePort) -> Option<Vec<u8>> {
    match port.poll_recv() {
        Poll::Ready(event) => Some(event.unwrap().bytes().to_vec()),
        Poll::Pending => None,
    }
}

/// Whether it could be posted, and is not pending.
#[track_caller]
pub fn posted(port: &MessagePort, bytes: &[u8]) -> bool {
    match port.poll_post_bytes(bytes) {
        Poll::Ready(posted) => {
            posted.unwrap();
            true
        }
        Poll::Pending => false,
    }
}

/// What fills a ring.
pub const MESSAGE: [u8; 100] = [7; 100];

/// Posts until that is pending.
pub fn fill(port: &MessagePort) {
    while posted(port, &MESSAGE) {}
}

/// Receives all that is there, and waits for nothing after that.
pub fn empty(port: &MessagePort) {
    while port.try_recv().unwrap().is_some() {}
}
