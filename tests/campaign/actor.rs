//! One process of the campaign: it does at random whatever can be done with ports, and writes it down.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ringport::{Armed, ChannelOptions, Interest, MessageChannel, MessagePort};

use super::log::{Event, Log};
use super::parcel::{Dice, PortId, Stay};
use crate::common;

/// What an actor does wrong on purpose, to show that the oracle sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// One message that was received is thrown away.
    LoseMessage,
    /// Two messages are taken in the wrong order.
    SwapMessages,
    /// One port that was received is lost from sight, neither used nor closed.
    LosePort,
}

impl Sabotage {
    pub const ALL: [Sabotage; 4] = [
        Sabotage::None,
        Sabotage::LoseMessage,
        Sabotage::SwapMessages,
        Sabotage::LosePort,
    ];
}

/// What an actor remembers of a port; the rest of it is in the library.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    pub stay: Stay,
    /// The number of the next message posted here.
    pub next: u64,
    /// The port between an actor and the coordinator stays where it is.
    pub fixed: bool,
    pub said_last: bool,
    pub heard_last: bool,
}

impl Card {
    fn is_free(&self) -> bool {
        !self.fixed && self.is_open()
    }

    fn is_open(&self) -> bool {
        !self.said_last && !self.heard_last
    }
}

/// A port and its card.
pub struct Holding {
    pub card: Card,
    pub port: MessagePort,
}

pub struct Actor {
    pub me: u64,
    pub dice: Dice,
    pub log: Log,
    pub holdings: Vec<Holding>,
    /// Channels made and messages posted, for their names.
    named: u64,
    /// Set when the coordinator has said its last.
    pub finishing: bool,
    /// Steps in a row that found nothing to do.
    idle: u32,
    pub sabotage: Sabotage,
    pub received: u64,
    /// How long nothing at all may happen while others must still be heard.
    pub patience: Duration,
}

impl Actor {
    pub fn new(me: u64, seed: u64, log: Log, sabotage: Sabotage) -> Actor {
        Actor {
            me,
            dice: Dice::new(seed, me),
            log,
            holdings: Vec::new(),
            named: 0,
            finishing: false,
            idle: 0,
            sabotage,
            received: 0,
            // One that lost a port on purpose need not wait for long.
            patience: match sabotage {
                Sabotage::None => common::PATIENCE / 2,
                _ => Duration::from_millis(500),
            },
        }
    }

    /// A name that nobody else gives.
    pub fn name(&mut self) -> u64 {
        self.named += 1;
        self.me << 32 | self.named
    }

    pub fn hold(&mut self, port: MessagePort, stay: Stay, next: u64, fixed: bool) {
        port.set_wait_strategy(common::STRATEGIES[self.dice.below(3)]);
        common::trust_if(&port, self.dice.one_in(4));
        let card = Card {
            stay,
            next,
            fixed,
            said_last: false,
            heard_last: false,
        };
        self.holdings.push(Holding { card, port });
    }

    pub fn find(&self, port: PortId) -> Option<&Holding> {
        self.holdings
            .iter()
            .find(|holding| holding.card.stay.port == port)
    }

    pub fn card(&mut self, port: PortId) -> Option<&mut Card> {
        let mut cards = self.holdings.iter_mut().map(|holding| &mut holding.card);
        cards.find(|card| card.stay.port == port)
    }

    pub fn take(&mut self, port: PortId) -> Option<Holding> {
        let mut ports = self.holdings.iter().map(|holding| holding.card.stay.port);
        let index = ports.position(|other| other == port)?;
        Some(self.holdings.swap_remove(index))
    }

    fn ports(&self, which: impl Fn(&Card) -> bool) -> Vec<PortId> {
        let cards = self.holdings.iter().map(|holding| &holding.card);
        cards
            .filter(|card| which(card))
            .map(|card| card.stay.port)
            .collect()
    }

    pub fn fault(&self, what: String) {
        eprintln!("actor {}: {what}", self.me);
        self.log.write(&Event::Fault { what });
    }

    /// Does one thing.
    pub fn step(&mut self) {
        for port in self.ports(|card| card.heard_last) {
            self.say_last(port);
        }
        let any = self.ports(|_| true);
        let Some(one) = self.dice.pick(&any) else {
            return;
        };
        let busy = match self.dice.below(100) {
            0..50 => (0..4).take_while(|_| self.receive(one, None)).count() > 0,
            50..55 => self.receive(one, Some(Duration::from_micros(300))),
            55..76 => self.post_something(),
            76..90 => self.move_some(),
            90..94 => self.make(),
            94..97 => self.close_one(),
            97..99 => self.go_through_a_handle(),
            _ => self.wait(Duration::from_millis(1)),
        };
        self.idle = if busy { 0 } else { self.idle + 1 };
        if self.idle > 12 {
            self.wait(Duration::from_millis(1));
            self.idle = 0;
        }
    }

    /// Makes a channel, unless there are enough.
    fn make(&mut self) -> bool {
        if self.holdings.len() > 12 {
            return self.close_one();
        }
        self.make_channel();
        true
    }

    pub fn make_channel(&mut self) -> [PortId; 2] {
        let capacity = [4096, 4096, 8192, 65536][self.dice.below(4)];
        let options = ChannelOptions::new().capacity(capacity);
        let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
        let channel = self.name();
        self.log.write(&Event::Made { channel });
        let ports = [channel * 2, channel * 2 + 1];
        for (port, id) in [port1, port2].into_iter().zip(ports) {
            self.hold(port, Stay { port: id, hop: 0 }, 0, false);
        }
        ports
    }

    fn close_one(&mut self) -> bool {
        let free = self.ports(Card::is_free);
        let Some(holding) = self.dice.pick(&free).and_then(|port| self.take(port)) else {
            return false;
        };
        let stay = holding.card.stay;
        self.log.write(&Event::Closing { stay });
        if self.dice.one_in(2) {
            holding.port.close();
        }
        drop(holding);
        self.log.write(&Event::Closed { stay });
        true
    }

    fn go_through_a_handle(&mut self) -> bool {
        let any = self.ports(|_| true);
        let Some(holding) = self.dice.pick(&any).and_then(|port| self.take(port)) else {
            return false;
        };
        let Holding { card, port } = holding;
        match MessagePort::from_handle(port.into_handle()) {
            Ok(port) => self.holdings.push(Holding { card, port }),
            Err(error) => self.fault(format!("{card:?} is no port any more: {error:?}")),
        }
        true
    }

    fn post_something(&mut self) -> bool {
        let open = self.ports(Card::is_open);
        let from = self.dice.pick(&open);
        from.is_some_and(|from| self.post(from, &[], false))
    }

    /// Sends some ports away, mostly few.
    fn move_some(&mut self) -> bool {
        let open = self.ports(Card::is_open);
        let Some(from) = self.dice.pick(&open) else {
            return false;
        };
        let most = if self.dice.one_in(10) { 12 } else { 3 };
        let mut along = Vec::new();
        for _ in 0..=self.dice.below(most) {
            let free = self.ports(|card| {
                card.is_free() && card.stay.port != from && !along.contains(&card.stay.port)
            });
            along.extend(self.dice.pick(&free));
        }
        self.post(from, &along, false)
    }

    /// Waits until something comes on any port, as a foreign event loop does.
    fn wait(&self, timeout: Duration) -> bool {
        let mut polls = Vec::new();
        for Holding { card, port } in &self.holdings {
            let said_last = card.said_last || !self.finishing;
            let interest = if said_last {
                Interest::Message
            } else {
                Interest::Either(port.max_message_len())
            };
            match (port.arm(interest), port.as_fd()) {
                (Ok(Armed::Ready), _) => return true,
                (Ok(Armed::Wait), Ok(fd)) => polls.push(libc::pollfd {
                    fd: fd.as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                }),
                (armed, fd) => self.fault(format!("{armed:?}, {fd:?} at {:?}", card.stay)),
            }
        }
        let count = polls.len() as libc::nfds_t;
        // SAFETY: the array is alive and `count` long.
        let ready = unsafe { libc::poll(polls.as_mut_ptr(), count, timeout.as_millis() as i32) };
        ready > 0
    }

    /// Says the last on every port, and hears everybody out. `nap` is how long to sleep when nothing comes: the
    /// coordinator's are short, for it looks for cycles; all others rely on being woken.
    pub fn finish(&mut self, nap: Duration) {
        self.finishing = true;
        let mut progress = Instant::now();
        while !self.holdings.is_empty() {
            let mut busy = false;
            for port in self.ports(|_| true) {
                busy |= self.say_last(port);
                while self.receive(port, None) {
                    busy = true;
                }
                busy |= self.say_last(port);
            }
            if busy {
                progress = Instant::now();
                continue;
            }
            if !self.wait(nap) && progress.elapsed() >= self.patience {
                let left: Vec<_> = self.holdings.iter().map(|one| one.card).collect();
                return self.fault(format!("nothing woke it, and these wait: {left:?}"));
            }
            look_for_cycles();
        }
    }
}

/// Makes the kernel look for sockets that only each other's queues hold: any that closes does.
pub fn look_for_cycles() {
    drop(UnixStream::pair());
}
