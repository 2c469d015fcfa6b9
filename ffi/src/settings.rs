//! Settings and figures.

use crate::arguments::{Measured, check_size, given, invalid, null, output};
use crate::failure::{Answer, answer};
use crate::port::ringport_port;
use crate::status::*;
use ringport_rs::{Barrier, WaitStrategy, set_barrier};

/// ## Settings and figures
///
/// Has the port show messages in place from now on, in the ring, instead of copying them out.
///
/// By calling this the caller promises: nobody who holds or will hold the other end, or ever held either end, writes to this
/// channel but through this library, and each end is one port at a time. Else what a message shows can change while it is
/// read. A port that moves has to be trusted anew by its next holder.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_trust_peer(port: *mut ringport_port) -> ringport_status {
    answer(|| {
        given(port, "port")?.with(|port| {
            port.trust_peer();
            Ok(())
        })
    })
}

/// How a port, or a loop, waits.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ringport_wait_strategy {
    /// Spins a bounded while, learning from how long waits took, then sleeps. The default.
    RINGPORT_WAIT_ADAPTIVE = 0,
    /// Never sleeps: for those who own their CPU.
    RINGPORT_WAIT_SPIN = 1,
    /// Sleeps at once.
    RINGPORT_WAIT_BLOCK = 2,
}

pub(crate) fn strategy(number: i32) -> Answer<WaitStrategy> {
    match number {
        0 => Ok(WaitStrategy::Adaptive),
        1 => Ok(WaitStrategy::Spin),
        2 => Ok(WaitStrategy::Block),
        other => Err(invalid(format_args!(
            "{other} is no ringport_wait_strategy"
        ))),
    }
}

/// Chooses how the port waits. `strategy` is a ringport_wait_strategy; RINGPORT_INVALID if not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_set_wait_strategy(
    port: *mut ringport_port,
    strategy: i32,
) -> ringport_status {
    answer(|| {
        let (handle, strategy) = (given(port, "port")?, self::strategy(strategy)?);
        handle.with(|port| {
            port.set_wait_strategy(strategy);
            Ok(())
        })
    })
}

/// Says how the port waits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_wait_strategy(
    port: *const ringport_port,
    strategy: *mut ringport_wait_strategy,
) -> ringport_status {
    answer(|| {
        let (handle, output) = (given(port, "port")?, output(strategy, "strategy")?);
        output.write(match handle.with(|port| Ok(port.wait_strategy()))? {
            WaitStrategy::Spin => ringport_wait_strategy::RINGPORT_WAIT_SPIN,
            WaitStrategy::Block => ringport_wait_strategy::RINGPORT_WAIT_BLOCK,
            _ => ringport_wait_strategy::RINGPORT_WAIT_ADAPTIVE,
        });
        Ok(())
    })
}

/// What went through a port since this process has it. Begin with RINGPORT_STATS_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ringport_stats {
    /// The size of this struct, set before the call.
    pub size: usize,
    /// Messages posted.
    pub messages_posted: u64,
    /// Bytes of messages posted.
    pub bytes_posted: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes of messages received.
    pub bytes_received: u64,
    /// Times this side went to sleep in the kernel.
    pub sleeps: u64,
    /// Times this side woke the peer.
    pub wakeups: u64,
    /// Posts that had to wait for room.
    pub room_waits: u64,
    /// Ports that went away in messages posted.
    pub ports_posted: u64,
    /// Ports that came in messages received.
    pub ports_received: u64,
}

impl Measured for ringport_stats {
    const NAME: &'static str = "ringport_stats";
}

/// Writes what went through the port to `stats`. Answers RINGPORT_BAD_SIZE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_port_stats(
    port: *const ringport_port,
    stats: *mut ringport_stats,
) -> ringport_status {
    answer(|| {
        let handle = given(port, "port")?;
        if stats.is_null() {
            return Err(null("stats"));
        }
        let size = (&raw const (*stats).size).read();
        check_size::<ringport_stats>(size)?;
        let found = handle.with(|port| Ok(port.stats()))?;
        stats.write(ringport_stats {
            size,
            messages_posted: found.messages_posted,
            bytes_posted: found.bytes_posted,
            messages_received: found.messages_received,
            bytes_received: found.bytes_received,
            sleeps: found.sleeps,
            wakeups: found.wakeups,
            room_waits: found.room_waits,
            ports_posted: found.ports_posted,
            ports_received: found.ports_received,
        });
        Ok(())
    })
}

/// How the processes of this library order a post against a sleep.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ringport_barrier {
    /// The sleeper pays, by membarrier(2), where the kernel allows it; otherwise as RINGPORT_BARRIER_FENCE.
    RINGPORT_BARRIER_AUTO = 0,
    /// This process pays with a fence a post, and is never interrupted for others: for machines with isolated CPUs.
    RINGPORT_BARRIER_FENCE = 1,
}

/// Chooses the barrier for this process. To be called before its first port is made: it holds for ports made afterwards.
/// `barrier` is a ringport_barrier; RINGPORT_INVALID if not.
#[unsafe(no_mangle)]
pub extern "C" fn ringport_set_barrier(barrier: i32) -> ringport_status {
    answer(|| {
        set_barrier(match barrier {
            0 => Barrier::Membarrier,
            1 => Barrier::Fence,
            other => return Err(invalid(format_args!("{other} is no ringport_barrier"))),
        });
        Ok(())
    })
}
