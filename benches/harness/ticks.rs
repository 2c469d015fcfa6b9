//! Typed messages: a struct, validated on arrival.

use ringport::MessagePort;
use rkyv::{Archive, Deserialize, Serialize};

use super::payload;
use super::work::End;

/// A small message as programs have them: 24 bytes, also when archived.
#[derive(Archive, Serialize, Deserialize)]
struct Tick {
    sequence: u64,
    price: i64,
    volume: u64,
}

/// Its bytes.
pub const TICK: usize = 24;

/// A port that posts and receives ticks.
pub struct Typed(pub MessagePort);

impl End<TICK> for Typed {
    fn send(&mut self, sequence: u64) {
        let [sequence, price, volume] = payload::words(sequence);
        let tick = Tick {
            sequence,
            price: price as i64,
            volume,
        };
        self.0.post_message(&tick).expect("the peer is alive");
    }

    /// Shows the words as the validated archive has them.
    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        let event = self.0.recv().expect("the peer is alive");
        assert_eq!(event.len(), TICK);
        let tick = event.data::<Tick>().expect("a valid tick");
        let words = [
            tick.sequence.to_native(),
            tick.price.to_native() as u64,
            tick.volume.to_native(),
        ];
        look(words.map(u64::to_le_bytes).as_flattened())
    }
}
