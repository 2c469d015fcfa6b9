//! What does it cost to make a channel and to drop it? Bar: `create` against the system calls that this takes.

mod harness;

use harness::clock::Nobody;
use harness::{Contest, Options, Pair, Role, Row, Waiting, calls, line};
use ringport::MessageChannel;

fn main() {
    match harness::role("create") {
        None => {}
        Some(Role::Coordinator(options)) => {
            harness::run(&[("create", creating)], &options);
        }
        Some(Role::Lead(name)) => match &*name {
            "line" => line::run_lead(&name, None),
            "bare" => lead_channels(|| calls::make_and_drop_channel(false)),
            "bare-touched" => lead_channels(|| calls::make_and_drop_channel(true)),
            "create" => {
                lead_channels(|| drop(MessageChannel::new().expect("a channel can be made")))
            }
            _ => panic!("no contender is called {name}"),
        },
        Some(Role::Peer(_)) => line::run_peer(),
    }
}

fn creating(options: &Options) -> Vec<String> {
    let pairs = ["line", "bare", "bare-touched", "create"].map(Pair::start);
    Contest::new("create", pairs.into())
        .run(
            &["line", "bare", "create", "bare-touched", "create"],
            &[
                // Page faults are no system calls, but nobody who uses the memory gets round them.
                Row::time("bare-touched", "bare"),
                Row::time("create", "bare").bar(1.5),
                Row::time("create", "bare-touched"),
            ],
            options,
        )
        .report(options)
}

/// One process, and none beside it. A channel that was made works, which is not timed.
fn lead_channels(make_and_drop: impl Fn()) {
    let MessageChannel { port1, port2 } = MessageChannel::new().expect("a channel can be made");
    let mut count = 0u64;
    harness::lead(&mut Nobody, Waiting::Spin, |units| {
        port1
            .post_bytes(&count.to_le_bytes())
            .expect("there is room");
        let event = port2.recv().expect("it was posted");
        assert_eq!(event.bytes(), count.to_le_bytes());
        count += 1;
        for _ in 0..units {
            make_and_drop();
        }
        String::new()
    });
}
