//! ipc-channel: its channels of bytes, which need no serializer. The two ends meet through a one-shot server.
//!
//! Its `IpcSharedMemory`, one for each message, was slower at every length from 56 bytes to 1 MiB.

use std::env;
use std::hint::spin_loop;
use std::process::Command;

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel,
};

use crate::harness::work::End;
use crate::harness::{Peer, Waiting, payload, peer_command};

use super::{Carrier, while_it_comes_up};

/// Where the lead's one-shot server is.
const SERVER: &str = "RINGPORT_BENCH_SERVER";

/// Bytes in, bytes out.
pub struct IpcChannel;

/// What a peer makes for the lead: where it sends, where it receives.
type LeadsEnd = (IpcBytesSender, IpcBytesReceiver);

/// One end.
struct Channels {
    to: IpcBytesSender,
    from: IpcBytesReceiver,
    waiting: Waiting,
    draft: Box<[u8]>,
}

impl Channels {
    fn new((to, from): LeadsEnd, length: usize, waiting: Waiting) -> Self {
        Channels {
            to,
            from,
            waiting,
            draft: vec![0; length].into(),
        }
    }
}

impl<const LENGTH: usize> End<LENGTH> for Channels {
    /// There is no attempt that does not wait for room.
    fn send(&mut self, sequence: u64) {
        payload::fill(&mut self.draft, sequence);
        self.to.send(&self.draft).expect("the other side is alive");
    }

    fn take<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> R {
        let message = match self.waiting {
            Waiting::Sleep => self.from.recv().expect("the other side is alive"),
            Waiting::Spin => loop {
                match self.from.try_recv() {
                    Ok(message) => break message,
                    Err(TryRecvError::Empty) => spin_loop(),
                    Err(TryRecvError::IpcError(error)) => panic!("try_recv: {error}"),
                }
            },
        };
        look(&message)
    }
}

impl Carrier for IpcChannel {
    const NAME: &'static str = "ipc-channel";

    /// A message beyond the socket's buffer goes in fragments.
    fn longest(_: usize) -> usize {
        usize::MAX
    }

    fn lead<const LENGTH: usize>(
        name: &str,
        _: usize,
        waiting: Waiting,
        prepare: impl FnOnce(&mut Command),
    ) -> (impl End<LENGTH>, Peer) {
        let (server, address) = IpcOneShotServer::<LeadsEnd>::new().expect("a place to meet");
        let mut command = peer_command(name);
        prepare(command.env(SERVER, address));
        let peer = Peer::new(command.spawn().expect("a peer can be started"));
        let (_, end) = while_it_comes_up(|| server.accept()).expect("the peer brings an end");
        (Channels::new(end, LENGTH, waiting), peer)
    }

    fn peer<const LENGTH: usize>(_: usize, waiting: Waiting) -> impl End<LENGTH> {
        let (questions, from) = bytes_channel().expect("a channel");
        let (to, answers) = bytes_channel().expect("a channel");
        let address = env::var(SERVER).expect("the lead says where");
        let server = IpcSender::connect(address).expect("the lead is there");
        let leads_end: LeadsEnd = (questions, answers);
        server.send(leads_end).expect("the lead waits for it");
        Channels::new((to, from), LENGTH, waiting)
    }
}
