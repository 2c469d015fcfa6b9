//! The sleep race, again and again: a post against a peer that is just going to sleep.
//!
//! Two processes, each of which sleeps for every answer; delays at random put the post before, between
//! and after the steps of going to sleep. One wake-up lost, and a wait runs into its timeout. A round
//! of one message keeps both sides FENCED. A round of 600, published at once, makes both sides post without
//! fences, so that each sleep begins with the heavy barrier. The fallbacks for processes that cannot have
//! that barrier are soaked the same way.
//!
//! The long form, a million sleeps of each kind: `RINGPORT_SOAK=1000000 cargo test --release --test soak`.

mod common;

use common::PATIENCE;
use ringport::{Barrier, MessagePort, WaitStrategy};

roles! {
    answer,
    answer_fenced,
    answer_without_membarrier,
    answer_losing_membarrier,
    swallow,
    unpack,
    keep_up
}

/// Sleeps of each kind in the short form.
const SHORT: u64 = if cfg!(debug_assertions) {
    5_000
} else {
    12_000
};
/// Rounds with one child, few enough that a chunk is far from the watchdog's limit.
const CHUNK: u64 = 20_000;
/// Messages of a round after which both sides post without fences (the library: 256 to 511 without a sleep).
const BURST: u64 = 600;

const BOTH_SLEEP: [WaitStrategy; 2] = [WaitStrategy::Block; 2];
/// This side spins, so that its next post comes close upon the answer, while the worker goes to sleep.
const ONE_SLEEPS: [WaitStrategy; 2] = [WaitStrategy::Spin, WaitStrategy::Block];

fn sleeps_wanted() -> u64 {
    match std::env::var("RINGPORT_SOAK") {
        Ok(text) => text.parse().expect("RINGPORT_SOAK is a number of sleeps"),
        Err(_) => SHORT,
    }
}

/// Delays of 0 to some microseconds, half of them shorter than one, the same each run.
struct Delays(u64);

impl Delays {
    fn next(&mut self) {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let longest = [1, 8, 32, 256][(self.0 >> 60) as usize % 4];
        for _ in 0..(self.0 >> 20) % longest {
            std::hint::spin_loop();
        }
    }
}

fn next(port: &MessagePort) -> u64 {
    match port.recv_timeout(PATIENCE).unwrap() {
        Some(event) => u64::from_le_bytes(event.bytes().try_into().unwrap()),
        None => panic!("a wake-up was lost: {port:?}"),
    }
}

/// Posts rounds of `burst` messages and waits for each round's answer. Returns both sides' sleeps.
fn rounds(role: &str, burst: u64, rounds: u64, [here, there]: [WaitStrategy; 2]) -> (u64, u64) {
    let mut command = common::command(role);
    common::tell(&mut command, there, &burst.to_string());
    let mut worker = ringport::Worker::spawn(command).unwrap();
    let port = worker.port();
    port.set_wait_strategy(here);
    let mut delays = Delays(0x2545_f491_4f6c_dd1d);
    let mut sent = 0;
    let mut sum = 0u64;
    for _ in 0..rounds {
        delays.next();
        let mut batch = port.batch();
        for _ in 0..burst {
            sent += 1;
            sum = sum.wrapping_mul(31).wrapping_add(sent);
            batch.post_bytes(&sent.to_le_bytes()).unwrap();
        }
        assert_eq!(batch.publish() as u64, burst);
        assert_eq!(next(port), sum, "messages lost, doubled or out of order");
    }
    port.post_bytes(&[]).unwrap();
    let theirs = next(port);
    let ours = port.stats().sleeps;
    assert!(worker.wait().unwrap().success());
    (ours, theirs)
}

/// Soaks until both sides together have slept often enough.
fn soak(role: &str, burst: u64, strategies: [WaitStrategy; 2]) {
    let wanted = sleeps_wanted();
    let (mut ours, mut theirs) = (0, 0);
    for _ in 0..1000 {
        let _quiet = common::descriptors();
        let left = wanted.saturating_sub(ours + theirs).clamp(1000, CHUNK);
        let (here, there) = rounds(role, burst, left, strategies);
        ours += here;
        theirs += there;
        if ours + theirs >= wanted {
            println!("{role}, rounds of {burst}, {strategies:?}: {ours} and {theirs} sleeps");
            return;
        }
    }
    panic!("only {ours} and {theirs} sleeps, {wanted} wanted");
}

fn answer() {
    let port = common::parent();
    port.set_wait_strategy(common::strategy());
    let burst: u64 = common::how().parse().unwrap();
    let mut delays = Delays(0x9e37_79b9_7f4a_7c15);
    let (mut count, mut sum) = (0u64, 0u64);
    loop {
        let event = port.recv_timeout(PATIENCE).unwrap();
        let event = event.unwrap_or_else(|| panic!("a wake-up was lost: {port:?}"));
        let Ok(bytes) = event.bytes().try_into() else {
            break;
        };
        sum = sum.wrapping_mul(31).wrapping_add(u64::from_le_bytes(bytes));
        count += 1;
        if count % burst == 0 {
            delays.next();
            port.post_bytes(&sum.to_le_bytes()).unwrap();
            // The next round is being written meanwhile; its post is to meet us falling asleep.
            delays.next();
        }
    }
    port.post_bytes(&port.stats().sleeps.to_le_bytes()).unwrap();
}

fn answer_fenced() {
    ringport::set_barrier(Barrier::Fence);
    answer();
}

/// As on a kernel without membarrier, or in a sandbox that forbids it.
fn answer_without_membarrier() {
    forbid_membarrier();
    answer();
}

/// Membarrier works until this side has told the peer to post without fences, and then no more.
fn answer_losing_membarrier() {
    let port = common::parent();
    for _ in 0..BURST {
        next(&port);
    }
    forbid_membarrier();
    // The next sleep's barrier fails: it must end by itself, within a slice, if its wake-up is lost.
    port.set_wait_strategy(WaitStrategy::Block);
    port.post_bytes(b"!").unwrap();
    let mut count = 0u64;
    while port
        .recv_timeout(PATIENCE)
        .unwrap()
        .is_some_and(|event| !event.is_empty())
    {
        count += 1;
    }
    port.post_bytes(&count.to_le_bytes()).unwrap();
}

/// Makes membarrier fail with EPERM in this thread from now on.
fn forbid_membarrier() {
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut program = [
        // The number of the system call is the first word of the data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_membarrier as u32,
        ),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: takes plain numbers.
    let ready = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(ready, 0);
    // SAFETY: the filter and its program are alive during the call.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) };
    assert_eq!(set, 0);
    // SAFETY: membarrier takes three integers.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
    assert_eq!(answer, -1, "the filter does not work");
}

#[test]
fn s52_no_wake_up_is_lost_fenced() {
    soak("answer", 1, BOTH_SLEEP);
    soak("answer", 1, ONE_SLEEPS);
}

#[test]
fn s52_no_wake_up_is_lost_unfenced() {
    soak("answer", BURST, BOTH_SLEEP);
    soak("answer", BURST, ONE_SLEEPS);
}

#[test]
fn s52_no_wake_up_is_lost_while_adaptive_waits_fall_asleep() {
    // Here nearly all waits end while spinning, so it is rounds that are counted, not sleeps.
    let _quiet = common::descriptors();
    rounds("answer", 1, SHORT, [WaitStrategy::Adaptive; 2]);
    rounds("answer", BURST, SHORT, [WaitStrategy::Adaptive; 2]);
}

#[test]
fn s52_no_wake_up_is_lost_with_a_peer_that_always_fences() {
    soak("answer_fenced", BURST, ONE_SLEEPS);
}

#[test]
fn s52_no_wake_up_is_lost_with_a_peer_without_membarrier() {
    soak("answer_without_membarrier", BURST, ONE_SLEEPS);
}

#[test]
fn s52_a_barrier_that_fails_late_costs_one_short_sleep() {
    let _quiet = common::descriptors();
    let mut worker = common::worker("answer_losing_membarrier");
    let port = worker.port();
    for number in 0..BURST {
        port.post_bytes(&number.to_le_bytes()).unwrap();
    }
    assert_eq!(common::next(port), b"!");
    let mut delays = Delays(7);
    for number in 0..SHORT {
        delays.next();
        port.post_bytes(&number.to_le_bytes()).unwrap();
    }
    port.post_bytes(&[]).unwrap();
    assert_eq!(next(port), SHORT);
    assert!(worker.wait().unwrap().success());
}

#[test]
fn s11_no_wake_up_is_lost_by_posters_that_wait_for_room() {
    // The ring to the worker holds few of these, so that this side sleeps for room all the time.
    let _quiet = common::descriptors();
    let mut worker = worker_behind_me("swallow");
    let port = worker.port();
    port.set_wait_strategy(WaitStrategy::Block);
    let message = vec![7; port.max_message_len()];
    let mut delays = Delays(99);
    for _ in 0..SHORT {
        delays.next();
        port.post_bytes_timeout(&message, PATIENCE).unwrap();
    }
    port.post_bytes(&[]).unwrap();
    assert_eq!(next(port), SHORT);
    let waits = port.stats().room_waits;
    assert!(waits >= SHORT / LAG - 1, "only {waits} waits");
    assert!(worker.wait().unwrap().success());
}

fn swallow() {
    let port = common::parent();
    port.set_wait_strategy(WaitStrategy::Block);
    let mut delays = Delays(5);
    let mut count = 0u64;
    fall_behind(count, SHORT);
    while port
        .recv_timeout(PATIENCE)
        .unwrap()
        .is_some_and(|event| !event.is_empty())
    {
        delays.next();
        count += 1;
        fall_behind(count, SHORT);
    }
    port.post_bytes(&count.to_le_bytes()).unwrap();
}

/// Messages from one time that a worker falls behind to the next: more than can wait for it.
const LAG: u64 = 100;

/// A worker that can tell when this thread sleeps.
fn worker_behind_me(role: &str) -> ringport::Worker {
    let mut command = common::command(role);
    let thread = common::thread_id().to_string();
    common::tell(&mut command, WaitStrategy::Block, &thread);
    ringport::Worker::spawn(command).unwrap()
}

/// In a role: lets messages pile up now and then, until the poster sleeps. However fast this side is, it has to.
fn fall_behind(received: u64, all: u64) {
    if received % LAG == 0 && all - received > LAG {
        let thread = common::how().parse().unwrap();
        common::until_asleep(std::os::unix::process::parent_id(), thread);
    }
}

/// A descriptor byte goes before the message that it belongs to, and wakes a sleeper who finds nothing yet.
#[test]
fn s52_no_wake_up_is_lost_where_ports_travel() {
    let rounds = sleeps_wanted() / 10;
    let _quiet = common::descriptors();
    let mut worker = common::worker("unpack");
    let port = worker.port();
    port.set_wait_strategy(WaitStrategy::Block);
    let mut delays = Delays(0x9e37_79b9_7f4a_7c15);
    let (near, mut far) = common::channel();
    for round in 0..rounds {
        delays.next();
        near.try_post_bytes(&round.to_le_bytes()).unwrap();
        port.post_bytes_with(&round.to_le_bytes(), [far]).unwrap();
        let Some(event) = port.recv_timeout(PATIENCE).unwrap() else {
            panic!("a wake-up was lost in round {round}: {port:?}");
        };
        assert_eq!(event.bytes(), round.to_le_bytes());
        far = event.take_ports().pop().unwrap();
    }
    port.close();
    assert!(worker.wait().unwrap().success());
}

fn unpack() {
    let boss = common::parent();
    boss.set_wait_strategy(WaitStrategy::Block);
    let mut delays = Delays(0xbf58_476d_1ce4_e5b9);
    for event in boss.iter() {
        let port = event.take_ports().pop().unwrap();
        assert_eq!(common::now(&port), event.bytes());
        delays.next();
        boss.post_bytes_with(event.bytes(), [port]).unwrap();
    }
}

/// Sixty-four messages with ports wait, and the poster sleeps until one of them is taken.
#[test]
fn s11_no_wake_up_is_lost_by_posters_that_wait_to_send_ports() {
    let rounds = sleeps_wanted() / 10;
    let _quiet = common::descriptors();
    let mut worker = worker_behind_me("keep_up");
    let port = worker.port();
    port.set_wait_strategy(WaitStrategy::Block);
    let (lent, kept) = common::channel();
    let handle = lent.into_handle();
    for round in 0..rounds {
        let copy = ringport::PortHandle {
            segment: handle.segment.try_clone().unwrap(),
            doorbell: handle.doorbell.try_clone().unwrap(),
        };
        let copy = MessagePort::from_handle(copy).unwrap();
        // Making a channel for each would take most of the time; nobody uses these.
        let posted = port.post_bytes_with_timeout(&round.to_le_bytes(), [copy], PATIENCE);
        posted.unwrap_or_else(|error| panic!("a wake-up was lost in round {round}: {error}"));
    }
    assert_eq!(next(port), rounds);
    let waits = port.stats().room_waits;
    println!("{rounds} posts with ports: {waits} waits");
    assert!(waits >= rounds / LAG - 1, "only {waits} waits");
    drop((handle, kept));
    port.close();
    assert!(worker.wait().unwrap().success());
}

fn keep_up() {
    let boss = common::parent();
    boss.set_wait_strategy(WaitStrategy::Block);
    let mut delays = Delays(0x94d0_49bb_1331_11eb);
    let (mut expected, rounds) = (0u64, sleeps_wanted() / 10);
    while expected < rounds {
        fall_behind(expected, rounds);
        let event = boss.recv_timeout(PATIENCE).unwrap().expect("a message");
        assert_eq!(event.bytes(), expected.to_le_bytes());
        // Given up as a handle, so that the port that is lent again and again is not closed.
        for port in event.take_ports() {
            drop(port.into_handle());
        }
        expected += 1;
        delays.next();
    }
    boss.post_bytes(&expected.to_le_bytes()).unwrap();
    assert!(boss.recv().is_err());
}
