//! Reading rings, and nothing else, off the front of a doorbell's queue.

use nix::errno::Errno;

/// The byte that rings.
pub(super) const RING: u8 = 0x01;
/// A descriptor byte: the rest of it is a sequence number.
pub(super) const DESCRIPTORS: u8 = 0x80;
/// More unread rings than this cannot come from an honest peer: it rings once for each thing that a sleeper
/// wants, and sleepers read them after some sleeps.
pub(super) const MOST_UNREAD: usize = 64;

/// What stands at the front of the queue once the rings before it were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Front {
    Nothing,
    Descriptors,
    HungUp,
    Corrupt,
}

/// Reads rings until there are no more, or a descriptor byte comes. `peek` gives what is there up to the
/// first byte with descriptors, and whether the last one has any; `read` reads it.
pub(super) fn drain_by(
    mut peek: impl FnMut(&mut [u8]) -> Result<(usize, bool), Errno>,
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
) -> Front {
    let mut bytes = [0; MOST_UNREAD + 1];
    let mut drained = 0;
    loop {
        let (found, carries) = match peek(&mut bytes) {
            Ok((0, _)) => return Front::HungUp,
            Ok(found) => found,
            Err(Errno::EAGAIN) => return Front::Nothing,
            // A peer that died with bytes unread leaves one ECONNRESET.
            Err(_) => return Front::HungUp,
        };
        let rings = bytes[..found].iter().take_while(|byte| **byte == RING);
        let rings = rings.count();
        let carried_by_a_ring = carries && rings == found;
        if drained + rings > MOST_UNREAD || carried_by_a_ring {
            return Front::Corrupt;
        }
        if rings > 0 {
            match read(&mut bytes[..rings]) {
                Ok(read) => drained += read,
                Err(_) => return Front::HungUp,
            }
        }
        if rings < found {
            // What stopped the rings was not overwritten: only they were read. A byte with descriptors is
            // the last that a look shows.
            return if bytes[rings] & DESCRIPTORS != 0 && carries && found == rings + 1 {
                Front::Descriptors
            } else {
                Front::Corrupt
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn s57_a_drain_comes_to_an_end_though_bytes_do_not() {
        for at_a_time in [1, 32, MOST_UNREAD] {
            let mut calls = 0;
            let front = drain_by(
                |bytes| {
                    calls += 1;
                    assert!(calls < 1000, "still draining, {at_a_time} bytes at a time");
                    bytes[..at_a_time].fill(RING);
                    Ok((at_a_time, false))
                },
                |bytes| Ok(bytes.len()),
            );
            assert_eq!(front, Front::Corrupt);
        }
    }

    /// A byte that carries descriptors, and one that does not.
    type Unread = (u8, bool);

    const BARE: Unread = (RING, false);

    /// Drains a queue and gives what is left.
    fn drained(queue: &[Unread]) -> (Front, Vec<Unread>) {
        let at = Cell::new(0);
        let front = drain_by(
            |bytes| {
                let rest = &queue[at.get()..];
                if rest.is_empty() {
                    return Err(Errno::EAGAIN);
                }
                let until = rest.len().min(bytes.len());
                let stop = rest[..until].iter().position(|(_, carries)| *carries);
                let len = stop.map_or(until, |stop| stop + 1);
                for (byte, unread) in bytes.iter_mut().zip(&rest[..len]) {
                    *byte = unread.0;
                }
                Ok((len, stop.is_some()))
            },
            |bytes| {
                assert!(
                    bytes.iter().all(|byte| *byte == RING),
                    "only rings are read"
                );
                at.set(at.get() + bytes.len());
                Ok(bytes.len())
            },
        );
        (front, queue[at.get()..].to_vec())
    }

    #[test]
    fn as_many_rings_as_may_be_unread_are_drained() {
        let full = [BARE; MOST_UNREAD + 1];
        assert_eq!(drained(&full[1..]), (Front::Nothing, vec![]));
        assert_eq!(drained(&full).0, Front::Corrupt);
    }

    #[test]
    fn a_drain_stops_in_front_of_descriptors() {
        let queue = [BARE, BARE, (0x83, true), BARE];
        assert_eq!(drained(&queue), (Front::Descriptors, queue[2..].to_vec()));
        assert_eq!(drained(&queue[2..]).0, Front::Descriptors);
        let mut full = [BARE; MOST_UNREAD + 1];
        full[MOST_UNREAD] = (0x80, true);
        assert_eq!(
            drained(&full),
            (Front::Descriptors, full[MOST_UNREAD..].to_vec())
        );
    }

    #[test]
    fn s61_a_ring_that_carries_descriptors_is_corrupt() {
        for carrier in 0..3 {
            let mut queue = [BARE; 3];
            queue[carrier].1 = true;
            assert_eq!(drained(&queue).0, Front::Corrupt, "{carrier}");
        }
    }

    #[test]
    fn s57_a_descriptor_byte_without_descriptors_is_corrupt() {
        assert_eq!(drained(&[BARE, (0x80, false)]).0, Front::Corrupt);
        assert_eq!(drained(&[(0x80, false), BARE]).0, Front::Corrupt);
        assert_eq!(
            drained(&[(0x80, false), (0x81, true)]).0,
            Front::Corrupt,
            "the second one's are not the first one's"
        );
    }

    #[test]
    fn s57_a_byte_that_means_nothing_is_corrupt() {
        for byte in (0..0x80).filter(|byte| *byte != RING) {
            for carries in [false, true] {
                assert_eq!(
                    drained(&[BARE, (byte, carries)]).0,
                    Front::Corrupt,
                    "{byte}"
                );
            }
        }
    }
}
