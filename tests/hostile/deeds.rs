//! What a victim does: everything that can be done with a port, in every way, looking at every answer.

#![allow(dead_code)] // each test binary uses a part of it

use std::time::Duration;

use ringport::{CloseReason, Interest, MessagePort, PostError};

use crate::chances::Seeded;
use crate::common::{self, channel_of, closed, now};
use crate::forger::CAPACITY;

/// The longest message that the rings take.
pub const LONGEST: usize = CAPACITY / 2 - 24;
/// A short wait.
pub const MOMENT: Duration = Duration::from_micros(60);

/// Posts bytes, by one of the ways to post.
pub fn post(port: &MessagePort, way: u64, bytes: &[u8]) -> Result<(), PostError> {
    match way % 6 {
        0 => port.try_post_bytes(bytes),
        1 => port.post_bytes_timeout(bytes, MOMENT),
        2 => {
            let mut batch = port.batch();
            batch.post_bytes(bytes)?;
            batch.publish();
            Ok(())
        }
        3 => {
            let mut slot = port.try_reserve(bytes.len())?;
            slot.write(bytes);
            slot.commit();
            Ok(())
        }
        4 => {
            let mut slot = port.reserve_timeout(bytes.len(), MOMENT)?;
            slot.write(bytes);
            slot.commit();
            Ok(())
        }
        _ => port.try_post_bytes_with(bytes, []).map_err(PostError::from),
    }
}

pub fn fill(port: &MessagePort, bytes: &[u8]) {
    while port.try_post_bytes(bytes).is_ok() {}
}

/// What a post that need not have found room says of the end.
#[track_caller]
pub fn end_of_post(answer: Result<(), PostError>) -> Option<CloseReason> {
    match answer {
        Ok(()) | Err(PostError::Full { .. } | PostError::TransfersFull { .. }) => None,
        Err(PostError::Closed(reason)) => Some(reason),
        Err(other) => panic!("{other:?}"),
    }
}

/// Does whatever can be done with a port.
pub struct Victim {
    /// `None` once it could not be taken up again.
    pub port: Option<MessagePort>,
    pub moved: bool,
    /// Peers of the ports that it sent away.
    pub away: Vec<MessagePort>,
}

impl Victim {
    pub const DEEDS: u64 = 14;

    pub fn new(port: MessagePort) -> Victim {
        Victim {
            port: Some(port),
            moved: false,
            away: Vec::new(),
        }
    }

    /// One deed; what it was told of the end, if it was.
    pub fn does(&mut self, deed: u64, random: &mut Seeded) -> Option<CloseReason> {
        let Some(port) = &self.port else {
            return Some(CloseReason::Corrupt);
        };
        let mut bytes = vec![0x5a; random.pick(&[0, 1, 40, 300, 1500, LONGEST])];
        bytes
            .iter_mut()
            .take(8)
            .for_each(|byte| *byte = random.next() as u8);
        match deed {
            0..=4 => end_of_post(post(port, random.next(), &bytes)),
            5 => {
                let mut batch = port.batch();
                let posted = (0..5).find_map(|_| end_of_post(batch.post_bytes(&bytes)));
                batch.publish();
                posted
            }
            6 => end_of_post(port.try_post_message(&common::greeting(random.below(99)))),
            7 => self.sends_a_port(&bytes),
            8 | 9 => end_of_receipt(port, random.next()),
            10 => (0..300).find_map(|_| match port.pending() {
                0 => None,
                _ => end_of_receipt(port, 0),
            }),
            11 => {
                let room = random.pick(&[0, 100, LONGEST, 1 << 40]);
                let interests = [
                    Interest::Message,
                    Interest::Room(room),
                    Interest::Either(room),
                ];
                let _ = port.arm(random.pick(&interests)).unwrap();
                let _ = port.as_fd().unwrap();
                None
            }
            12 => {
                assert!(port.pending() <= CAPACITY && port.capacity() == CAPACITY);
                assert!(format!("{port:?}").len() > 50);
                port.close_reason()
            }
            _ => {
                self.moves();
                None
            }
        }
    }

    fn sends_a_port(&mut self, bytes: &[u8]) -> Option<CloseReason> {
        let port = self.port.as_ref()?;
        let (stays, goes) = channel_of(CAPACITY);
        // The item takes sixteen bytes of its own.
        let bytes = &bytes[..bytes.len().min(LONGEST - 16)];
        let Err(error) = port.try_post_bytes_with(bytes, [goes]) else {
            self.away.push(stays);
            return None;
        };
        let (error, back) = error.into_parts();
        let [back] = <[MessagePort; 1]>::try_from(back).expect("the port comes back");
        back.try_post_bytes(b"as it was").unwrap();
        assert_eq!(now(&stays), b"as it was");
        end_of_post(Err(error))
    }

    /// Through its handle and back, as when it goes to another process.
    fn moves(&mut self) {
        self.moved = true;
        let handle = self.port.take().map(MessagePort::into_handle);
        self.port = handle.and_then(|handle| MessagePort::from_handle(handle).ok());
    }
}

/// Receives, looks at everything in it, and uses the ports.
#[track_caller]
fn end_of_receipt(port: &MessagePort, way: u64) -> Option<CloseReason> {
    let event = match way % 3 {
        0 => port.try_recv(),
        1 => port.recv_timeout(MOMENT),
        _ => port.recv_timeout(Duration::ZERO),
    };
    let event = match event {
        Ok(Some(event)) => event,
        Ok(None) => return None,
        end => return Some(closed(end)),
    };
    assert!(event.len() <= LONGEST);
    std::hint::black_box(event.bytes().iter().fold(0, |sum, byte| sum ^ byte));
    let _ = event.data::<common::Greeting>();
    assert!(event.port_count() <= 126);
    for port in event.take_ports() {
        port.try_post_bytes(b"hello from afar").unwrap();
        assert!(port.try_recv().unwrap().is_none());
    }
    None
}
