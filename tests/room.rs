//! Sizes and room: S10 and S11.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{Counters, channel_of, greeting, next, nothing, now, sample_of};
use ringport::{ChannelOptions, MessageChannel, MessagePort, PostError, WaitStrategy};

roles! { receives_when_told, fills_and_waits }

/// Posts 64-byte messages until there is no room; how many went in.
fn fill(port: &MessagePort) -> u64 {
    let mut posted = 0;
    while port.try_post_bytes(&sample_of(posted, 64)).is_ok() {
        posted += 1;
    }
    posted
}

#[test]
fn s10_a_message_larger_than_the_ring_takes_is_too_large_and_both_sizes_are_named() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let max = port1.max_message_len();
    assert_eq!(max, 4096 / 2 - 24);
    for length in [max + 1, 4096, 1 << 20] {
        let bytes = vec![1; length];
        let timeout = Duration::from_secs(1);
        // On a line of its own: the batch is open until its line ends.
        let in_batch = port1.batch().post_bytes(&bytes).unwrap_err();
        let errors = [
            in_batch,
            port1.post_bytes(&bytes).unwrap_err(),
            port1.try_post_bytes(&bytes).unwrap_err(),
            port1.post_bytes_timeout(&bytes, timeout).unwrap_err(),
            port1.reserve(length).map(drop).unwrap_err().into(),
            port1.try_reserve(length).map(drop).unwrap_err().into(),
            port1
                .reserve_timeout(length, timeout)
                .map(drop)
                .unwrap_err()
                .into(),
        ];
        for error in errors {
            let PostError::TooLarge { len, max: limit } = error else {
                panic!("wanted TooLarge, got {error:?}");
            };
            assert_eq!((len, limit), (length, max));
            let shown = error.to_string();
            assert!(shown.contains(&length.to_string()), "{shown}");
            assert!(shown.contains(&max.to_string()), "{shown}");
        }
    }
    assert!(nothing(&port2));
    port1.post_bytes(b"still usable").unwrap();
    assert_eq!(now(&port2), b"still usable");
}

#[test]
fn s10_a_value_whose_archive_is_too_large_is_told_so_at_once() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let value = common::Greeting {
        text: "x".repeat(5000),
        numbers: vec![1, 2, 3],
    };
    // Also when the ring is not empty: waiting for room could not help.
    for _ in 0..3 {
        let errors = [
            port1.post_message(&value).unwrap_err(),
            port1.try_post_message(&value).unwrap_err(),
            port1.batch().post(&value).unwrap_err(),
        ];
        for error in errors {
            let PostError::TooLarge { len, max } = error else {
                panic!("wanted TooLarge, got {error:?}");
            };
            assert!(len > max && max == port1.max_message_len(), "{error}");
        }
        port1.post_bytes(&[1; 1000]).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(now(&port2), [1; 1000]);
    }
    assert!(nothing(&port2));
}

#[test]
fn s10_too_large_is_told_at_once_where_nothing_is_free_at_all() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let value = common::Greeting {
        text: "x".repeat(5000),
        numbers: Vec::new(),
    };
    let mut posted = 0;
    while port1.try_post_bytes(b"").is_ok() {
        posted += 1;
    }
    // Waiting for room could not help, so none of these waits.
    let errors = [
        port1.post_message(&value).unwrap_err(),
        port1.try_post_message(&value).unwrap_err(),
        port1.post_bytes(value.text.as_bytes()).unwrap_err(),
        port1.try_post_bytes(value.text.as_bytes()).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, PostError::TooLarge { .. }), "{error:?}");
    }
    assert_eq!(port1.stats().room_waits, 0);
    (0..posted).for_each(|_| assert!(now(&port2).is_empty()));
    assert!(nothing(&port2));
}

#[test]
fn s10_the_largest_message_fits_at_every_offset_of_the_ring() {
    let _quiet = common::descriptors();
    for capacity in [4096, 8192] {
        let (port1, port2) = channel_of(capacity);
        let largest = sample_of(5, port1.max_message_len());
        for index in 0..(capacity / 8) as u64 {
            port1.try_post_bytes(&largest).unwrap();
            assert_eq!(now(&port2), largest);
            // Shifts the next one by 16, 32, 48… so that every offset comes up.
            port1
                .try_post_bytes(&vec![9; (index % 5 * 16) as usize])
                .unwrap();
            assert!(port2.try_recv().unwrap().is_some());
        }
    }
}

#[test]
fn s10_the_largest_message_goes_the_typed_way() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    // A byte vector's archive: its bytes, then 8 more, to a multiple of 4.
    let largest = vec![3_u8; (port1.max_message_len() - 8) & !3];
    for shift in 0..64 {
        port1.try_post_message(&largest).unwrap();
        let event = port2.try_recv().unwrap().unwrap();
        assert_eq!(event.data::<Vec<u8>>().unwrap().as_slice(), largest);
        port1.try_post_bytes(&vec![0; shift % 7 * 16]).unwrap();
        assert!(port2.try_recv().unwrap().is_some());
    }
}

#[test]
fn s11_full_names_what_is_needed_and_what_is_free() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let posted = fill(&port1);
    for length in [64, 500, port1.max_message_len()] {
        let bytes = vec![1; length];
        let errors = [
            port1.try_post_bytes(&bytes).unwrap_err(),
            port1.try_reserve(length).map(drop).unwrap_err().into(),
            port1.batch().post_bytes(&bytes).unwrap_err(),
        ];
        for error in errors {
            let PostError::Full { needed, free } = error else {
                panic!("wanted Full, got {error:?}");
            };
            assert!(needed > free, "{error}");
            assert!(needed >= length && free <= 4096, "{error}");
            let shown = error.to_string();
            assert!(shown.contains(&needed.to_string()), "{shown}");
            assert!(shown.contains(&free.to_string()), "{shown}");
        }
    }
    let error = port1.try_post_message(&greeting(3)).unwrap_err();
    assert!(
        matches!(error, PostError::Full { needed, free } if needed > free),
        "{error:?}"
    );
    for index in 0..posted {
        assert_eq!(now(&port2), sample_of(index, 64), "nothing is dropped");
    }
    assert!(nothing(&port2));
}

#[test]
fn s11_each_message_received_makes_room_for_another() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    // Begin in the middle: at the ring's end a message may need more room than its own length.
    port1.post_bytes(&[0; 1900]).unwrap();
    assert_eq!(now(&port2).len(), 1900);
    let mut posted = fill(&port1);
    let mut received = 0;
    for _ in 0..20 {
        assert_eq!(now(&port2), sample_of(received, 64));
        received += 1;
        port1.try_post_bytes(&sample_of(posted, 64)).unwrap();
        posted += 1;
        assert!(
            port1.try_post_bytes(&sample_of(posted, 64)).is_err(),
            "there was room for one"
        );
    }
    while received < posted {
        assert_eq!(now(&port2), sample_of(received, 64));
        received += 1;
    }
    assert!(nothing(&port2));
}

#[test]
fn s11_the_queue_never_grows_beyond_its_capacity() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    for _ in 0..100 {
        let posted = fill(&port1);
        assert!(
            posted * 64 < 4096 && posted * 80 > 3500,
            "{posted} messages of 64 bytes"
        );
        assert!(port2.pending() <= port1.capacity());
        (0..posted).for_each(|index| assert_eq!(now(&port2), sample_of(index, 64)));
    }
}

#[test]
fn s11_post_waits_for_room_across_threads() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel_of(4096);
        port1.set_wait_strategy(strategy);
        let posted = fill(&port1);
        let (started, waits) = mpsc::channel();
        let poster = thread::spawn(move || {
            started.send(common::thread_id()).unwrap();
            for index in posted..posted + 100 {
                match index % 3 {
                    0 => port1.post_bytes(&sample_of(index, 64)).unwrap(),
                    1 => {
                        let mut slot = port1.reserve(64).unwrap();
                        slot.write(&sample_of(index, 64));
                        slot.commit();
                    }
                    _ => port1
                        .post_bytes_timeout(&sample_of(index, 64), common::PATIENCE)
                        .unwrap(),
                }
            }
            port1.stats()
        });
        let thread = waits.recv().unwrap();
        if strategy != WaitStrategy::Spin {
            common::until_asleep(std::process::id(), thread);
        }
        for index in 0..posted + 100 {
            assert_eq!(next(&port2), sample_of(index, 64), "{strategy:?}");
        }
        let waits = poster.join().unwrap().room_waits;
        assert!(waits >= 1 || strategy == WaitStrategy::Spin, "{strategy:?}");
    }
}

#[test]
fn s11_a_typed_post_waits_for_room_too() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let posted = fill(&port1);
    let poster = thread::spawn(move || {
        (0..50).for_each(|index| port1.post_message(&greeting(index)).unwrap());
    });
    (0..posted).for_each(|index| assert_eq!(next(&port2), sample_of(index, 64)));
    for index in 0..50 {
        let event = port2.recv_timeout(common::PATIENCE).unwrap().unwrap();
        let archived = event.data::<common::Greeting>().unwrap();
        assert_eq!(archived.text, greeting(index).text);
        assert_eq!(archived.numbers.len(), greeting(index).numbers.len());
    }
    poster.join().unwrap();
}

#[test]
fn s11_messages_of_every_size_wait_for_room() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let many = common::turns(strategy, 1000);
        let (port1, port2) = channel_of(4096);
        port1.set_wait_strategy(strategy);
        port2.set_wait_strategy(strategy);
        let max = port1.max_message_len();
        // Up to the largest, in an order that jumps about, so that the ring's end is met in many ways.
        let length = move |index: u64| 8 + (index as usize * 797) % (max - 7);
        let poster = thread::spawn(move || {
            (0..many).for_each(|index| port1.post_bytes(&sample_of(index, length(index))).unwrap());
        });
        for index in 0..many {
            assert_eq!(
                next(&port2),
                sample_of(index, length(index)),
                "{strategy:?}"
            );
        }
        poster.join().unwrap();
    }
}

#[test]
fn s11_post_timeout_waits_so_long_and_no_longer() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let (port1, port2) = channel_of(4096);
        port1.set_wait_strategy(strategy);
        let posted = fill(&port1);
        let timeout = Duration::from_millis(30);
        let waits: [&dyn Fn() -> Option<PostError>; 4] = [
            &|| port1.post_bytes_timeout(&[1; 64], timeout).err(),
            &|| port1.post_message_timeout(&greeting(8), timeout).err(),
            &|| Some(port1.reserve_timeout(64, timeout).map(drop).err()?.into()),
            &|| port1.post_bytes_timeout(&[1; 64], Duration::ZERO).err(),
        ];
        for (number, wait) in waits.iter().enumerate() {
            let start = Instant::now();
            let error = wait();
            assert!(matches!(error, Some(PostError::Full { .. })), "{error:?}");
            assert!(
                start.elapsed() >= timeout || number == 3,
                "{strategy:?}: too early"
            );
            assert!(start.elapsed() < common::AT_ONCE, "{strategy:?}: too late");
        }
        (0..posted).for_each(|index| assert_eq!(now(&port2), sample_of(index, 64)));
        assert!(nothing(&port2));
        // With room there is nothing to wait for, however long one would.
        port1.post_bytes_timeout(b"x", Duration::MAX).unwrap();
        assert_eq!(now(&port2), b"x");
    }
}

#[test]
fn s11_post_waits_for_a_receiver_in_another_process() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let mut command = common::command("receives_when_told");
        common::tell(&mut command, strategy, "");
        let (port, child) = ringport::Worker::spawn(command).unwrap().into_parts();
        port.set_wait_strategy(strategy);
        let posted = fill(&port);
        let timeout = Duration::from_millis(20);
        let error = port.post_bytes_timeout(b"go", timeout);
        assert!(matches!(error, Err(PostError::Full { .. })), "{error:?}");
        let_go_on(&child);
        (posted..posted + 3000).for_each(|i| port.post_bytes(&sample_of(i, 64)).unwrap());
        assert!(port.stats().room_waits >= 1, "{strategy:?}");
        port.close();
        common::end_well(child);
    }
}

/// Lets a process that stopped itself go on.
fn let_go_on(child: &std::process::Child) {
    let process = child.id();
    common::until("the peer stopped itself", || {
        common::state(process, process) == Some('T')
    });
    // SAFETY: the process is a child of ours that has not been waited for; its number is its own.
    assert_eq!(unsafe { libc::kill(process as i32, libc::SIGCONT) }, 0);
}

fn receives_when_told() {
    let port = common::parent();
    port.set_wait_strategy(common::strategy());
    // SAFETY: `raise` takes a signal number and has no precondition.
    assert_eq!(unsafe { libc::raise(libc::SIGSTOP) }, 0);
    let mut received = 0;
    for event in port.iter() {
        assert_eq!(event.bytes(), sample_of(received, 64));
        received += 1;
    }
    assert!(received > 3000);
}

#[test]
fn s11_a_poster_in_another_process_waits_for_us() {
    let _quiet = common::descriptors();
    for strategy in common::STRATEGIES {
        let counters = Counters::new();
        let mut command = common::command("fills_and_waits");
        counters.give_to(&mut command);
        common::tell(&mut command, strategy, "");
        let (port, child) = ringport::Worker::spawn(command).unwrap().into_parts();
        counters.until(Counters::READY, 1);
        if strategy != WaitStrategy::Spin {
            counters.until_asleep(child.id());
        }
        let before = counters.get(Counters::DONE);
        for index in 0..before + 2000 {
            assert_eq!(next(&port), sample_of(index, 64), "{strategy:?}");
        }
        port.close();
        common::end_well(child);
    }
}

fn fills_and_waits() {
    let (port, counters) = (common::parent(), Counters::given());
    port.set_wait_strategy(common::strategy());
    let posted = fill(&port);
    counters.set(Counters::DONE, posted);
    counters.ready();
    let mut index = posted;
    while port.post_bytes(&sample_of(index, 64)).is_ok() {
        index += 1;
    }
}

#[test]
fn each_direction_has_its_own_capacity() {
    let _quiet = common::descriptors();
    let options = ChannelOptions::new()
        .capacity_1_to_2(8192)
        .capacity_2_to_1(4096);
    let MessageChannel { port1, port2 } = MessageChannel::with_options(&options).unwrap();
    assert_eq!((port1.capacity(), port2.capacity()), (8192, 4096));
    assert_eq!(port1.max_message_len(), 8192 / 2 - 24);
    assert_eq!(port2.max_message_len(), 4096 / 2 - 24);
    assert!(fill(&port1) > fill(&port2));
}
