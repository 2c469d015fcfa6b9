//! Making a channel.

use crate::arguments::{Measured, options, output};
use crate::failure::{Answer, answer};
use crate::port::ringport_port;
use crate::status::*;
use ringport_rs::{ChannelOptions, MessageChannel};

/// What a new channel should be like. Begin with RINGPORT_CHANNEL_OPTIONS_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ringport_channel_options {
    /// The size of this struct.
    pub size: usize,
    /// Bytes of the ring in which the first port posts: a power of two from 4 KiB to 1 GiB; 0 is 64 KiB. A message can
    /// be as long as half of it less 24 bytes.
    pub capacity_1_to_2: usize,
    /// The same for the second port.
    pub capacity_2_to_1: usize,
    /// Whether to commit all of the memory at once, so that none can be missing later.
    pub prefault: bool,
    /// Whether to lock the memory, so that it is never swapped out. It holds for this process.
    pub lock_memory: bool,
}

impl Measured for ringport_channel_options {
    const NAME: &'static str = "ringport_channel_options";
}

pub(crate) unsafe fn channel_options(
    given: *const ringport_channel_options,
) -> Answer<ChannelOptions> {
    let mut made = ChannelOptions::new();
    let Some(given) = options(given)? else {
        return Ok(made);
    };
    if given.capacity_1_to_2 != 0 {
        made = made.capacity_1_to_2(given.capacity_1_to_2);
    }
    if given.capacity_2_to_1 != 0 {
        made = made.capacity_2_to_1(given.capacity_2_to_1);
    }
    Ok(made.prefault(given.prefault).lock_memory(given.lock_memory))
}

/// ## Channels and ports
///
/// Makes a channel: two entangled ports. What is posted on one arrives on the other. It takes four descriptors and some
/// 5 KiB. The caller frees both.
///
/// `options` may be NULL: 64 KiB each way. Answers RINGPORT_BAD_SIZE, RINGPORT_CAPACITY, RINGPORT_NO_MEMORY,
/// RINGPORT_MEMORY_LOCK, or RINGPORT_SYSTEM when the process is out of descriptors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_channel_new(
    options: *const ringport_channel_options,
    port1: *mut *mut ringport_port,
    port2: *mut *mut ringport_port,
) -> ringport_status {
    answer(|| {
        let (first, second) = (output(port1, "port1")?, output(port2, "port2")?);
        let channel = MessageChannel::with_options(&channel_options(options)?)?;
        first.write(ringport_port::new(channel.port1));
        second.write(ringport_port::new(channel.port2));
        Ok(())
    })
}
