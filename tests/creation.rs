//! Making a channel: S1 to S4 and S56.

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use common::{channel, channel_of, closed, next, nothing, now};
use ringport::{CloseReason, MessagePort, SpawnError, Worker};

roles! {
    echo, parent_once, not_for_a_grandchild, is_no_worker, no_thread_no_file, inherits_one_port,
    inherits_nothing, holds_a_port, ends_by_itself, spawns_without_streams,
}

/// Sends back what comes, until the end.
fn echo() {
    let port = common::parent();
    for event in port.iter() {
        port.post_bytes(event.bytes()).unwrap();
    }
}

#[test]
fn s01_a_channel_is_two_ports_entangled_with_each_other_only() {
    let _quiet = common::descriptors();
    let (a1, a2) = channel();
    let (b1, b2) = channel();
    a1.post_bytes(b"a").unwrap();
    assert!(nothing(&a1) && nothing(&b1) && nothing(&b2));
    assert_eq!(now(&a2), b"a");
    b2.post_bytes(b"b").unwrap();
    assert!(nothing(&a1) && nothing(&a2) && nothing(&b2));
    assert_eq!(now(&b1), b"b");

    drop(a1);
    assert_eq!(closed(a2.recv()), CloseReason::ClosedByPeer);
    assert!(!b1.is_closed() && !b2.is_closed());
}

#[test]
fn s01_ports_of_many_channels_stay_apart_across_threads() {
    let _quiet = common::descriptors();
    let threads: Vec<_> = (0..8_u64)
        .map(|number| {
            let (port, far) = channel_of(4096);
            let echo = thread::spawn(move || {
                for event in far.iter() {
                    assert_eq!(common::index_of(event.bytes()) % 8, number);
                    far.post_bytes(event.bytes()).unwrap();
                }
            });
            (number, port, echo)
        })
        .collect();
    for round in 0..50 {
        for (number, port, _) in &threads {
            port.post_bytes(&common::sample(round * 8 + number))
                .unwrap();
        }
        for (number, port, _) in &threads {
            assert_eq!(next(port), common::sample(round * 8 + number));
        }
    }
    for (_, port, echo) in threads {
        drop(port);
        echo.join().unwrap();
    }
}

#[test]
fn s01_ports_of_two_workers_stay_apart() {
    let _quiet = common::descriptors();
    let mut one = common::worker("echo");
    let mut two = common::worker("echo");
    one.port().post_bytes(b"one").unwrap();
    assert_eq!(next(one.port()), b"one");
    assert!(nothing(two.port()));
    two.port().post_bytes(b"two").unwrap();
    assert_eq!(next(two.port()), b"two");
    assert!(nothing(one.port()));
    for worker in [&mut one, &mut two] {
        worker.port().close();
        assert!(worker.wait().unwrap().success());
    }
}

#[test]
fn s02_the_directions_are_independent() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    let mut posted = 0;
    while port1.try_post_bytes(&common::sample_of(posted, 64)).is_ok() {
        posted += 1;
    }
    assert!(posted > 10);
    for index in 0..1000 {
        port2.post_bytes(&common::sample(index)).unwrap();
        assert_eq!(now(&port1), common::sample(index));
    }
    for index in 0..posted {
        assert_eq!(now(&port2), common::sample_of(index, 64));
    }
    assert!(nothing(&port2));
}

#[test]
fn s02_both_directions_run_at_once_across_threads() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel_of(4096);
    // Each end posts and receives by turns, without waiting for the other's answer.
    let both = |port: MessagePort| {
        let mut received = 0;
        let mut posted = 0;
        while received < 5000 {
            if posted < 5000 && port.try_post_bytes(&common::sample(posted)).is_ok() {
                posted += 1;
            } else if let Some(event) = port.recv_timeout(common::PATIENCE).unwrap() {
                assert_eq!(event.bytes(), common::sample(received));
                received += 1;
            } else {
                panic!("nothing came");
            }
        }
        while posted < 5000 {
            port.post_bytes(&common::sample(posted)).unwrap();
            posted += 1;
        }
        port
    };
    let other = thread::spawn(move || both(port2));
    let port1 = both(port1);
    let port2 = other.join().unwrap();
    assert!(nothing(&port1) && nothing(&port2));
}

#[test]
fn s02_both_directions_work_across_processes() {
    let _quiet = common::descriptors();
    let mut worker = common::worker("echo");
    for index in 0..200 {
        worker.port().post_bytes(&common::sample(index)).unwrap();
    }
    for index in 0..200 {
        assert_eq!(next(worker.port()), common::sample(index));
    }
    worker.port().close();
    assert!(worker.wait().unwrap().success());
}

#[test]
fn s03_a_port_has_no_name() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    for port in [port1, port2] {
        let handle = port.into_handle();
        let segment = format!("/proc/self/fd/{}", handle.segment.as_raw_fd());
        let link = std::fs::read_link(segment).unwrap();
        let link = link.to_str().unwrap();
        assert!(
            link.starts_with("/memfd:") && link.ends_with("(deleted)"),
            "{link}"
        );
        let doorbell = UnixStream::from(handle.doorbell);
        assert!(doorbell.local_addr().unwrap().is_unnamed());
        assert!(doorbell.peer_addr().unwrap().is_unnamed());
    }
}

#[test]
fn s03_a_handle_passed_on_is_the_port() {
    let _quiet = common::descriptors();
    let (port1, port2) = channel();
    port1.post_bytes(b"waiting").unwrap();
    let handle = port2.into_handle();
    let other = thread::spawn(move || {
        let port = MessagePort::from_handle(handle).unwrap();
        assert_eq!(now(&port), b"waiting");
        port.post_bytes(b"adopted").unwrap();
        next(&port)
    });
    assert_eq!(next(&port1), b"adopted");
    port1.post_bytes(b"later").unwrap();
    assert_eq!(other.join().unwrap(), b"later");
}

#[test]
fn s03_there_is_no_parent_port_to_look_up() {
    let _quiet = common::descriptors();
    let mut child = common::command("is_no_worker").spawn().unwrap();
    assert!(child.wait().unwrap().success());
}

fn is_no_worker() {
    assert!(ringport::parent_port().unwrap().is_none());
}

#[test]
fn s03_the_parent_port_is_given_once() {
    let _quiet = common::descriptors();
    let mut worker = common::worker("parent_once");
    assert_eq!(next(worker.port()), b"once");
    assert!(worker.wait().unwrap().success());
}

fn parent_once() {
    let port = ringport::parent_port().unwrap().unwrap();
    assert!(ringport::parent_port().unwrap().is_none());
    port.post_bytes(b"once").unwrap();

    // Not from another thread either, nor after the port is gone.
    drop(port);
    let again = thread::spawn(|| ringport::parent_port().unwrap().is_none());
    assert!(again.join().unwrap());
}

#[test]
fn s03_a_grandchild_with_the_variable_alone_gets_no_port() {
    let _quiet = common::descriptors();
    let mut worker = common::worker("not_for_a_grandchild");
    assert_eq!(next(worker.port()), b"it got none");
    assert!(worker.wait().unwrap().success());
}

fn not_for_a_grandchild() {
    if std::env::var_os("GRANDCHILD").is_some() {
        assert!(!matches!(ringport::parent_port(), Ok(Some(_))));
        return;
    }
    let variable = std::env::var_os("RINGPORT_PARENT").unwrap();
    let port = common::parent();
    let mut grandchild = common::command("not_for_a_grandchild");
    grandchild
        .env("RINGPORT_PARENT", variable)
        .env("GRANDCHILD", "1");
    assert!(grandchild.status().unwrap().success());
    port.post_bytes(b"it got none").unwrap();
}

#[test]
fn s03_a_worker_is_a_process_with_a_port() {
    let _quiet = common::descriptors();
    let mut worker = common::worker("echo");
    assert_eq!(worker.id(), worker.child().id());
    assert!(worker.try_wait().unwrap().is_none());
    worker.port().post_bytes(b"there?").unwrap();
    assert_eq!(next(worker.port()), b"there?");
    worker.kill().unwrap();
    assert!(!worker.wait().unwrap().success());
    assert!(worker.try_wait().unwrap().is_some());
    assert_eq!(closed(worker.port().recv()), CloseReason::PeerGone);
}

#[test]
fn s03_a_worker_outlives_its_owner_if_it_wants_to() {
    let _quiet = common::descriptors();
    let mut command = common::command("ends_by_itself");
    command.stdout(std::process::Stdio::piped());
    let mut worker = Worker::spawn(command).unwrap();
    let mut output = worker.child().stdout.take().unwrap();
    assert_eq!(next(worker.port()), b"up");
    // Dropping it neither kills nor waits; the pipe tells when it has ended.
    drop(worker);
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    assert!(
        said.contains("the port was closed, I was not killed"),
        "{said}"
    );
}

fn ends_by_itself() {
    let port = common::parent();
    port.post_bytes(b"up").unwrap();
    assert_eq!(closed(port.recv()), CloseReason::ClosedByPeer);
    println!("the port was closed, I was not killed");
}

#[test]
fn s03_a_worker_that_cannot_be_started_is_an_error_that_names_it() {
    let _quiet = common::descriptors();
    let command = Command::new("/nowhere/no-such-program");
    let Err(error) = Worker::spawn(command) else {
        panic!("it was started");
    };
    assert!(matches!(&error, SpawnError::Spawn { program, .. } if program.contains("no-such")));
    assert!(
        error.to_string().contains("/nowhere/no-such-program"),
        "{error}"
    );
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn s03_a_worker_gets_its_port_where_there_are_no_standard_streams() {
    let _quiet = common::descriptors();
    let mut child = common::command("spawns_without_streams").spawn().unwrap();
    assert!(child.wait().unwrap().success());
}

/// Without them the channel's own descriptors get the numbers 0 to 2.
fn spawns_without_streams() {
    for stream in 0..3 {
        // SAFETY: nothing here uses the standard streams from now on.
        assert_eq!(unsafe { libc::close(stream) }, 0);
    }
    let mut worker = common::worker("echo");
    worker.port().post_bytes(b"heard?").unwrap();
    assert_eq!(next(worker.port()), b"heard?");
    worker.port().close();
    assert!(worker.wait().unwrap().success());
}

#[test]
fn s04_a_channel_has_no_thread_and_no_file() {
    let _quiet = common::descriptors();
    let mut worker = common::worker("no_thread_no_file");
    assert_eq!(next(worker.port()), b"none");
    assert!(worker.wait().unwrap().success());
}

/// In a process of its own: here no other test starts threads.
fn no_thread_no_file() {
    let port = common::parent();
    let tasks = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let files = || -> BTreeSet<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let paths = maps
            .lines()
            .filter_map(|line| Some(line.split_once('/')?.1.to_owned()));
        paths.filter(|path| !path.starts_with("memfd:")).collect()
    };
    let (tasks_before, files_before) = (tasks(), files());
    let channels: Vec<_> = (0..50).map(|_| channel_of(4096)).collect();
    for (port1, port2) in &channels {
        port1.post_bytes(b"used").unwrap();
        assert_eq!(next(port2), b"used");
    }
    assert_eq!(tasks(), tasks_before);
    assert_eq!(files(), files_before);
    port.post_bytes(b"none").unwrap();
}

#[test]
fn s04_the_kernel_frees_all_of_it_with_the_last_holder() {
    let _quiet = common::descriptors();
    let (port, mut child) = common::worker("holds_a_port").into_parts();
    assert_eq!(next(&port), b"held");
    let handle = port.into_handle();
    let segment = inode(&handle.segment);
    let holders = holders_of(segment);
    assert!(holders.contains(&std::process::id()) && holders.contains(&child.id()));

    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(holders_of(segment), BTreeSet::from([std::process::id()]));
    drop(handle);
    assert_eq!(holders_of(segment), BTreeSet::new());
}

fn holds_a_port() {
    let port = common::parent();
    port.post_bytes(b"held").unwrap();
    let _ = port.recv().err();
}

#[test]
fn s56_a_worker_gets_its_own_port_and_no_other() {
    let _quiet = common::descriptors();
    let (_port1, _port2) = channel();
    let (another, other_child) = common::worker("echo").into_parts();
    let mut worker = common::worker("inherits_one_port");
    assert_eq!(next(worker.port()), b"one only");
    assert!(worker.wait().unwrap().success());
    drop(another);
    common::end_well(other_child);
}

fn inherits_one_port() {
    let (segments, sockets) = inherited();
    assert_eq!((segments, sockets), (1, 1));
    common::parent().post_bytes(b"one only").unwrap();
}

#[test]
fn s56_a_process_started_otherwise_inherits_no_port() {
    let _quiet = common::descriptors();
    let (port1, _port2) = channel();
    // A port that has waited may have made more descriptors of its own.
    let millisecond = std::time::Duration::from_millis(1);
    assert!(port1.recv_timeout(millisecond).unwrap().is_none());
    let mut child = common::command("inherits_nothing").spawn().unwrap();
    assert!(child.wait().unwrap().success());
}

fn inherits_nothing() {
    assert_eq!(inherited(), (0, 0));
    assert!(ringport::parent_port().unwrap().is_none());
}

/// How many memory files and sockets this process has, its standard streams aside.
fn inherited() -> (usize, usize) {
    let mut found = (0, 0);
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let Ok(link) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let link = link.to_string_lossy().into_owned();
        if number > 2 && link.starts_with("/memfd:") {
            found.0 += 1;
        } else if number > 2 && link.starts_with("socket:") {
            found.1 += 1;
        }
    }
    found
}

/// What the kernel calls a memory file.
fn inode(segment: &OwnedFd) -> (u64, u64) {
    let metadata = File::from(segment.try_clone().unwrap()).metadata().unwrap();
    (metadata.dev(), metadata.ino())
}

/// Every process that has the memory open or mapped, as far as this user may look.
fn holders_of((device, inode): (u64, u64)) -> BTreeSet<u32> {
    let mut holders = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(process) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let open = std::fs::read_dir(entry.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let open = open.filter_map(|fd| std::fs::metadata(fd.path()).ok());
        let held = open
            .into_iter()
            .any(|file| (file.dev(), file.ino()) == (device, inode));
        let maps = std::fs::read_to_string(entry.path().join("maps")).unwrap_or_default();
        let mapped = maps.lines().any(|line| {
            let mut fields = line.split_whitespace();
            fields.nth(4) == Some(&inode.to_string()) && line.contains("/memfd:")
        });
        if held || mapped {
            holders.insert(process);
        }
    }
    holders
}
