//! What the actors say to each other: numbered, checksummed, and naming every port that comes along.

use rkyv::{Archive, Deserialize, Serialize};

/// A port of the campaign: twice its channel's number, plus its side. The library knows nothing of it.
pub type PortId = u64;

/// The other end.
pub fn peer(port: PortId) -> PortId {
    port ^ 1
}

/// A port's stay with one holder: the maker's is number 0, and each transfer begins the next one.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stay {
    pub port: PortId,
    pub hop: u64,
}

/// A port that comes along, and what its next holder must know.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passenger {
    /// The stay that begins when it is received.
    pub stay: Stay,
    /// The number of the next message posted on it.
    pub next: u64,
}

/// One message.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// This attempt to post it; no other attempt of anybody has this number.
    pub message: u64,
    /// The port it was posted on.
    pub from: PortId,
    /// How many were posted on that port before.
    pub number: u64,
    /// Whether nothing will follow.
    pub last: bool,
    pub passengers: Vec<Passenger>,
    pub filler: Vec<u8>,
    /// Over all of the above.
    pub checksum: u64,
}

impl Parcel {
    /// With its checksum.
    pub fn sealed(mut self) -> Parcel {
        self.checksum = self.sum();
        self
    }

    /// Whether it is what was posted.
    pub fn is_sound(&self) -> bool {
        self.checksum == self.sum()
    }

    fn sum(&self) -> u64 {
        let head = [
            self.message,
            self.from,
            self.number,
            self.last.into(),
            self.passengers.len() as u64,
            self.filler.len() as u64,
        ];
        let passengers = self.passengers.iter();
        let passengers = passengers.flat_map(|p| [p.stay.port, p.stay.hop, p.next]);
        let filler = self.filler.iter().map(|byte| u64::from(*byte));
        let words = head.into_iter().chain(passengers).chain(filler);
        words.fold(0xcbf2_9ce4_8422_2325, |sum, word| {
            (sum ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(23)
        })
    }
}

/// Decisions that follow from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, who: u64) -> Dice {
        let mut dice = Dice(seed ^ who.wrapping_mul(0xd6e8_feb8_6659_fd93));
        dice.roll();
        dice
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `below` - 1.
    pub fn below(&mut self, below: usize) -> usize {
        (self.roll() % below as u64) as usize
    }

    /// Whether this is one of so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of them, or nothing if there is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())])
    }
}
