//! A peer that is going to die, and what its survivor must find.

use std::process::{Child, Stdio};
use std::thread;

use ringport::{CloseReason, MessagePort, PostError, WaitStrategy, Worker};

use super::{
    AT_ONCE, Counters, PATIENCE, closed, command, parent, post_closed, sample, strategy, tell,
};

/// A victim that plays `role`, with counters that outlive it.
pub fn victim(role: &str, strategy: WaitStrategy, how: &str) -> (MessagePort, Child, Counters) {
    let counters = Counters::new();
    let mut command = command(role);
    counters.give_to(&mut command);
    tell(&mut command, strategy, how);
    if !how.is_empty() {
        // What it says as it dies is not a failure of this test.
        command.stderr(Stdio::null());
    }
    let (port, child) = Worker::spawn(command).unwrap().into_parts();
    (port, child, counters)
}

/// What every role begins with.
pub fn on_stage() -> (MessagePort, Counters) {
    let port = parent();
    port.set_wait_strategy(strategy());
    (port, Counters::given())
}

/// Kills and buries.
pub fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Receives what is left, which must be `first`, `first + 1`, … and gives how many and the end.
#[track_caller]
pub fn rest(port: &MessagePort, first: u64) -> (u64, CloseReason) {
    let mut index = first;
    loop {
        match port.recv_timeout(PATIENCE) {
            Ok(Some(event)) => assert_eq!(event.bytes(), sample(index)),
            Ok(None) => panic!("neither a message nor the end"),
            end => return (index, closed(end)),
        }
        index += 1;
    }
}

/// The channel is over: every call says so, and says why.
#[track_caller]
pub fn assert_over(port: &MessagePort, reason: CloseReason) {
    for _ in 0..2 {
        assert_eq!(closed(port.recv()), reason);
        assert_eq!(closed(port.try_recv()), reason);
        assert_eq!(closed(port.recv_timeout(AT_ONCE)), reason);
        assert_eq!(post_closed(port.post_bytes(b"x")), reason);
        assert_eq!(post_closed(port.try_post_bytes(b"x")), reason);
        assert_eq!(post_closed(port.post_bytes_timeout(b"x", AT_ONCE)), reason);
        assert_eq!(
            post_closed(port.reserve(9).map(drop).map_err(PostError::from)),
            reason
        );
        assert!(port.is_closed());
        assert_eq!(port.close_reason(), Some(reason));
    }
}

pub fn idle() {
    loop {
        thread::park();
    }
}
