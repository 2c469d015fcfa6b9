//! Slots, batches, and values under way: one reservation at a time, none leaves a trace (S7, S12).

mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use common::{Greeting, channel, channel_of, greeting, index_of, nothing, now, sample, sample_of};
use ringport::{CloseReason, MessagePort, PostError, ReserveError};
use rkyv::rancor::{Fallible, Source};
use rkyv::ser::Writer;
use rkyv::{Archive, Place, Serialize};

#[test]
fn s07_a_batch_is_there_when_publish_returns_and_not_before() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let mut batch = port1.batch();
    assert!(batch.is_empty());
    for index in 0..10 {
        batch.post_bytes(&sample(index)).unwrap();
        assert!(nothing(&port2), "visible before it is published");
    }
    batch.post(&greeting(10)).unwrap();
    assert_eq!(batch.len(), 11);
    assert_eq!(batch.publish(), 11);
    for index in 0..10 {
        assert_eq!(now(&port2), sample(index));
    }
    let event = port2.try_recv().unwrap().unwrap();
    assert_eq!(event.data::<Greeting>().unwrap().text, greeting(10).text);
    assert!(nothing(&port2));

    assert_eq!(port1.batch().publish(), 0);
    assert!(nothing(&port2), "an empty batch is no message");
}

#[test]
fn s07_a_batch_dropped_or_a_slot_dropped_posts_nothing() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    for index in 0..500 {
        let mut batch = port1.batch();
        batch.post_bytes(b"never").unwrap();
        batch.post_bytes(b"ever").unwrap();
        drop(batch);
        let mut slot = port1.reserve(100).unwrap();
        slot.write(b"nor this");
        drop(slot);
        assert!(nothing(&port2));
        port1.post_bytes(&sample(index)).unwrap();
        assert_eq!(now(&port2), sample(index));
    }
}

#[test]
fn s07_waiting_while_a_batch_is_open_does_it_no_harm() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel_of(4096);
        port1.set_wait_strategy(strategy);
        for round in 0..40 {
            let mut batch = port1.batch();
            for index in 0..5 {
                batch.post_bytes(&sample(round + index)).unwrap();
                // One that waits may tidy the ring ahead of itself, but not here.
                assert!(
                    port1
                        .recv_timeout(Duration::from_micros(10))
                        .unwrap()
                        .is_none()
                );
                assert!(nothing(&port2));
            }
            assert_eq!(batch.publish(), 5);
            let mut slot = port1.reserve(500).unwrap();
            slot.write(&sample_of(round, 500));
            assert!(
                port1
                    .recv_timeout(Duration::from_micros(10))
                    .unwrap()
                    .is_none()
            );
            slot.commit();
            assert!(
                port1
                    .recv_timeout(Duration::from_micros(10))
                    .unwrap()
                    .is_none()
            );
            for index in 0..5 {
                assert_eq!(now(&port2), sample(round + index));
            }
            assert_eq!(now(&port2), sample_of(round, 500));
            assert!(nothing(&port2));
        }
    }
}

#[test]
fn a_slot_is_written_in_pieces_and_cut_short() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let mut slot = port1.reserve(300).unwrap();
    assert_eq!((slot.len(), slot.is_empty()), (300, false));
    slot.write(b"Hello, ");
    slot.write_at(7, b"world");
    slot.truncate(12);
    assert_eq!(slot.len(), 12);
    slot.commit();
    assert_eq!(now(&port2), b"Hello, world");
    let mut slot = port1.reserve(40).unwrap();
    slot.truncate(0);
    assert!(slot.is_empty());
    slot.commit();
    assert!(now(&port2).is_empty());

    // What follows a cut one lies where the reader looks next.
    for index in 0..500 {
        let bytes = sample(index);
        let mut slot = port1.reserve(bytes.len() + 333).unwrap();
        slot.write(&bytes);
        slot.truncate(bytes.len());
        slot.commit();
        assert_eq!(now(&port2), bytes);
    }
}

#[test]
fn writing_beyond_a_slot_panics_and_posts_nothing() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let writes: [fn(&mut ringport::Slot<'_>); 4] = [
        |slot| slot.write(&[0; 11]),
        |slot| slot.write_at(5, &[0; 6]),
        |slot| slot.write_at(11, &[]),
        |slot| slot.write_at(usize::MAX, &[0; 2]),
    ];
    for write in writes {
        let attempt = std::panic::AssertUnwindSafe(|| {
            let mut slot = port1.reserve(10).unwrap();
            write(&mut slot);
            slot.commit();
        });
        assert!(std::panic::catch_unwind(attempt).is_err());
        assert!(nothing(&port2));
    }
    port1.post_bytes(b"usable").unwrap();
    assert_eq!(now(&port2), b"usable");
}

#[test]
fn a_slot_can_be_aligned_up_to_128() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    for round in 0..200 {
        let align = 1 << (round % 8);
        let mut slot = port1.reserve_aligned(100, align).unwrap();
        assert_eq!(slot.as_mut_ptr() as usize % align, 0);
        slot.write(&sample_of(round, 100));
        slot.commit();
        assert_eq!(now(&port2), sample_of(round, 100));
    }
    for align in [0, 3, 24, 256, 4096, usize::MAX] {
        let error = port1.reserve_aligned(100, align).err();
        let Some(ReserveError::Alignment { wanted, max }) = error else {
            panic!("alignment {align} gave {error:?}");
        };
        assert_eq!((wanted, max), (align, 128));
    }
}

#[derive(Archive, Serialize)]
#[rkyv(attr(repr(C, align(32))))]
struct Wide(u64);

#[test]
fn a_value_that_wants_more_than_16_is_an_error_that_says_so() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let error = port1.post_message(&Wide(1)).unwrap_err();
    assert!(
        matches!(
            error,
            PostError::Alignment {
                wanted: 32,
                max: 16
            }
        ),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("32") && error.to_string().contains("16"),
        "{error}"
    );
    assert!(nothing(&port2));
    port1.post_message(&Narrow(9)).unwrap();
    let event = port2.try_recv().unwrap().unwrap();
    assert_eq!(event.data::<Narrow>().unwrap().0, 9);
}

#[derive(Archive, Serialize)]
#[rkyv(attr(repr(C, align(16))))]
struct Narrow(u64);

#[test]
fn one_reservation_at_a_time_others_are_busy() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let slot = port1.reserve(8).unwrap();
    assert_all_posts_are_busy(&port1);
    drop(slot);
    let mut batch = port1.batch();
    batch.post_bytes(b"in the batch").unwrap();
    assert_all_posts_are_busy(&port1);
    // The other direction and receiving have nothing to do with it.
    port2.post_bytes(b"back").unwrap();
    assert_eq!(now(&port1), b"back");
    batch.post_bytes(b"still open").unwrap();
    assert_eq!(batch.publish(), 2);
    port1.post_bytes(b"free again").unwrap();
    for expected in ["in the batch", "still open", "free again"] {
        assert_eq!(now(&port2), expected.as_bytes());
    }
    assert!(nothing(&port2));
}

#[track_caller]
fn assert_all_posts_are_busy(port: &MessagePort) {
    assert!(matches!(port.post_bytes(b"x"), Err(PostError::Busy)));
    assert!(matches!(port.try_post_bytes(b"x"), Err(PostError::Busy)));
    assert!(matches!(
        port.post_message(&greeting(1)),
        Err(PostError::Busy)
    ));
    assert!(matches!(port.reserve(1).err(), Some(ReserveError::Busy)));
    assert!(matches!(
        port.reserve_aligned(1, 32).err(),
        Some(ReserveError::Busy)
    ));
    let mut second = port.batch();
    assert!(matches!(second.post_bytes(b"x"), Err(PostError::Busy)));
    assert_eq!(second.publish(), 0);
}

thread_local! {
    static PORT: RefCell<Option<Rc<MessagePort>>> = const { RefCell::new(None) };
    static INNER: RefCell<Vec<PostError>> = const { RefCell::new(Vec::new()) };
    static MISCHIEF: Cell<Mischief> = const { Cell::new(Mischief::PostAgain) };
}

#[derive(Clone, Copy)]
enum Mischief {
    PostAgain,
    Panic,
    Fail,
}

/// A value that does something while it is serialised, after it has written a little.
struct Mischievous;

#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("this value does not want to be sent")
    }
}

impl std::error::Error for Refused {}

impl Archive for Mischievous {
    type Archived = rkyv::Archived<u32>;
    type Resolver = ();

    fn resolve(&self, (): (), out: Place<Self::Archived>) {
        out.write(77.into());
    }
}

impl<S: Fallible<Error: Source> + Writer + ?Sized> Serialize<S> for Mischievous {
    fn serialize(&self, serializer: &mut S) -> Result<(), S::Error> {
        serializer.write(&[0xee; 12])?;
        match MISCHIEF.get() {
            Mischief::PostAgain => {
                let port = PORT.with_borrow(|port| port.clone().unwrap());
                let inner = [
                    port.post_bytes(b"inner").unwrap_err(),
                    port.post_message(&5_u32).unwrap_err(),
                    port.reserve(4).map(drop).unwrap_err().into(),
                ];
                INNER.with_borrow_mut(|seen| seen.extend(inner));
                Ok(())
            }
            Mischief::Panic => panic!("while serialising"),
            Mischief::Fail => Err(Source::new(Refused)),
        }
    }
}

#[test]
fn a_leaked_slot_leaves_the_port_busy_and_otherwise_well() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.post_bytes(b"before").unwrap();
    let mut slot = port1.reserve(10).unwrap();
    slot.write(b"0123456789");
    std::mem::forget(slot);
    assert_all_posts_are_busy(&port1);
    port2.post_bytes(b"back").unwrap();
    assert_eq!(now(&port1), b"back");
    assert_eq!(now(&port2), b"before");
    assert!(nothing(&port2));
    drop(port1);
    assert_eq!(common::closed(port2.recv()), CloseReason::ClosedByPeer);
}

#[test]
fn posting_from_inside_a_serialize_impl_is_busy() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let port1 = Rc::new(port1);
    PORT.set(Some(Rc::clone(&port1)));
    MISCHIEF.set(Mischief::PostAgain);
    port1.post_message(&Mischievous).unwrap();
    let mut batch = port1.batch();
    batch.post(&Mischievous).unwrap();
    assert_eq!(batch.publish(), 1);
    let inner = INNER.take();
    assert_eq!(inner.len(), 6);
    for error in inner {
        assert!(matches!(error, PostError::Busy), "{error:?}");
    }
    for _ in 0..2 {
        let event = port2.try_recv().unwrap().unwrap();
        assert_eq!(*event.data::<Mischievous>().unwrap(), 77);
    }
    assert!(nothing(&port2));
    PORT.set(None);
}

#[test]
fn a_serialize_impl_that_fails_or_panics_leaves_no_trace() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    for index in 0..200 {
        MISCHIEF.set(Mischief::Fail);
        let error = port1.post_message(&Mischievous).unwrap_err();
        assert!(matches!(error, PostError::Serialize(_)), "{error:?}");
        let cause = std::error::Error::source(&error).map_or(String::new(), |e| e.to_string());
        assert!(
            format!("{error} {cause}").contains("does not want to be sent"),
            "{error}"
        );
        assert!(nothing(&port2));

        if index < 5 {
            MISCHIEF.set(Mischief::Panic);
            let post = AssertUnwindSafe(|| port1.post_message(&Mischievous));
            assert!(catch_unwind(post).is_err());
            assert!(nothing(&port2));
        }
        port1.post_bytes(&sample(index)).unwrap();
        assert_eq!(index_of(&now(&port2)), index);
    }
}
