//! Proof that a forked child reached nothing: every call there answers `Forked`, and the channel, seen from outside,
//! is as it was, byte by byte.

#![allow(dead_code)] // each test binary uses a part of it

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use ringport::{
    CloseReason, Interest, MessagePort, PortHandle, PostError, RecvError, ReserveError,
    TransferError,
};

use crate::common::{PATIENCE, channel, channel_of, closed, greeting, nothing, now, sample};

/// A look at all of a channel from outside.
pub struct Spy {
    segment: File,
    doorbells: [OwnedFd; 2],
}

/// What the look has shown.
#[derive(PartialEq, Eq)]
pub struct Seen {
    memory: Vec<u8>,
    /// For each end: bytes that wait there, and whether the other end hung up.
    doorbells: [(i32, i16); 2],
}

impl Seen {
    /// Bytes that wait at each end.
    pub fn unread(&self) -> [i32; 2] {
        self.doorbells.map(|(unread, _)| unread)
    }
}

impl Spy {
    /// A channel, and a spy on it.
    pub fn channel(capacity: usize) -> (Spy, MessagePort, MessagePort) {
        let (port1, port2) = channel_of(capacity);
        let handles = [port1.into_handle(), port2.into_handle()];
        let doorbell = |handle: &PortHandle| handle.doorbell.try_clone().unwrap();
        let spy = Spy {
            segment: File::from(handles[0].segment.try_clone().unwrap()),
            doorbells: [doorbell(&handles[0]), doorbell(&handles[1])],
        };
        let [port1, port2] = handles.map(|handle| MessagePort::from_handle(handle).unwrap());
        (spy, port1, port2)
    }

    pub fn look(&self) -> Seen {
        let mut memory = vec![0; self.segment.metadata().unwrap().len() as usize];
        self.segment.read_exact_at(&mut memory, 0).unwrap();
        let doorbells = [0, 1].map(|end| {
            let fd = self.doorbells[end].as_raw_fd();
            let mut unread = 0;
            // SAFETY: FIONREAD writes one int, which is alive.
            assert_eq!(unsafe { libc::ioctl(fd, libc::FIONREAD, &mut unread) }, 0);
            let mut poll = libc::pollfd {
                fd,
                events: libc::POLLRDHUP,
                revents: 0,
            };
            // SAFETY: one valid pollfd, which lives through the call.
            assert!(unsafe { libc::poll(&mut poll, 1, 0) } >= 0);
            (unread, poll.revents)
        });
        Seen { memory, doorbells }
    }

    /// Nothing has changed since.
    #[track_caller]
    pub fn assert_as(&self, before: &Seen) {
        let now = self.look();
        assert_eq!(now.doorbells, before.doorbells, "a doorbell was touched");
        let same = now.memory.iter().zip(&before.memory);
        let changed = same.enumerate().find(|(_, (now, before))| now != before);
        assert_eq!(changed, None, "the memory was written to");
    }
}

/// Messages and ports go both ways.
#[track_caller]
pub fn assert_alive(one: &MessagePort, two: &MessagePort) {
    for (from, to) in [(one, two), (two, one)] {
        for index in 0..20 {
            from.try_post_bytes(&sample(index)).unwrap();
            assert_eq!(now(to), sample(index));
        }
        let (kept, sent) = channel();
        from.try_post_bytes_with(b"take this", [sent]).unwrap();
        let event = to.try_recv().unwrap().expect("a message");
        let [sent] = <[MessagePort; 1]>::try_from(event.take_ports()).unwrap();
        kept.post_bytes(&sample(1)).unwrap();
        assert_eq!(now(&sent), sample(1));
        drop(sent);
        assert_eq!(closed(kept.recv()), CloseReason::ClosedByPeer);
    }
    assert!(nothing(one) && nothing(two));
}

/// The transfer was refused because of the fork; the ports that came back.
#[track_caller]
pub fn refused(result: Result<(), TransferError>) -> Vec<MessagePort> {
    let (error, ports) = result.expect_err("posted by a forked child").into_parts();
    assert!(matches!(error, PostError::Forked), "{error:?}");
    assert!(error.to_string().contains("fork"), "{error}");
    ports
}

/// Every call that could reach the channel answers `Forked`, at once.
#[track_caller]
pub fn assert_forked(port: &MessagePort) {
    let posted = |result: Result<(), PostError>| {
        let error = result.expect_err("posted by a forked child");
        assert!(matches!(error, PostError::Forked), "{error:?}");
    };
    posted(port.post_bytes(b"x"));
    posted(port.try_post_bytes(b"x"));
    posted(port.post_bytes_timeout(b"x", PATIENCE));
    posted(port.post_message(&greeting(1)));
    posted(port.try_post_message(&greeting(1)));
    posted(port.post_message_timeout(&greeting(1), PATIENCE));
    posted(port.post_bytes(&vec![0; port.max_message_len() + 1]));
    let mut batch = port.batch();
    posted(batch.post_bytes(b"x"));
    posted(batch.post(&greeting(1)));
    assert!(batch.is_empty());
    assert_eq!(batch.publish(), 0);

    let reserved = |result: Result<_, ReserveError>| {
        let error = result.map(drop).expect_err("reserved by a forked child");
        assert!(matches!(error, ReserveError::Forked), "{error:?}");
    };
    reserved(port.reserve(9));
    reserved(port.try_reserve(9));
    reserved(port.reserve_timeout(9, PATIENCE));
    reserved(port.reserve_aligned(9, 64));

    let received = |result: Result<(), RecvError>| {
        let error = result.expect_err("received by a forked child");
        assert!(matches!(error, RecvError::Forked), "{error:?}");
    };
    received(port.recv().map(drop));
    received(port.try_recv().map(drop));
    received(port.recv_timeout(PATIENCE).map(drop));
    assert!(port.iter().next().is_none());

    for interest in [Interest::Message, Interest::Room(9), Interest::Either(9)] {
        assert!(port.arm(interest).is_err());
    }
    assert!(port.as_fd().is_err());

    // As a carrier it is refused, and gives back what it was to carry.
    let (kept, mut sent) = channel();
    let [given] =
        <[MessagePort; 1]>::try_from(refused(port.post_bytes_with(b"x", [sent]))).unwrap();
    sent = given;
    for post in [MessagePort::try_post_bytes_with, |port, bytes, ports| {
        port.post_bytes_with_timeout(bytes, ports, PATIENCE)
    }]
        as [fn(&MessagePort, &[u8], [MessagePort; 1]) -> Result<(), TransferError>; 2]
    {
        sent = refused(post(port, b"x", [sent])).pop().unwrap();
    }
    for post in [
        MessagePort::post_message_with,
        MessagePort::try_post_message_with,
        |port, value, ports| port.post_message_with_timeout(value, ports, PATIENCE),
    ] as [fn(&MessagePort, &u64, [MessagePort; 1]) -> Result<(), TransferError>; 3]
    {
        sent = refused(post(port, &7, [sent])).pop().unwrap();
    }
    assert!(refused(port.post_bytes_with(b"x", [])).is_empty());
    assert_alive(&kept, &sent);

    // What only tells of it still does.
    let _ = (
        port.pending(),
        port.stats(),
        port.capacity(),
        port.wait_strategy(),
    );
    assert!(format!("{port:?}").contains("MessagePort"));
}
