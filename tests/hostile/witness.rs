//! Who sees whether an attack did more than it may: a count of what this process has, a channel that has
//! nothing to do with it, the peers of ports that were lost on the way.

#![allow(dead_code)] // each test binary uses a part of it

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use ringport::{CloseReason, MessagePort, WaitStrategy};

use crate::common::{self, closed, now};

/// Bytes that are allocated now.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What a process that leaks would have more and more of.
#[derive(Clone, Copy, Debug)]
pub struct Holdings {
    descriptors: usize,
    segments: usize,
    allocated: usize,
    /// In KiB.
    size: u64,
    resident: u64,
}

impl Holdings {
    pub fn now() -> Holdings {
        // Else the C library may set 64 MiB of addresses aside for a thread that never uses them.
        // SAFETY: it takes numbers and has no precondition.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1)
        };
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |name| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Holdings {
            descriptors: common::count_descriptors(),
            segments: maps.matches("/memfd:").count(),
            allocated: ALLOCATED.load(Ordering::Relaxed),
            size: field("VmSize:"),
            resident: field("VmRSS:"),
        }
    }

    /// Descriptors and maps are the same, memory is nearly so.
    #[track_caller]
    pub fn assert_as(&self, before: &Holdings) {
        assert_eq!(self.descriptors, before.descriptors, "descriptors leaked");
        assert_eq!(self.segments, before.segments, "maps leaked");
        let more = self.allocated.saturating_sub(before.allocated);
        assert!(more < 8 << 10, "{more} bytes leaked");
        // An address sanitizer maps terabytes, and keeps for a while what was freed.
        const SANITIZED: u64 = 1 << 30;
        const SLACK: u64 = 2 << 10;
        if before.size < SANITIZED {
            assert!(
                self.size < before.size + 4 * SLACK,
                "{before:?} became {self:?}"
            );
            assert!(
                self.resident < before.resident + SLACK,
                "{before:?} became {self:?}"
            );
        }
    }
}

/// A channel that has nothing to do with any of it, and must not notice.
pub struct Innocent {
    near: MessagePort,
    far: MessagePort,
    done: u64,
}

impl Innocent {
    pub fn new() -> Innocent {
        let (near, far) = common::channel_of(4096);
        Innocent { near, far, done: 0 }
    }

    /// A message each way, and now and then a port.
    #[track_caller]
    pub fn works(&mut self) {
        for (from, to) in [(&self.near, &self.far), (&self.far, &self.near)] {
            from.try_post_bytes(&common::sample(self.done)).unwrap();
            assert_eq!(common::now(to), common::sample(self.done));
            self.done += 1;
        }
        if self.done % 16 == 0 {
            let (stays, goes) = common::channel_of(4096);
            self.near.try_post_bytes_with(b"a port", [goes]).unwrap();
            let event = self.far.try_recv().unwrap().unwrap();
            let came = event.take_ports().pop().unwrap();
            came.try_post_bytes(b"came").unwrap();
            assert_eq!(common::now(&stays), b"came");
        }
    }
}

/// Whether a port learns, before long, that its peer is no more.
#[track_caller]
pub fn is_told(port: &MessagePort) -> bool {
    matches!(
        end_of(port),
        CloseReason::ClosedByPeer | CloseReason::PeerGone
    )
}

/// How a port ends, which must be soon. Messages before that are thrown away.
#[track_caller]
pub fn end_of(port: &MessagePort) -> CloseReason {
    loop {
        match port.recv_timeout(common::AT_ONCE) {
            Ok(Some(_)) => {}
            end => return closed(end),
        }
    }
}

/// Uses both ends of a channel: messages with waits between them, and ports there and back.
pub fn works(near: MessagePort, far: MessagePort) {
    let echo = std::thread::spawn(move || {
        for event in far.iter() {
            let ports = event.take_ports();
            far.post_bytes_with(event.bytes(), ports).unwrap();
        }
    });
    near.set_wait_strategy(WaitStrategy::Block);
    for index in 0..40 {
        let (stays, goes) = common::channel_of(4096);
        let ports = (index % 4 == 0).then_some(goes);
        let count = usize::from(ports.is_some());
        near.post_bytes_with(&common::sample(index), ports).unwrap();
        let event = near.recv_timeout(common::PATIENCE).unwrap().unwrap();
        assert_eq!(event.bytes(), common::sample(index));
        let ports = event.take_ports();
        assert_eq!(ports.len(), count);
        for port in ports {
            port.try_post_bytes(b"there and back").unwrap();
            assert_eq!(now(&stays), b"there and back");
        }
    }
    drop(near);
    echo.join().unwrap();
}
