//! Processes and workers in a loop: the end of each is told once, with its status; each is taken out as it was put in.

#[path = "looping/clocks.rs"]
mod clocks;
mod common;
#[path = "common/ports.rs"]
mod ports;
#[path = "looping/shortage.rs"]
mod shortage;
#[path = "looping/stage.rs"]
mod stage;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::rc::Rc;
use std::time::Duration;

use clocks::time_by;
use common::{Counters, PATIENCE, STRATEGIES, kill, next, on_stage, sample, victim};
use ringport::{ChildId, EventLoop, EventLoopError, PortId};
use shortage::hoard;
use stage::{Log, run_until};

roles! { answers, ends_as_told, is_short_of_descriptors, may_be_traced, traces }

/// A process that ends so, or is idle; it has no port.
fn process(how: &str) -> Child {
    let mut command = common::command("ends_as_told");
    common::tell(&mut command, common::STRATEGIES[0], how);
    command.spawn().unwrap()
}

fn ends_as_told() {
    match common::how().as_str() {
        "idle" => common::idle(),
        code => std::process::exit(code.parse().unwrap()),
    }
}

/// A process that answers each message with its like.
fn answers() {
    ports::echo(&common::parent());
}

/// Waits until a process has ended. Nobody may have waited for it yet, or `add_child` when it was put in.
#[track_caller]
fn until_ended(process: u32) {
    common::until("the process has ended", || {
        matches!(common::state(process, process), Some('Z') | None)
    });
}

/// Puts a process in, and writes down how it ends.
fn tell_end<'h>(
    events: &EventLoop<'h>,
    statuses: &'h Log<(u32, ExitStatus)>,
    child: Child,
) -> (u32, ChildId) {
    let name = child.id();
    let id = events.add_child(child, move |_, status| {
        statuses.add((name, status.unwrap()));
    });
    (name, id.unwrap())
}

#[test]
fn a_process_tells_its_status_once_however_it_ends() {
    let _quiet = common::descriptors();
    let log = Log::new();
    let statuses = &log;
    let mut events = EventLoop::new().unwrap();
    let mut expected = Vec::new();
    let mut ids = Vec::new();
    let mut put_in = |(name, id), status| {
        expected.push((name, ExitStatus::from_raw(status)));
        ids.push(id);
    };
    for code in [0, 7] {
        put_in(
            tell_end(&events, statuses, process(&code.to_string())),
            code << 8,
        );
        // One that ended before it was put in, and one whose end was heard of by hand.
        let early = process(&code.to_string());
        until_ended(early.id());
        put_in(tell_end(&events, statuses, early), code << 8);
        let mut buried = process(&code.to_string());
        buried.wait().unwrap();
        put_in(tell_end(&events, statuses, buried), code << 8);
    }
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let child = process("idle");
        let process = child.id() as libc::pid_t;
        put_in(tell_end(&events, statuses, child), signal);
        // SAFETY: a signal to a child of ours that nobody has waited for.
        assert_eq!(unsafe { libc::kill(process, signal) }, 0);
    }
    events.run().unwrap();
    let mut statuses = statuses.take();
    statuses.sort_by_key(|(name, _)| *name);
    expected.sort_by_key(|(name, _)| *name);
    assert_eq!(statuses, expected);
    assert!(events.is_empty());
    assert!(ids.is_sorted(), "later ones are greater: {ids:?}");
    for id in ids {
        assert!(events.remove_child(id).is_none(), "its end was told");
    }
    assert!(!events.run_once(Some(PATIENCE)).unwrap());
}

#[test]
fn a_process_that_is_taken_out_is_waited_for_by_hand() {
    let _quiet = common::descriptors();
    let token = Rc::new(());
    let never = || {
        let token = Rc::clone(&token);
        move |_: &EventLoop<'_>, _| {
            let _owned = token;
            panic!("it was taken out");
        }
    };
    let mut events = EventLoop::new().unwrap();
    let id = events.add_child(process("idle"), never()).unwrap();
    let mut child = events.remove_child(id).unwrap();
    assert_eq!(Rc::strong_count(&token), 1, "what the handler owned");
    assert!(events.remove_child(id).is_none());
    kill(&mut child);
    // In and out again, though it has ended.
    let id = events.add_child(child, never()).unwrap();
    let mut child = events.remove_child(id).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    // One that ends while it is in, and is taken out before that is heard of.
    let child = process("7");
    let ending = child.id();
    let id = events.add_child(child, never()).unwrap();
    let idle = events.add_child(process("idle"), never()).unwrap();
    until_ended(ending);
    let mut child = events.remove_child(id).unwrap();
    assert!(!events.run_once(Some(Duration::from_millis(5))).unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(7));
    kill(&mut events.remove_child(idle).unwrap());
    events.run().unwrap();
    assert_eq!(Rc::strong_count(&token), 1);
}

#[test]
fn of_two_processes_that_end_together_one_may_take_the_other_out() {
    let _quiet = common::descriptors();
    let (ids, told, out) = (RefCell::new(Vec::new()), Cell::new(0), RefCell::new(None));
    let mut events = EventLoop::new().unwrap();
    let processes: Vec<_> = (0..2).map(|code| process(&code.to_string())).collect();
    let names: Vec<_> = processes.iter().map(Child::id).collect();
    for (index, child) in processes.into_iter().enumerate() {
        let (ids, told, out) = (&ids, &told, &out);
        let id = events.add_child(child, move |events, status| {
            assert_eq!(status.unwrap().code(), Some(index as i32));
            told.set(told.get() + 1);
            let ids: &Vec<_> = &ids.borrow();
            assert!(events.remove_child(ids[index]).is_none(), "its own");
            *out.borrow_mut() = events
                .remove_child(ids[1 - index])
                .map(|it| (1 - index, it));
        });
        ids.borrow_mut().push(id.unwrap());
    }
    names.into_iter().for_each(until_ended);
    events.run().unwrap();
    assert_eq!(told.get(), 1);
    let (index, mut other) = out.take().expect("it was taken out");
    assert_eq!(other.wait().unwrap().code(), Some(index as i32));
}

/// Puts in a worker that answers, and writes down how it ends.
fn add_answers<'h>(events: &EventLoop<'h>, exits: &'h Log<Option<i32>>) -> (PortId, ChildId) {
    let worker = common::worker("answers");
    let added = events.add_worker(worker, |_, status| exits.add(status.unwrap().code()));
    let (attached, child) = added.unwrap();
    (attached.id(), child)
}

#[test]
fn a_workers_port_and_its_process_are_in_the_loop_each_by_itself() {
    let _quiet = common::descriptors();
    for strategy in STRATEGIES {
        let (exits, heard) = (Log::new(), Cell::new(0));
        let mut events = EventLoop::new().unwrap();
        events.set_wait_strategy(strategy);
        // The port is taken out, and the end of the process is told.
        let (port, child) = add_answers(&events, &exits);
        assert_eq!(events.len(), 2);
        let port = events.remove(port).unwrap();
        ports::ask(&port, 0..10);
        drop(port);
        events.run().unwrap();
        assert_eq!(exits.take(), [Some(0)]);
        assert!(events.remove_child(child).is_none());
        // The process is taken out, and the messages are dispatched.
        let (id, child) = add_answers(&events, &exits);
        let child = events.remove_child(child).unwrap();
        let port = events.port(id).unwrap();
        port.on_message(|events, event| {
            assert_eq!(event.bytes(), sample(heard.get()));
            heard.set(heard.get() + 1);
            if heard.get() == 10 {
                event.port().close();
                assert!(events.port(event.id()).is_some(), "it leaves after this");
            }
        });
        (0..10).for_each(|index| port.post_bytes(&sample(index)).unwrap());
        drop(port);
        events.run().unwrap();
        assert_eq!(heard.get(), 10);
        assert!(events.port(id).is_none() && exits.is_empty());
        common::end_well(child);
    }
}

#[test]
fn what_cannot_be_put_in_comes_back() {
    let _quiet = common::descriptors();
    let status = common::command("is_short_of_descriptors").status();
    assert!(status.unwrap().success());
}

fn is_short_of_descriptors() {
    let short = |error: &EventLoopError, wanted: &str| match error {
        EventLoopError::System { call, source } => {
            assert_eq!(source.raw_os_error(), Some(libc::EMFILE));
            assert_eq!(*call, wanted);
            assert!(error.to_string().contains(wanted), "{error}");
        }
        other => panic!("{other:?}"),
    };
    let token = Rc::new(());
    let handler = |expected: i32| {
        let token = Rc::clone(&token);
        move |events: &EventLoop<'_>, status: std::io::Result<ExitStatus>| {
            assert_eq!(status.unwrap().into_raw(), expected, "{token:?}");
            events.stop();
        }
    };
    let mut events = EventLoop::new().unwrap();
    let (child, worker) = (process("idle"), common::worker("answers"));
    let mut buried = process("7");
    buried.wait().unwrap();
    let files = hoard(0);
    let failed = events.add_child(child, handler(-1)).unwrap_err();
    short(failed.error(), "pidfd_open");
    let text = failed.to_string();
    let (error, child) = failed.into_parts();
    assert_eq!(error.to_string(), text);
    let failed = events
        .add_worker(worker, handler(-1))
        .map(drop)
        .unwrap_err();
    short(failed.error(), "pidfd_open");
    let worker = failed.into_inner();
    assert_eq!(Rc::strong_count(&token), 1);
    assert!(events.is_empty());
    assert!(!events.run_once(Some(PATIENCE)).unwrap());
    // One that was waited for takes no descriptor, nor does a port.
    events.add_child(buried, handler(7 << 8)).unwrap();
    events.run().unwrap();
    let (port, worker) = worker.into_parts();
    let id = events.add(port).unwrap().id();
    drop(files);
    let port = events.remove(id).unwrap();
    ports::ask(&port, 0..10);
    drop(port);

    // Nothing is the worse for it.
    let process = child.id() as libc::pid_t;
    events.add_child(child, handler(libc::SIGKILL)).unwrap();
    // SAFETY: a signal to a child of ours that nobody has waited for.
    assert_eq!(unsafe { libc::kill(process, libc::SIGKILL) }, 0);
    events.run().unwrap();
    events.add_child(worker, handler(0)).unwrap();
    events.run().unwrap();
    assert!(events.is_empty());
    drop(events);

    // A loop itself takes three.
    for spare in 0..4 {
        let _files = hoard(spare);
        match EventLoop::new() {
            Ok(_) => assert_eq!(spare, 3),
            Err(error) => {
                let call = ["epoll_create1", "eventfd", "timerfd_create"];
                short(&error, call[spare]);
            }
        }
    }
}

/// Lets any process of the same user trace this one.
fn may_be_traced() {
    let (_port, counters) = on_stage();
    // SAFETY: these are numbers. Where nobody asks for such a permission it fails, and is not needed.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    counters.ready();
    common::idle();
}

/// Traces the process that it is given, answers whether it could, and hears of its end when it is told to.
fn traces() {
    let port = common::parent();
    let process = libc::pid_t::from_le_bytes(next(&port).try_into().unwrap());
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the request takes two numbers, both of which are zero.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, process, none, none) };
    let refused = if seized == 0 {
        String::new()
    } else {
        io::Error::last_os_error().to_string()
    };
    port.post_bytes(refused.as_bytes()).unwrap();
    if refused.is_empty() {
        assert_eq!(next(&port), b"hear of its end");
        // SAFETY: the process is traced by this one. No status is asked for.
        let heard = unsafe { libc::waitpid(process, std::ptr::null_mut(), libc::__WALL) };
        assert_eq!(heard, process, "{}", io::Error::last_os_error());
    }
    // When the other end is closed, that is all.
    while port.recv().is_ok() {}
}

#[test]
fn a_process_that_is_traced_is_told_of_once_its_tracer_has_heard_of_it() {
    let _quiet = common::descriptors();
    let log = Log::new();
    let (_port, mut child, counters) = victim("may_be_traced", STRATEGIES[0], "");
    counters.until(Counters::READY, 1);
    // A process of its own: this one would be told as the parent.
    let (tracer, tracing) = common::worker("traces").into_parts();
    tracer.post_bytes(&child.id().to_le_bytes()).unwrap();
    let refused = String::from_utf8(next(&tracer)).unwrap();
    if !refused.is_empty() {
        println!("not tested: tracing is not permitted here ({refused})");
        kill(&mut child);
        drop(tracer);
        return common::end_well(tracing);
    }
    child.kill().unwrap();
    until_ended(child.id());
    let mut events = EventLoop::new().unwrap();
    let (name, _) = tell_end(&events, &log, child);
    events.set_timeout(Duration::from_millis(200), |events| events.stop());
    let before = time_by(libc::CLOCK_THREAD_CPUTIME_ID);
    events.run().unwrap();
    let computed = time_by(libc::CLOCK_THREAD_CPUTIME_ID) - before;
    assert!(log.is_empty(), "the tracer comes first");
    assert!(computed < Duration::from_millis(50), "{computed:?}");
    tracer.post_bytes(b"hear of its end").unwrap();
    run_until(&mut events, "it is told", || !log.is_empty());
    events.run().unwrap();
    assert_eq!(log.take(), [(name, ExitStatus::from_raw(libc::SIGKILL))]);
    drop(tracer);
    common::end_well(tracing);
}
