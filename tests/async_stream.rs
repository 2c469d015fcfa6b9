//! Ports for tasks as streams and as sinks.

#![cfg(feature = "tokio")]

mod common;
#[path = "common/ports.rs"]
mod ports;
#[path = "common/tasks.rs"]
mod tasks;

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use common::{Greeting, channel, channel_of, greeting, now, post_closed, sample};
use futures_util::{Sink, SinkExt, StreamExt, TryStreamExt, stream};
use ports::{Random, told};
use ringport::{AsyncMessagePort, CloseReason, PostError, WaitStrategy};
use tasks::{adopt, counted, current_thread, in_each_runtime, once, within};

#[test]
fn s48_a_stream_ends_when_the_channel_does() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port1, port2) = channel();
        let mut port2 = adopt(port2);
        (0..100).for_each(|index| port1.try_post_bytes(&sample(index)).unwrap());
        drop(port1);
        for index in 0..100 {
            let event = within("a message", port2.next()).await.unwrap();
            assert_eq!(event.unwrap().bytes(), sample(index));
        }
        for _ in 0..3 {
            assert!(within("the end", port2.next()).await.is_none());
        }
        assert_eq!(port2.close_reason(), Some(CloseReason::ClosedByPeer));
    });
}

/// Posts as a sink, and what `start_send` needs must have been there.
fn offers(port: &mut AsyncMessagePort, bytes: usize) -> Poll<()> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut sink = Pin::new(port);
    let ready = Sink::<Vec<u8>>::poll_ready(sink.as_mut(), &mut cx);
    ready.map(|ready| {
        ready.unwrap();
        sink.start_send(vec![bytes as u8; bytes]).unwrap();
    })
}

#[test]
fn s11_a_sink_that_is_ready_takes_any_message() {
    let _quiet = common::descriptors();
    current_thread().block_on(async {
        let (port1, port2) = channel_of(4096);
        let mut port1 = adopt(port1);
        // The archive of a vector of bytes is eight bytes longer.
        let longest = port1.max_message_len() as u64 - 8;
        let mut random = Random(11);
        let mut waiting = std::collections::VecDeque::new();
        let mut refused = 0;
        for _ in 0..5000 {
            tokio::task::yield_now().await;
            let bound = [1, 50, longest + 1][random.below(3) as usize];
            let length = random.below(bound) as usize;
            if offers(&mut port1, length).is_ready() {
                waiting.push_back(length);
                continue;
            }
            refused += 1;
            for _ in 0..1 + random.below(waiting.len() as u64) {
                let event = port2
                    .try_recv()
                    .unwrap()
                    .expect("it was not ready for nothing");
                let length = waiting.pop_front().unwrap();
                let bytes = event.data::<Vec<u8>>().unwrap();
                assert_eq!(bytes.len(), length);
                assert!(bytes.iter().all(|byte| *byte == length as u8));
            }
        }
        assert!(refused > 100, "{refused}");
    });
}

#[test]
fn a_sink_takes_values_of_any_type_and_waits_for_room() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        const VALUES: u64 = 5000;
        let (port1, port2) = channel_of(4096);
        let reader = thread::spawn(move || {
            port2.set_wait_strategy(WaitStrategy::Block);
            let mut sum = 0;
            for index in 0..VALUES {
                let event = port2
                    .recv_timeout(common::PATIENCE)
                    .unwrap()
                    .expect("a message");
                sum += match index % 3 {
                    0 => event.data::<u64>().unwrap().to_native(),
                    1 => event.data::<Greeting>().unwrap().numbers[0].to_native(),
                    _ => event.data::<Vec<u8>>().unwrap().len() as u64,
                };
            }
            assert_eq!(told(&port2), CloseReason::ClosedByPeer);
            sum
        });
        let mut port1 = adopt(port1);
        let vain = AtomicU64::new(0);
        let mut sum = 0;
        for index in 0..VALUES {
            let sent = match index % 3 {
                0 => counted(&vain, port1.send(index)).await,
                1 => counted(&vain, port1.feed(greeting(index))).await,
                _ => counted(&vain, port1.send(vec![0_u8; index as usize % 1000])).await,
            };
            sent.unwrap();
            sum += if index % 3 == 2 { index % 1000 } else { index };
        }
        SinkExt::<u64>::close(&mut port1).await.unwrap();
        assert_eq!(reader.join().unwrap(), sum);
        assert!(vain.load(Ordering::SeqCst) > 10, "it never had to wait");
    });
}

#[test]
fn streams_are_sent_and_forwarded() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        const VALUES: u64 = 3000;
        // A port whose messages a task changes and forwards to the next.
        let (source, into) = channel_of(4096);
        let (out, drain) = channel_of(4096);
        let (into, out) = (adopt(into), adopt(out));
        let stage = tokio::spawn(async move {
            let doubled = into.map(|event| {
                let event = event.expect("no shortage");
                Ok::<_, PostError>(event.data::<u64>().unwrap().to_native() * 2)
            });
            doubled.forward(out).await
        });
        let feeding = tokio::spawn(async move {
            let mut source = adopt(source);
            let mut values = stream::iter((0..VALUES).map(Ok));
            source.send_all(&mut values).await.unwrap();
            // It is closed by being dropped, and the stage behind it by its stream's end.
        });
        let drain = adopt(drain);
        let received = drain.map_ok(|event| event.data::<u64>().unwrap().to_native());
        let received: Vec<u64> = within("all", received.try_collect()).await.unwrap();
        assert!(received.into_iter().eq((0..VALUES).map(|value| value * 2)));
        feeding.await.unwrap();
        within("the stage ends", stage).await.unwrap().unwrap();
    });
}

#[test]
fn s15_a_sink_of_a_channel_that_has_ended_says_so() {
    let _quiet = common::descriptors();
    in_each_runtime(|| async {
        let (port1, port2) = channel();
        let mut port1 = adopt(port1);
        drop(port2);
        for _ in 0..3 {
            let sent = within("an answer", port1.send(1_u64)).await;
            assert_eq!(post_closed(sent), CloseReason::ClosedByPeer);
        }
        let (near, far) = channel();
        let mut near = adopt(near);
        near.send(1_u64).await.unwrap();
        SinkExt::<u64>::close(&mut near).await.unwrap();
        SinkExt::<u64>::close(&mut near).await.unwrap();
        let sent = near.send(2_u64).await;
        assert_eq!(post_closed(sent), CloseReason::ClosedHere);
        assert_eq!(now(&far).len(), 8);
        assert_eq!(told(&far), CloseReason::ClosedByPeer);
        assert!(once(near.next()).await.expect("it has ended").is_none());
    });
}
