//! A partner that is a thread of the lead, for rivals that do not cross processes.

use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use super::{Order, Partner, pin_to_peer_cpu};

/// The thread, on the peer's CPU.
pub struct Thread {
    orders: Sender<u64>,
    thread: JoinHandle<()>,
}

impl Thread {
    /// Starts it; `half` is called as a peer's is.
    pub fn start(mut half: impl FnMut(u64) + Send + 'static) -> Thread {
        let (orders, halves) = mpsc::channel();
        let thread = thread::spawn(move || {
            pin_to_peer_cpu();
            halves.into_iter().for_each(&mut half);
        });
        Thread { orders, thread }
    }

    /// Lets it end, and checks that it ended well.
    pub fn finish(self) {
        drop(self.orders);
        self.thread.join().expect("the thread ends well");
    }
}

impl Partner for Thread {
    fn tell(&mut self, order: Order) {
        for units in [order.warm_up, order.units] {
            self.orders.send(units).expect("the thread lives");
        }
    }

    /// The lead's own, whose threads are all counted; so nothing is added.
    fn process(&self) -> u32 {
        0
    }
}
