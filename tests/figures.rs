//! What a port tells about itself.

mod common;

use std::sync::mpsc;
use std::thread;

use common::{channel, channel_of, now, sample};
use ringport::{
    CloseReason, DataError, ImportError, MessageChannel, MessagePort, NewError, OwnedMessageEvent,
    PortHandle, PostError, RecvError, ReserveError, SpawnError, Worker,
};

#[test]
fn pending_counts_the_bytes_that_wait() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    assert_eq!((port1.pending(), port2.pending()), (0, 0));
    let mut before = 0;
    for index in 0..10 {
        port1.post_bytes(&sample(index)).unwrap();
        let grown = port2.pending() - before;
        assert!(grown > sample(index).len() && grown <= sample(index).len() + 24);
        before = port2.pending();
    }
    assert_eq!(port1.pending(), 0);
    while let Some(event) = port2.try_recv().unwrap() {
        drop(event);
        assert!(port2.pending() < before);
        before = port2.pending();
    }
    assert_eq!(port2.pending(), 0);
}

#[test]
fn stats_count_messages_and_bytes_each_way() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    let mut bytes = 0;
    for index in 0..50 {
        port1.post_bytes(&sample(index)).unwrap();
        bytes += sample(index).len() as u64;
    }
    let mut batch = port1.batch();
    batch.post_bytes(b"12345").unwrap();
    batch.post_bytes(b"").unwrap();
    batch.publish();
    drop(port1.reserve(100).unwrap());
    (0..20).for_each(|index| assert_eq!(now(&port2), sample(index)));
    let (stats1, stats2) = (port1.stats(), port2.stats());
    assert_eq!(
        (stats1.messages_posted, stats1.bytes_posted),
        (52, bytes + 5)
    );
    assert_eq!((stats1.messages_received, stats1.bytes_received), (0, 0));
    assert_eq!((stats2.messages_posted, stats2.bytes_posted), (0, 0));
    let received: usize = (0..20).map(|index| sample(index).len()).sum();
    assert_eq!(
        (stats2.messages_received, stats2.bytes_received),
        (20, received as u64)
    );
    assert_eq!(
        (stats1.sleeps, stats1.wakeups, stats1.room_waits),
        (0, 0, 0)
    );
}

#[test]
fn stats_count_sleeps_and_wakeups() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port2.set_wait_strategy(ringport::WaitStrategy::Block);
    let (started, waits) = mpsc::channel();
    let receiver = thread::spawn(move || {
        started.send(common::thread_id()).unwrap();
        assert_eq!(port2.recv().unwrap().bytes(), b"wake");
        port2.stats()
    });
    common::until_asleep(std::process::id(), waits.recv().unwrap());
    port1.post_bytes(b"wake").unwrap();
    let stats = receiver.join().unwrap();
    assert!((1..=2).contains(&stats.sleeps), "{stats:?}");
    assert_eq!(port1.stats().wakeups, 1, "{:?}", port1.stats());
}

#[test]
fn a_port_tells_about_itself() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    assert_eq!(port1.capacity(), 64 << 10);
    assert_eq!(port1.max_message_len(), (64 << 10) / 2 - 24);
    assert_eq!(port1.wait_strategy(), ringport::WaitStrategy::Adaptive);
    port1.set_wait_strategy(ringport::WaitStrategy::Spin);
    assert_eq!(port1.wait_strategy(), ringport::WaitStrategy::Spin);
    assert_eq!(port2.wait_strategy(), ringport::WaitStrategy::Adaptive);
    let shown = format!("{port1:?}");
    assert!(
        shown.contains("MessagePort") && shown.contains("65536"),
        "{shown}"
    );
    port1.close();
    assert!(format!("{port1:?}").contains("ClosedHere"), "{port1:?}");
    let error = RecvError::Closed(CloseReason::PeerGone);
    assert!(
        error
            .to_string()
            .contains(&CloseReason::PeerGone.to_string()),
        "{error}"
    );
}

#[test]
fn what_can_go_to_another_thread_can_and_what_cannot_be_shared_cannot() {
    fn can_be_sent<T: Send + 'static>() {}
    fn is_an_error<T: std::error::Error + Send + Sync + 'static>() {}
    can_be_sent::<MessagePort>();
    can_be_sent::<MessageChannel>();
    can_be_sent::<PortHandle>();
    can_be_sent::<OwnedMessageEvent>();
    can_be_sent::<Worker>();
    is_an_error::<NewError>();
    is_an_error::<PostError>();
    is_an_error::<ReserveError>();
    is_an_error::<RecvError>();
    is_an_error::<DataError>();
    is_an_error::<ImportError>();
    is_an_error::<SpawnError>();

    // Were a port `Sync`, both of these would apply, and `_` below could be either.
    trait Unshared<Which> {
        fn here() {}
    }
    struct AlsoSync;
    impl<T> Unshared<()> for T {}
    impl<T: Sync> Unshared<AlsoSync> for T {}
    <MessagePort as Unshared<_>>::here();
    <Worker as Unshared<_>>::here();
}
