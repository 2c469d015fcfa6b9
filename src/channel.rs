//! Making a channel: a segment, two doorbells, two ports.

use crate::MessagePort;
use crate::doorbell::Doorbell;
use crate::error::NewError;
use crate::fork::Home;
use crate::segment::Segment;
use crate::socket::inode_of;

/// The smallest capacity of a ring, in bytes: one page.
pub(crate) const MIN_CAPACITY: usize = 4 << 10;
/// The largest capacity of a ring, in bytes.
pub(crate) const MAX_CAPACITY: usize = 1 << 30;
const DEFAULT_CAPACITY: usize = 64 << 10;

/// Two entangled ports: what is posted on one arrives on the other.
///
/// # Examples
///
/// ```
/// use ringport::MessageChannel;
///
/// let MessageChannel { port1, port2 } = MessageChannel::new()?;
/// port1.post_bytes(b"ping")?;
/// assert_eq!(port2.recv()?.bytes(), b"ping");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MessageChannel {
    /// One end.
    pub port1: MessagePort,
    /// The other end.
    pub port2: MessagePort,
}

impl MessageChannel {
    /// Makes a channel with rings of 64 KiB each way.
    ///
    /// # Errors
    ///
    /// [`NewError::System`] when the process is out of descriptors (a channel takes four),
    /// [`NewError::Memory`] when memory or maps are short.
    pub fn new() -> Result<MessageChannel, NewError> {
        MessageChannel::with_options(&ChannelOptions::new())
    }

    /// Makes a channel as `options` say.
    ///
    /// # Errors
    ///
    /// As [`new`](MessageChannel::new); [`NewError::Capacity`] for a capacity that cannot be,
    /// [`NewError::Lock`] when the memory cannot be locked.
    pub fn with_options(options: &ChannelOptions) -> Result<MessageChannel, NewError> {
        options.checked_capacities()?;
        let home = Home::here()?;
        let (bell1, bell2) = Doorbell::pair()?;
        let segment1 = Segment::create(options, inode_of(&bell1)?)?;
        let segment2 = segment1.again()?;
        Ok(MessageChannel {
            port1: MessagePort::first(segment1, bell1, home),
            port2: MessagePort::second(segment2, bell2, home),
        })
    }
}

/// What a new channel should be like.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    capacities: [usize; 2],
    pub(crate) prefault: bool,
    pub(crate) lock_memory: bool,
}

impl Default for ChannelOptions {
    fn default() -> ChannelOptions {
        ChannelOptions {
            capacities: [DEFAULT_CAPACITY; 2],
            prefault: false,
            lock_memory: false,
        }
    }
}

impl ChannelOptions {
    /// 64 KiB each way, committed as it is used, not locked.
    pub fn new() -> ChannelOptions {
        ChannelOptions::default()
    }

    /// Sets the capacity of both rings in bytes: a power of two from 4 KiB to 1 GiB.
    ///
    /// A message can be as long as half of it less 24 bytes. Memory is used only as far as messages
    /// have reached into the ring, and a page ahead.
    pub fn capacity(self, bytes: usize) -> ChannelOptions {
        self.capacity_1_to_2(bytes).capacity_2_to_1(bytes)
    }

    /// Sets the capacity of the ring in which `port1` posts.
    pub fn capacity_1_to_2(mut self, bytes: usize) -> ChannelOptions {
        self.capacities[0] = bytes;
        self
    }

    /// Sets the capacity of the ring in which `port2` posts.
    pub fn capacity_2_to_1(mut self, bytes: usize) -> ChannelOptions {
        self.capacities[1] = bytes;
        self
    }

    /// Commits all of the memory at once, so that none can be missing later.
    pub fn prefault(mut self, yes: bool) -> ChannelOptions {
        self.prefault = yes;
        self
    }

    /// Locks the memory, so that it is never swapped out.
    ///
    /// It holds for the mapping made here, not for that of a process to which a port moves. The limit is
    /// `RLIMIT_MEMLOCK`.
    pub fn lock_memory(mut self, yes: bool) -> ChannelOptions {
        self.lock_memory = yes;
        self
    }

    pub(crate) fn largest_capacity(&self) -> usize {
        self.capacities[0].max(self.capacities[1])
    }

    pub(crate) fn checked_capacities(&self) -> Result<[u64; 2], NewError> {
        for value in self.capacities {
            if !value.is_power_of_two() || !(MIN_CAPACITY..=MAX_CAPACITY).contains(&value) {
                return Err(NewError::Capacity { value });
            }
        }
        Ok(self.capacities.map(|bytes| bytes as u64))
    }
}
