//! A model of a channel whose two ends are both in one thread: it knows at each moment what is there, and so what
//! every call must answer and when a descriptor must be readable.

mod looking;

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use ringport::{
    Armed, Interest, MessageEvent, MessagePort, PostError, RecvError, WaitStrategy, wait_any,
};

use crate::calls::Call;
use crate::common::channel_of;
use crate::gauges::Edges;

const CAPACITY: usize = 4096;
/// Fewer messages with ports than would clog a doorbell by themselves.
const MOST_WITH_PORTS: usize = 8;

/// How the descriptors are watched.
pub enum Watching {
    Level,
    Edge(Edges),
}

/// What somebody waits for, and whether the descriptor has told him since.
#[derive(Clone, Copy, Debug)]
struct Waiting<W> {
    what: W,
    told: bool,
}

/// Somebody begins to wait.
fn begun<W>(what: W) -> Option<Waiting<W>> {
    Some(Waiting { what, told: false })
}

#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    ports: usize,
}

/// One end, and the ring in which it posts.
struct End {
    port: Rc<MessagePort>,
    /// Posted here and not yet received there.
    sent: VecDeque<Message>,
    written: usize,
    read: usize,
    receiving: Option<Waiting<()>>,
    posting: Option<Waiting<usize>>,
    armed: Option<Waiting<(bool, Option<usize>)>>,
}

impl End {
    fn new(port: MessagePort) -> End {
        End {
            port: Rc::new(port),
            sent: VecDeque::new(),
            written: 8,
            read: 8,
            receiving: None,
            posting: None,
            armed: None,
        }
    }

    /// Whether a message of `len` bytes, items included, can be posted.
    fn fits(&self, len: usize) -> bool {
        let size = (8 + len).next_multiple_of(16);
        let offset = self.written % CAPACITY;
        let start = if offset + size > CAPACITY {
            self.written - offset + CAPACITY + 8
        } else {
            self.written
        };
        start + size + 8 <= self.read + CAPACITY
    }

    /// Whether who waits for such room is told of it.
    fn is_told_of(&self, len: usize) -> bool {
        self.fits(len) && self.written - self.read <= CAPACITY / 4 * 3
    }

    /// Whether many rings may lie behind the descriptors of messages sent here, so that who waits there for
    /// something else is told to look, not too often.
    fn may_clog(&self) -> bool {
        self.sent.iter().any(|message| message.ports > 0)
    }

    /// A call other than those of polling ends all waiting.
    fn other_call(&mut self) {
        self.receiving = None;
        self.posting = None;
        self.armed = None;
    }
}

pub struct Model {
    ends: [End; 2],
    watching: Watching,
    /// Makes each message differ.
    count: u8,
}

impl Model {
    pub fn new(strategies: [WaitStrategy; 2], edges: bool) -> Model {
        let (port1, port2) = channel_of(CAPACITY);
        port1.set_wait_strategy(strategies[0]);
        port2.set_wait_strategy(strategies[1]);
        let watching = if edges {
            Watching::Edge(Edges::of([&port1, &port2]))
        } else {
            Watching::Level
        };
        Model {
            ends: [End::new(port1), End::new(port2)],
            watching,
            count: 0,
        }
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.count = self.count.wrapping_add(1);
        vec![self.count; len]
    }

    /// Received at this end: it must be the message that waits there.
    fn received(&mut self, end: usize, event: &MessageEvent<'_>) {
        let sender = &mut self.ends[1 - end];
        let message = sender.sent.pop_front().expect("nothing was posted");
        assert_eq!(event.bytes(), message.bytes);
        assert_eq!(event.port_count(), message.ports);
        let waiting = self.ends[end].port.pending();
        let sender = &mut self.ends[1 - end];
        sender.read = sender.written - waiting;
    }

    /// A post at this end, which must have gone through if there was room, and otherwise not.
    fn posted(&mut self, end: usize, bytes: Vec<u8>, ports: usize, accepted: bool) {
        let waiting = self.ends[1 - end].port.pending();
        let this = &mut self.ends[end];
        let fits = this.fits(ports.next_multiple_of(16) + bytes.len());
        assert_eq!(accepted, fits, "whether {} bytes fit", bytes.len());
        if accepted {
            this.sent.push_back(Message { bytes, ports });
            this.written = this.read + waiting;
        }
    }

    pub fn make(&mut self, end: usize, call: Call) {
        match call {
            Call::PollRecv => {
                self.poll_recv(end);
            }
            Call::PollPost(len) => {
                self.poll_post(end, len, false);
            }
            Call::PollPostTyped(len) => {
                self.poll_post(end, len, true);
            }
            Call::PollRecvAll => while self.poll_recv(end) {},
            Call::PollPostAll(len) => while self.poll_post(end, len, false) {},
            Call::Recv => self.receive(end, |port| port.try_recv()),
            Call::RecvFor(time) => self.receive(end, |port| port.recv_timeout(time)),
            Call::Post(len) => {
                self.post(end, len, |port, bytes| port.try_post_bytes(bytes));
            }
            Call::PostFor(len, time) => {
                self.post(end, len, |port, bytes| port.post_bytes_timeout(bytes, time));
            }
            Call::Fill(len) => {
                while self.post(end, len, |port, bytes| port.try_post_bytes(bytes)) {}
            }
            Call::Take(count) => (0..count).for_each(|_| self.receive(end, |port| port.try_recv())),
            Call::PostPort(len) => self.post_port(end, len),
            Call::ArmMessage => self.arm(end, true, None, Interest::Message),
            Call::ArmRoom(len) => self.arm(end, false, Some(len), Interest::Room(len)),
            Call::ArmEither(len) => self.arm(end, true, Some(len), Interest::Either(len)),
            Call::WaitAny(both, time) => self.wait_any(end, both, time),
            Call::IsClosed => assert!(!self.ends[end].port.is_closed()),
        }
    }

    /// Whether a message was there.
    fn poll_recv(&mut self, end: usize) -> bool {
        self.ends[end].armed = None;
        let port = Rc::clone(&self.ends[end].port);
        let polled = port.poll_recv();
        let ready = polled.is_ready();
        match polled {
            Poll::Ready(event) => {
                self.received(end, &event.unwrap());
                self.ends[end].receiving = None;
            }
            Poll::Pending => {
                assert!(self.ends[1 - end].sent.is_empty(), "a message was there");
                self.ends[end].receiving = begun(());
            }
        }
        ready
    }

    /// Whether it was posted.
    fn poll_post(&mut self, end: usize, len: usize, typed: bool) -> bool {
        self.ends[end].armed = None;
        let value = self.bytes(len);
        let port = &self.ends[end].port;
        let (bytes, polled) = if typed {
            let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&value).unwrap();
            (bytes.to_vec(), port.poll_post(&value))
        } else {
            let polled = port.poll_post_bytes(&value);
            (value, polled)
        };
        let (len, ready) = (bytes.len(), polled.is_ready());
        match polled {
            Poll::Ready(posted) => {
                posted.unwrap();
                self.ends[end].posting = None;
            }
            Poll::Pending => self.ends[end].posting = begun(len),
        }
        self.posted(end, bytes, 0, ready);
        ready
    }

    fn receive(
        &mut self,
        end: usize,
        call: impl for<'p> Fn(&'p MessagePort) -> Result<Option<MessageEvent<'p>>, RecvError>,
    ) {
        self.ends[end].other_call();
        let port = Rc::clone(&self.ends[end].port);
        match call(&port).unwrap() {
            Some(event) => self.received(end, &event),
            None => assert!(self.ends[1 - end].sent.is_empty(), "a message was there"),
        }
    }

    /// Whether it was posted.
    fn post(
        &mut self,
        end: usize,
        len: usize,
        call: impl Fn(&MessagePort, &[u8]) -> Result<(), PostError>,
    ) -> bool {
        self.ends[end].other_call();
        let bytes = self.bytes(len);
        let accepted = match call(&self.ends[end].port, &bytes) {
            Ok(()) => true,
            Err(PostError::Full { .. }) => false,
            Err(other) => panic!("{other:?}"),
        };
        self.posted(end, bytes, 0, accepted);
        accepted
    }

    fn post_port(&mut self, end: usize, len: usize) {
        let with_ports = self.ends[end].sent.iter().map(|message| message.ports);
        if with_ports.sum::<usize>() >= MOST_WITH_PORTS {
            return;
        }
        self.ends[end].other_call();
        let bytes = self.bytes(len);
        let port = &self.ends[end].port;
        let accepted = match port.try_post_bytes_with(&bytes, [channel_of(4096).0]) {
            Ok(()) => true,
            Err(error) => {
                assert!(matches!(error.error(), PostError::Full { .. }), "{error:?}");
                false
            }
        };
        self.posted(end, bytes, 1, accepted);
    }

    fn arm(&mut self, end: usize, message: bool, room: Option<usize>, interest: Interest) {
        self.ends[end].other_call();
        let armed = self.ends[end].port.arm(interest).unwrap();
        let there = message && !self.ends[1 - end].sent.is_empty()
            || room.is_some_and(|len| self.ends[end].fits(len));
        assert!(
            (armed == Armed::Ready) == there || self.ends[1 - end].may_clog(),
            "{interest:?}: {armed:?}"
        );
        if armed == Armed::Wait {
            self.ends[end].armed = begun((message, room));
        }
    }

    fn wait_any(&mut self, end: usize, both: bool, time: Duration) {
        let list = if both { vec![0, 1] } else { vec![end] };
        list.iter().for_each(|end| self.ends[*end].other_call());
        let ports: Vec<_> = list.iter().map(|end| &*self.ends[*end].port).collect();
        let is_ready = |at: &usize| !self.ends[1 - list[*at]].sent.is_empty();
        match wait_any(&ports, Some(time)).unwrap() {
            Some(found) => assert!(is_ready(&found), "what it found is not there"),
            None => assert!(!(0..list.len()).any(|at| is_ready(&at)), "one was ready"),
        }
    }
}
