//! The calls that a model can follow, and how they are drawn.

use std::time::Duration;

use proptest::prelude::*;

/// Long enough to sleep, short enough to do it often.
const NAP: Duration = Duration::from_micros(50);

/// One call, or the loop of calls that programs make.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    PollRecv,
    PollPost(usize),
    PollPostTyped(usize),
    /// Until it is pending.
    PollRecvAll,
    /// Until it is pending.
    PollPostAll(usize),
    Recv,
    RecvFor(Duration),
    Post(usize),
    PostFor(usize, Duration),
    /// Until there is no room.
    Fill(usize),
    /// So many, if they are there.
    Take(usize),
    PostPort(usize),
    ArmMessage,
    ArmRoom(usize),
    ArmEither(usize),
    /// For this end, or for both.
    WaitAny(bool, Duration),
    IsClosed,
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(0),
        1..200usize,
        Just(100),
        Just(500),
        Just(1000),
        Just(2000)
    ]
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), Just(NAP)]
}

pub fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        8 => Just(Call::PollRecv),
        6 => len().prop_map(Call::PollPost),
        2 => len().prop_map(Call::PollPostTyped),
        2 => Just(Call::PollRecvAll),
        5 => len().prop_map(Call::PollPostAll),
        2 => Just(Call::Recv),
        1 => time().prop_map(Call::RecvFor),
        2 => len().prop_map(Call::Post),
        1 => (len(), time()).prop_map(|(len, time)| Call::PostFor(len, time)),
        4 => len().prop_map(Call::Fill),
        6 => (1..60usize).prop_map(Call::Take),
        6 => len().prop_map(Call::PostPort),
        2 => Just(Call::ArmMessage),
        1 => len().prop_map(Call::ArmRoom),
        1 => len().prop_map(Call::ArmEither),
        2 => (any::<bool>(), time()).prop_map(|(both, time)| Call::WaitAny(both, time)),
        1 => Just(Call::IsClosed),
    ]
}
