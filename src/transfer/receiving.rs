//! Taking ports in with a message.

use super::{DESCRIPTORS_A_PORT, MOST_PORTS, PORT};
use crate::PortHandle;
use crate::error::{CloseReason, ImportFault, NewError, RecvError, SystemError};
use crate::port::MessagePort;
use crate::ring::Record;
use crate::stats::add;
use nix::errno::Errno;
use std::os::fd::OwnedFd;

/// Why ports did not come out of a message.
enum Fault {
    /// It is not what an honest peer sends.
    Corrupt,
    /// This process lacks something.
    Shortage(SystemError),
}

impl From<ImportFault> for Fault {
    fn from(fault: ImportFault) -> Fault {
        fault
            .into_shortage()
            .map_or(Fault::Corrupt, Fault::Shortage)
    }
}

/// Makes a port of what came.
///
/// What its segment says is not the sender's word but that of whoever holds the port's peer, and may have
/// been written while it was under way. If that cannot be, it is the port that has ended, not its carrier.
fn import(handle: PortHandle) -> Result<MessagePort, Fault> {
    let error = match MessagePort::from_received(handle) {
        Ok(port) => return Ok(port),
        Err(error) => error,
    };
    if !error.fault().is_of_content() {
        return Err(error.into_fault().into());
    }
    let PortHandle { doorbell, .. } = error.into_handle();
    MessagePort::broken(doorbell).map_err(|error| match error {
        NewError::System { call, source } => Fault::Shortage(SystemError { call, source }),
        NewError::Memory { source, .. } | NewError::Lock { source, .. } => {
            Fault::Shortage(SystemError::new("mmap", source))
        }
        NewError::Capacity { .. } => Fault::Corrupt,
    })
}

/// Taking in.
impl MessagePort {
    /// Takes in the ports that travel with `record`, which is not taken yet.
    #[cold]
    pub(crate) fn adopt(&self, record: &Record) -> Result<Vec<MessagePort>, RecvError> {
        let sequence = self.transfers.taken.get();
        match self.map_ports(record, sequence) {
            Ok(ports) if self.doorbell.take_descriptors(sequence) => {
                self.transfers.count_taken();
                let broken = ports.iter().filter(|port| port.ended_here());
                broken.for_each(|port| port.doorbell.hang_up());
                add(&self.counts.ports_received, ports.len() as u64);
                Ok(ports)
            }
            Ok(ports) => {
                ports.into_iter().for_each(MessagePort::leave);
                Err(self.adopted_nothing(Fault::Corrupt))
            }
            Err(fault) => Err(self.adopted_nothing(fault)),
        }
    }

    fn adopted_nothing(&self, fault: Fault) -> RecvError {
        match fault {
            Fault::Corrupt => {
                self.end_corrupt();
                RecvError::Closed(CloseReason::Corrupt)
            }
            Fault::Shortage(error) => error.into(),
        }
    }

    /// Checks and maps the ports of a record; the descriptors stay in the queue.
    fn map_ports(&self, record: &Record, sequence: u32) -> Result<Vec<MessagePort>, Fault> {
        let count = self.read_items(record).ok_or(Fault::Corrupt)?;
        let mut ports = Vec::new();
        ports
            .try_reserve_exact(count)
            .map_err(|_| Fault::Shortage(SystemError::new("malloc", Errno::ENOMEM)))?;
        let mut descriptors = self
            .peek_exactly(count * DESCRIPTORS_A_PORT, sequence)?
            .into_iter();
        while let (Some(segment), Some(doorbell)) = (descriptors.next(), descriptors.next()) {
            match import(PortHandle { segment, doorbell }) {
                Ok(port) => ports.push(port),
                Err(fault) => {
                    ports.into_iter().for_each(MessagePort::leave);
                    return Err(fault);
                }
            }
        }
        Ok(ports)
    }

    /// How many ports the record lists; `None` if it lists something else, or too many.
    fn read_items(&self, record: &Record) -> Option<usize> {
        let count = usize::from(record.items);
        let mut items = [0; MOST_PORTS];
        let items = items.get_mut(..count)?;
        let at = record.items_offset(self.consumer.ring())?;
        // PEER: any value is possible; this copy is checked on the next line.
        self.consumer.memory().read_to(at, items);
        items.iter().all(|item| *item == PORT).then_some(count)
    }

    /// Copies of the next descriptors in the queue, which must be so many.
    fn peek_exactly(&self, count: usize, sequence: u32) -> Result<Vec<OwnedFd>, Fault> {
        for last in [false, true] {
            let peeked = match self.doorbell.peek_descriptors(sequence) {
                Ok(Some(peeked)) => peeked,
                Ok(None) => return Err(Fault::Corrupt),
                Err(errno) => return Err(Fault::Shortage(SystemError::new("recvmsg", errno))),
            };
            if peeked.descriptors.len() == count {
                return Ok(peeked.descriptors);
            }
            if peeked.descriptors.len() > count || !peeked.truncated {
                return Err(Fault::Corrupt);
            }
            if !last {
                // A former holder may have asked for more than there is room for beside them.
                self.doorbell.ask_for_nothing();
            }
        }
        let error = SystemError::new("recvmsg(SCM_RIGHTS)", Errno::EMFILE);
        Err(Fault::Shortage(error))
    }
}
