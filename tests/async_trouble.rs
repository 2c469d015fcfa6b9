//! What must not disturb tasks: a peer at play, who can end his own channel and nothing else, and costs no more polls
//! than he takes trouble; many rings; time going by (S57).

#![cfg(feature = "tokio")]

mod common;
#[path = "common/forger.rs"]
mod forger;
#[path = "common/ports.rs"]
mod ports;
#[path = "common/tasks.rs"]
mod tasks;

use std::future::Future;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use common::{Counters, PATIENCE, channel_of, greeting, now, on_stage, sample, victim};
use forger::{CLOSED, DESCRIPTORS_TAKEN, FENCED, Forger, RING, STATE, WANTS_MESSAGE, stage};
use ports::{Random, assert_entangled, channels};
use ringport::{AsyncMessagePort, CloseReason, PostError, WaitStrategy};
use tasks::{adopt, counted, current_thread, once, polls_in, two_workers, within};

roles! { idles }

/// How long something is watched.
const A_WHILE: Duration = Duration::from_millis(200);
/// What looks every millisecond is polled no more often than this in [`A_WHILE`], twice a look and some to spare.
const ONCE_A_MILLISECOND: u64 = 600;

/// The task's port, and its peer in hands that do as they like.
fn at_play(test: impl AsyncFn(AsyncMessagePort, Arc<Forger>)) {
    let _quiet = common::descriptors();
    for victim_is_first in [true, false] {
        let (victim, forger) = stage(victim_is_first, 8);
        current_thread().block_on(async {
            within("the test ends", test(adopt(victim), Arc::new(forger))).await;
        });
    }
}

/// An attack that goes on, in a thread of its own, until this is dropped.
struct Attack {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Attack {
    fn begin(forger: &Arc<Forger>, mut attack: impl FnMut(&Forger) + Send + 'static) -> Attack {
        let over = Arc::new(AtomicBool::new(false));
        let (forger, until) = (Arc::clone(forger), Arc::clone(&over));
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                attack(&forger);
            }
        });
        Attack {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Messages still arrive.
async fn still_hears(port: &mut AsyncMessagePort, forger: &Forger) {
    for _ in 0..20 {
        assert!(once(port.recv()).await.is_none());
        forger.post(&[], b"heard");
        forger.send(&[RING], &[]).unwrap();
        assert_eq!(tasks::next(port).await, b"heard");
    }
}

#[test]
fn s57_a_peer_that_ends_one_direction_ends_the_channel() {
    at_play(async |mut port, forger| {
        forger.post(&[], b"before that");
        let socket = UnixStream::from(forger.doorbell().try_clone_to_owned().unwrap());
        assert_eq!(tasks::next(&mut port).await, b"before that");
        assert!(once(port.recv()).await.is_none());
        socket.shutdown(Shutdown::Write).unwrap();
        let ended = within("the end", port.recv()).await;
        assert_eq!(common::closed(ended), CloseReason::PeerGone);
    });
    at_play(async |mut port, forger| {
        let socket = UnixStream::from(forger.doorbell().try_clone_to_owned().unwrap());
        assert!(once(port.recv()).await.is_none());
        socket.shutdown(Shutdown::Read).unwrap();
        assert!(polls_in(A_WHILE, port.recv()).await < 10);
        // Who tries to wake somebody there learns that nobody can be.
        forger.set32(forger.mine(STATE), FENCED | WANTS_MESSAGE);
        let _ = port.post_bytes(b"to the deaf").await;
        let ended = within("the end", port.recv()).await;
        assert_eq!(common::closed(ended), CloseReason::PeerGone);
    });
}

#[test]
fn s57_a_ring_for_nothing_costs_a_poll() {
    at_play(async |mut port, forger| {
        const RINGS: u64 = 300;
        let vain = AtomicU64::new(0);
        let rings = async {
            for _ in 0..RINGS {
                forger.send(&[RING], &[]).unwrap();
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(A_WHILE).await;
        };
        tokio::select! {
            answer = counted(&vain, port.recv()) => panic!("{answer:?}"),
            () = rings => {}
        }
        let polls = vain.into_inner();
        assert!((1..=2 * RINGS).contains(&polls), "{polls} polls");
        assert_eq!(port.close_reason(), None);
        still_hears(&mut port, &forger).await;
    });
}

#[test]
fn s57_rings_without_end_keep_nobody_busy_without_end() {
    at_play(async |mut port, forger| {
        let attack = Attack::begin(&forger, |forger| drop(forger.send(&[RING; 7], &[])));
        // Either so many are too many, or the socket takes no more of them and it is quiet.
        let ended = tokio::time::timeout(A_WHILE, port.recv()).await;
        drop(attack);
        match ended {
            Ok(ended) => assert_eq!(common::closed(ended), CloseReason::Corrupt),
            Err(_) => assert!(polls_in(A_WHILE, port.recv()).await < 10),
        }
    });
}

#[test]
fn s57_scribbles_in_the_state_words_wake_nobody() {
    at_play(async |mut port, forger| {
        let mut random = Random(9);
        let attack = Attack::begin(&forger, move |forger| {
            for word in [forger.mine(STATE), forger.theirs(STATE)] {
                forger.set32(word, random.below(1 << 32) as u32 & !CLOSED);
            }
        });
        assert!(polls_in(A_WHILE, port.recv()).await < 10);
        still_hears(&mut port, &forger).await;
        while once(port.post_bytes(&[7; 500])).await.is_some() {}
        assert!(polls_in(A_WHILE, port.post_bytes(&[7; 500])).await < 10);
        forger.read_all();
        forger.send(&[RING], &[]).unwrap();
        within("room", port.post_bytes(&[7; 500])).await.unwrap();
        drop(attack);
        assert_eq!(port.close_reason(), None);
    });
}

#[test]
fn s57_rings_behind_stray_descriptors_cost_a_look_a_millisecond() {
    at_play(async |mut port, forger| {
        assert!(once(port.recv()).await.is_none());
        let (stray, _peer) = channel_of(4096);
        let stray = stray.into_handle();
        let descriptors = [stray.segment.as_fd(), stray.doorbell.as_fd()];
        let byte = [forger.descriptor_byte()];
        forger.send(&byte, &descriptors).unwrap();
        forger.send(&[RING; 50], &[]).unwrap();
        // Until they are noticed.
        for _ in 0..40 {
            assert!(once(port.recv()).await.is_none());
        }
        let polls = polls_in(A_WHILE, port.recv()).await;
        assert!(polls < ONCE_A_MILLISECOND, "{polls} polls");
        // It is still heard, if only by looking.
        forger.post(&[], b"nothing to do with them");
        assert_eq!(tasks::next(&mut port).await, b"nothing to do with them");
        drop(forger);
        let ended = within("the end", port.recv()).await;
        assert_eq!(common::closed(ended), CloseReason::PeerGone);
    });
}

#[test]
fn s57_a_socket_that_takes_no_more_costs_a_look_a_millisecond() {
    at_play(async |mut port, forger| {
        let (near, far) = channels(3);
        let far = far.into_iter().map(|port| port.into_handle());
        let far: Vec<_> = far.collect();
        // By his word all of them were taken, and they lie on the socket for ever.
        for sent in 0.. {
            // Lest its budget run out.
            tokio::task::yield_now().await;
            forger.set32(forger.mine(DESCRIPTORS_TAKEN), sent);
            forger.read_all();
            let copies = far.iter().map(|handle| ringport::PortHandle {
                segment: handle.segment.try_clone().unwrap(),
                doorbell: handle.doorbell.try_clone().unwrap(),
            });
            let copies = copies.map(|handle| ringport::MessagePort::from_handle(handle).unwrap());
            let mut post = Box::pin(port.post_bytes_with(b"", copies.collect::<Vec<_>>()));
            if once(post.as_mut()).await.is_some() {
                assert!(sent < 5000, "it takes ever more");
                continue;
            }
            let polls = polls_in(A_WHILE, post.as_mut()).await;
            assert!(polls < ONCE_A_MILLISECOND, "{polls} polls");
            forger.drain();
            within("it takes more", post).await.unwrap();
            break;
        }
        drop((near, far));
    });
}

/// All are honest: a message with a port is not received, while this side waits for room again and again.
#[test]
fn rings_behind_an_unreceived_port_are_not_too_many() {
    let _quiet = common::descriptors();
    current_thread().block_on(async {
        for before in 0..18 {
            for waits in 10..40 {
                let (near, peer) = channel_of(4096);
                let mut near = adopt(near);
                for _ in 0..=before {
                    assert!(once(near.recv()).await.is_none());
                }
                let (kept, gift) = channel_of(4096);
                peer.try_post_bytes_with(b"a port", [gift]).unwrap();
                for _ in 0..waits {
                    while once(near.post_bytes(&[7; 1000])).await.is_some() {}
                    peer.try_post_bytes(b"!").unwrap();
                    while peer.try_recv().unwrap().is_some() {}
                    // Lest its budget run out.
                    tokio::task::yield_now().await;
                }
                let ports = near.try_recv().unwrap().unwrap().take_ports();
                for _ in 0..waits {
                    assert_eq!(near.try_recv().unwrap().unwrap().bytes(), b"!");
                }
                for _ in 0..20 {
                    assert!(once(near.recv()).await.is_none(), "{before}, {waits}");
                }
                assert_entangled(&kept, &ports[0]);
                assert_entangled(&near.into_inner(), &peer);
            }
        }
    });
}

/// How often a thread has given up its CPU.
fn switches(process: u32, thread: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/task/{thread}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn ports_that_wait_cost_nothing() {
    let _quiet = common::descriptors();
    let (port, child, counters) = victim("idles", WaitStrategy::Block, "");
    counters.until_asleep(child.id());
    let thread = counters.get(Counters::THREAD);
    let before = switches(child.id(), thread);
    // This time is what the test is about: nothing happens in it.
    thread::sleep(2 * A_WHILE);
    assert_eq!(switches(child.id(), thread), before);
    port.post_bytes(b"that was it").unwrap();
    assert_eq!(common::next(&port), b"that was it");
    drop(port);
    common::end_well(child);
}

/// A hundred ports that wait, half for a message and half for room.
fn idles() {
    let (port, counters) = on_stage();
    current_thread().block_on(async {
        let mut port = adopt(port);
        let (near, far) = channels(100);
        for (index, near) in near.into_iter().enumerate() {
            let mut near = adopt(near);
            tokio::spawn(async move {
                match index % 2 {
                    0 => drop(near.recv().await),
                    _ => while near.post_bytes(&[7; 900]).await.is_ok() {},
                }
            });
        }
        // All have come to wait once this task has been sent to the end of the queue.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        counters.ready();
        let event = port.recv().await.unwrap();
        port.post_bytes(event.bytes()).await.unwrap();
        drop(far);
    });
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread, outside of any runtime.
#[track_caller]
fn outside<F: Future>(future: F) -> F::Output {
    let start = Instant::now();
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let left = PATIENCE.saturating_sub(start.elapsed());
        assert!(!left.is_zero(), "nobody wakes it");
        thread::park_timeout(left);
    }
}

/// All are honest: the peer's messages with ports are not received, while this side waits for room again and again.
#[test]
fn a_port_that_is_polled_outside_of_its_runtime_goes_on_however_much_it_leaves_unread() {
    let _quiet = common::descriptors();
    const GIFTS: usize = 34;
    const LARGE: [u8; 1000] = [7; 1000];
    let runtime = two_workers();
    let (near, mut far) = channel_of(1 << 14);
    let mut near = {
        let _inside = runtime.enter();
        adopt(near)
    };
    for _ in 0..GIFTS {
        far.try_post_bytes_with(b"a port", [channel_of(4096).0])
            .unwrap();
    }
    for _ in 0..40 {
        while let Some(posted) = outside(once(near.post_bytes(&LARGE))) {
            posted.unwrap();
        }
        // There is room once this thread waits for it, and not before.
        let waits = common::thread_id();
        let emptying = thread::spawn(move || {
            common::until_asleep(std::process::id(), waits);
            while far.try_recv().unwrap().is_some() {}
            far
        });
        outside(near.post_bytes(&LARGE)).unwrap();
        far = emptying.join().unwrap();
    }
    for _ in 0..GIFTS {
        let event = outside(near.recv()).unwrap();
        assert_eq!(event.bytes(), b"a port");
    }
    far.post_bytes(b"heard").unwrap();
    assert_eq!(outside(near.recv()).unwrap().bytes(), b"heard");
    assert_eq!(near.close_reason(), None);
}

/// Whether somebody was woken.
#[derive(Default)]
struct Told(AtomicBool);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn s11_what_is_tried_is_posted_or_refused_at_once() {
    let _quiet = common::descriptors();
    current_thread().block_on(async {
        let (near, far) = channel_of(4096);
        let mut near = adopt(near);
        for round in 0..20 {
            let told = Arc::new(Told::default());
            let waker = Waker::from(Arc::clone(&told));
            let polled = near.poll_recv(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            let mut posted = 0;
            while near.try_post_bytes(&sample(posted)).is_ok() {
                posted += 1;
            }
            let mut small = 0;
            while near.try_post_bytes(b"").is_ok() {
                small += 1;
            }
            let full = near.try_post_message(&greeting(round));
            assert!(matches!(full, Err(PostError::Full { .. })), "{full:?}");
            // Who waits for messages is not disturbed by that.
            far.post_bytes(b"heard").unwrap();
            within("a wake-up", async {
                while !told.0.load(Ordering::SeqCst) {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            assert_eq!(tasks::next(&mut near).await, b"heard");
            (0..posted).for_each(|index| assert_eq!(now(&far), sample(index)));
            (0..small).for_each(|_| assert!(now(&far).is_empty()));
            near.try_post_message(&greeting(round)).unwrap();
            let event = far.try_recv().unwrap().unwrap();
            let data = event.data::<common::Greeting>().unwrap();
            assert_eq!(data.text, greeting(round).text);
        }
        let max = near.max_message_len();
        let large = near.try_post_bytes(&vec![0; max + 1]);
        assert!(matches!(large, Err(PostError::TooLarge { .. })));
        drop(far);
        let ended = near.try_post_bytes(b"x");
        assert!(matches!(ended, Err(PostError::Closed(_))), "{ended:?}");
    });
}
