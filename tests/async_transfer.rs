//! Ports that tasks send and receive: waiting for a place among those that wait, giving up, what is refused, and
//! a process without descriptors (S12, S32, S46).

#![cfg(feature = "tokio")]

mod common;
#[path = "common/ports.rs"]
mod ports;
#[path = "common/tasks.rs"]
mod tasks;

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use common::{Counters, PATIENCE, channel_of, greeting, now, on_stage, sample, victim};
use futures_util::StreamExt;
use ports::{
    Random, assert_all_entangled, assert_entangled, channels, given_back, next_port, only, told,
};
use ringport::{CloseReason, PostError, RecvError, WaitStrategy};
use tasks::{adopt, current_thread, in_each_runtime, once, pieces, within};
use tokio::task::yield_now;

roles! { receives_without_descriptors }

/// Messages with ports that may wait in one direction.
const PLACES: usize = 64;

#[test]
fn s32_tasks_pass_ports_on() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (carrier1, carrier2) = channel_of(4096);
        let (mut carrier1, mut carrier2) = (adopt(carrier1), adopt(carrier2));
        for round in 0..50 {
            let (near, far) = channels(3);
            let waiting = sample(round);
            far.iter()
                .for_each(|port| port.try_post_bytes(b"from the far side").unwrap());
            near.iter()
                .for_each(|port| port.try_post_bytes(&waiting).unwrap());
            let value = greeting(round);
            // One that was a task's before goes on as any other.
            let far: Vec<_> = far
                .into_iter()
                .map(|port| adopt(port).into_inner())
                .collect();
            carrier1.post_message_with(&value, far).await.unwrap();
            let event = within("ports", carrier2.recv()).await.unwrap();
            assert_eq!(event.data::<common::Greeting>().unwrap().text, value.text);
            let mut came = event
                .take_ports()
                .into_iter()
                .map(adopt)
                .collect::<Vec<_>>();
            for port in &mut came {
                assert_eq!(tasks::next(port).await, waiting);
            }
            let came: Vec<_> = came.into_iter().map(|port| port.into_inner()).collect();
            near.iter()
                .for_each(|port| assert_eq!(now(port), b"from the far side"));
            assert_all_entangled(&near, &came);
        }
    });
}

#[test]
fn s12_what_is_refused_comes_back() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port, peer) = channel_of(4096);
        let mut port = adopt(port);
        let answer = port.post_bytes_with(b"x", [peer]).await;
        let (error, peer) = answer.unwrap_err().into_parts();
        assert!(matches!(error, PostError::OwnPeer { index: 0 }));
        let peer = only(peer);
        let (near, far) = channels(127);
        let answer = port.post_message_with(&1_u64, far).await;
        let many = |error: &PostError| matches!(error, PostError::TooManyPorts { count: 127, .. });
        let mut far = given_back(answer, &near, many);
        far.truncate(2);
        let long = vec![0; port.max_message_len()];
        let answer = port.post_bytes_with(&long, far).await;
        let large = |error: &PostError| matches!(error, PostError::TooLarge { .. });
        let far = given_back(answer, &near[..2], large);
        assert!(common::nothing(&peer));
        // Full, and then the peer goes.
        while once(port.post_bytes(&[7; 600])).await.is_some() {}
        let mut post = Box::pin(port.post_bytes_with(&[8; 600], far));
        assert!(once(post.as_mut()).await.is_none());
        drop(peer);
        let answer = within("an answer", post).await;
        let over =
            |error: &PostError| matches!(error, PostError::Closed(CloseReason::ClosedByPeer));
        given_back(answer, &near[..2], over);
    });
}

#[test]
fn s11_a_post_with_ports_waits_for_a_place() {
    for (piece, rounds) in pieces(2000) {
        let _quiet = common::descriptors();
        in_each_runtime(move || async move {
            let (carrier, peer) = channel_of(1 << 16);
            let mut carrier = adopt(carrier);
            let (lent, kept) = channel_of(4096);
            let handle = lent.into_handle();
            let waits = Arc::new(AtomicU64::new(0));
            let waited = Arc::clone(&waits);
            let reader = thread::spawn(move || {
                peer.set_wait_strategy(WaitStrategy::Block);
                let mut random = Random(piece);
                for index in 0..rounds {
                    // However slow the other side is, it has to wait once.
                    if index == 0 && rounds > PLACES as u64 {
                        common::until("it waits", || waited.load(Ordering::Relaxed) > 0);
                    }
                    let event = peer
                        .recv_timeout(PATIENCE)
                        .unwrap()
                        .expect("a wake-up was lost");
                    assert_eq!(event.bytes(), sample(index));
                    // Given up as a handle, so that the port that is lent again and again is not closed.
                    drop(only(event.take_ports()).into_handle());
                    (0..random.below(2000)).for_each(|_| std::hint::spin_loop());
                }
                peer
            });
            for index in 0..rounds {
                let copy = ringport::PortHandle {
                    segment: handle.segment.try_clone().unwrap(),
                    doorbell: handle.doorbell.try_clone().unwrap(),
                };
                let copy = ringport::MessagePort::from_handle(copy).unwrap();
                let bytes = sample(index);
                let mut post = Box::pin(carrier.post_bytes_with(&bytes, [copy]));
                match once(post.as_mut()).await {
                    Some(answer) => answer.unwrap(),
                    None => {
                        waits.fetch_add(1, Ordering::Relaxed);
                        within("a place", post).await.unwrap();
                    }
                }
            }
            drop(reader.join().unwrap());
            drop((handle, kept));
        });
    }
}

#[test]
fn s44_giving_up_a_place_gives_up_the_ports_only() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (carrier, peer) = channel_of(1 << 16);
        let mut carrier = adopt(carrier);
        let (near, far) = channels(PLACES);
        for port in far {
            carrier.post_bytes_with(b"a port", [port]).await.unwrap();
        }
        for _ in 0..10 {
            let (lost, gift) = channel_of(4096);
            assert!(
                once(carrier.post_bytes_with(b"no place", [gift]))
                    .await
                    .is_none()
            );
            assert_eq!(told(&lost), CloseReason::ClosedByPeer);
            // Those without ports need no place.
            carrier.post_bytes(b"no port").await.unwrap();
            yield_now().await;
        }
        near.iter()
            .for_each(|near| assert_entangled(near, &next_port(&peer)));
        (0..10).for_each(|_| assert_eq!(now(&peer), b"no port"));
        let (near, far) = channel_of(4096);
        carrier.post_bytes_with(b"a place", [far]).await.unwrap();
        assert_entangled(&near, &next_port(&peer));
        assert!(common::nothing(&peer));
    });
}

#[test]
fn s46_without_descriptors_the_message_stays_where_it_is() {
    let _quiet = common::descriptors();
    let (carrier, child, counters) =
        victim("receives_without_descriptors", WaitStrategy::Block, "");
    let (near, far) = channels(5);
    carrier.try_post_bytes(&sample(0)).unwrap();
    carrier.try_post_bytes_with(&sample(1), far).unwrap();
    carrier.try_post_bytes(&sample(2)).unwrap();
    counters.set(Counters::READY, 1);
    for near in &near {
        assert_eq!(common::next(near), b"I have it");
    }
    drop(carrier);
    common::end_well(child);
}

fn receives_without_descriptors() {
    const LIMIT: u64 = 100;
    let (carrier, counters) = on_stage();
    counters.until(Counters::READY, 1);
    current_thread().block_on(async {
        let mut carrier = adopt(carrier);
        let limit = libc::rlimit {
            rlim_cur: LIMIT,
            rlim_max: LIMIT,
        };
        // SAFETY: the pointer is to a live rlimit.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        let mut files = vec![File::open("/dev/null").unwrap()];
        while let Ok(file) = files[0].try_clone() {
            files.push(file);
        }
        assert_eq!(tasks::next(&mut carrier).await, sample(0));
        for round in 0..2 * LIMIT {
            let answer = match round % 2 {
                0 => within("an answer", carrier.recv()).await,
                _ => within("an answer", carrier.next())
                    .await
                    .expect("it is open"),
            };
            let Err(RecvError::System { source, .. }) = answer else {
                panic!("wanted a shortage, got {answer:?}");
            };
            assert_eq!(source.raw_os_error(), Some(libc::EMFILE));
            assert_eq!(carrier.close_reason(), None);
        }
        files.truncate(2);
        let event = within("the same message", carrier.recv()).await.unwrap();
        assert_eq!(event.bytes(), sample(1));
        let ports = event.take_ports();
        assert_eq!(ports.len(), 5);
        for port in ports {
            adopt(port).post_bytes(b"I have it").await.unwrap();
        }
        assert_eq!(tasks::next(&mut carrier).await, sample(2));
        assert!(within("the end", carrier.next()).await.is_none());
    });
}
