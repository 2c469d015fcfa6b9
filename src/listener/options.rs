//! Who may connect, and with what.

use crate::channel::MAX_CAPACITY;

const DEFAULT_LARGEST: usize = 64 << 20;
const DEFAULT_BACKLOG: u16 = 128;

/// Who may connect to a listener, and with what.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    users: Vec<u32>,
    any_user: bool,
    pub(super) largest_capacity: usize,
    pub(super) backlog: u16,
}

impl Default for ListenerOptions {
    fn default() -> ListenerOptions {
        ListenerOptions {
            users: Vec::new(),
            any_user: false,
            largest_capacity: DEFAULT_LARGEST,
            backlog: DEFAULT_BACKLOG,
        }
    }
}

impl ListenerOptions {
    /// This process's user only, rings of at most 64 MiB, a queue of 128 connections.
    pub fn new() -> ListenerOptions {
        ListenerOptions::default()
    }

    /// Allows another user, by its id. The kernel tells who connects; nobody can pretend.
    ///
    /// Other users cannot get at names, which live in a directory of this user's own: listen at a path.
    pub fn allow_user(mut self, user_id: u32) -> ListenerOptions {
        self.users.push(user_id);
        self
    }

    /// Allows every user who can get at the socket's path.
    pub fn allow_any_user(mut self) -> ListenerOptions {
        self.any_user = true;
        self
    }

    /// Sets the largest capacity of a client's rings, in bytes each. The client makes the channel; what it
    /// posts takes memory here too when it is received.
    pub fn largest_capacity(mut self, bytes: usize) -> ListenerOptions {
        self.largest_capacity = bytes.min(MAX_CAPACITY);
        self
    }

    /// Sets how many connections the kernel keeps waiting until they are accepted. When there are more,
    /// who connects waits.
    pub fn backlog(mut self, connections: u16) -> ListenerOptions {
        self.backlog = connections;
        self
    }

    pub(super) fn allows(&self, user_id: u32) -> bool {
        let own = nix::unistd::geteuid().as_raw();
        self.any_user || user_id == own || self.users.contains(&user_id)
    }

    pub(super) fn for_others(&self) -> bool {
        self.any_user || !self.users.is_empty()
    }
}
