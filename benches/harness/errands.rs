//! Putting things into an event loop and taking them out again, with few or many others in it.

use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use ringport::{EventLoop, MessageChannel, MessagePort, PortId, TimerId};

use super::clock::Nobody;
use super::{Waiting, calls, lead, limits};

/// A loop and what is in it all the time: `count` started ports that are quiet, or as many timers that are far off.
struct Company {
    events: EventLoop<'static>,
    /// What keeps the ports quiet, and not closed.
    _others: Vec<MessagePort>,
}

/// No timer here is ever due.
const FAR_OFF: Duration = Duration::from_secs(3600);

impl Company {
    fn of_ports(count: usize) -> Company {
        limits::raise();
        let mut events = EventLoop::new().expect("a loop can be made");
        let mut others = Vec::new();
        for _ in 0..count {
            let MessageChannel { port1, port2 } =
                MessageChannel::new().expect("a channel can be made");
            let port = events.add(port1).expect("room for one more");
            port.on_message(|_, _| panic!("nothing was posted"));
            others.push(port2);
        }
        // Each has a turn, in which nothing is found; then their peers are told to ring.
        for _ in 0..2 {
            let moment = Some(Duration::from_millis(1));
            events.run_once(moment).expect("the loop can wait");
        }
        Company {
            events,
            _others: others,
        }
    }

    fn of_timers(count: usize) -> Company {
        let events = EventLoop::new().expect("a loop can be made");
        for _ in 0..count {
            set_timer(&events);
        }
        Company {
            events,
            _others: Vec::new(),
        }
    }
}

fn set_timer(events: &EventLoop<'static>) -> TimerId {
    events.set_timeout(FAR_OFF, |_| panic!("nobody waits that long"))
}

/// A port is put into a loop in which so many are (itself included), and taken out.
pub fn lead_adding(ports: usize) {
    let company = Company::of_ports(ports - 1);
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel can be made");
    let mut visitor = Some(port1);
    let mut count = 0u64;
    lead(&mut Nobody, Waiting::Spin, |units| {
        for _ in 0..units {
            let port = visitor.take().expect("it was taken out");
            let id: PortId = company.events.add(port).expect("room for one more").id();
            visitor = Some(company.events.remove(id).expect("it was added"));
        }
        assert_eq!(company.events.len(), ports - 1);
        // It is as good as before, which is not much to do once a slice.
        let port = visitor.as_ref().expect("it was taken out");
        port2
            .post_bytes(&count.to_le_bytes())
            .expect("there is room");
        let event = port.recv().expect("it was posted");
        assert_eq!(event.bytes(), count.to_le_bytes());
        count += 1;
        String::new()
    });
}

/// What the kernel takes for that: a socket is watched by an epoll that watches nothing else, and forgotten.
pub fn lead_watching() {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    let (socket, _other) = calls::socket_pair();
    let events = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    lead(&mut Nobody, Waiting::Spin, |units| {
        for _ in 0..units {
            let event = EpollEvent::new(events, 1);
            epoll.add(&socket, event).expect("it is not watched");
            epoll.delete(&socket).expect("it is watched");
        }
        String::new()
    });
}

/// A timer is set in a loop in which so many are (itself included), and cleared.
pub fn lead_timing(timers: usize) {
    let company = Company::of_timers(timers - 1);
    lead(&mut Nobody, Waiting::Spin, |units| {
        for _ in 0..units {
            let timer = set_timer(&company.events);
            assert!(company.events.clear_timer(timer), "it was set");
        }
        String::new()
    });
}
