//! Processes of one's own, with a port between.

use crate::arguments::{Measured, given, output, slice, string};
use crate::event_loop::Home;
use crate::failure::{Answer, Failure, answer, answer_or};
use crate::handle::descriptor;
use crate::port::ringport_port;
use crate::status::*;
use ringport_rs::{ChildId, Worker, parent_port};
use std::ffi::{CStr, OsStr, c_char, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;

/// A process started by ringport_spawn.
pub struct ringport_child {
    id: i32,
    /// Whose child it is.
    parent: u32,
    pub(crate) home: Home<Child, ChildId>,
}

impl ringport_child {
    /// Calls with the process, if it is this one's child.
    fn with<R>(&self, call: impl FnOnce(&mut Child) -> io::Result<R>) -> Answer<R> {
        self.check_home()?;
        self.home.with(|child| failed(call(child)))
    }

    pub(crate) fn check_home(&self) -> Answer<()> {
        if std::process::id() == self.parent {
            return Ok(());
        }
        Err(Failure::new(
            RINGPORT_FORKED,
            "this process is a forked child of the one that has started the process",
        ))
    }
}

/// How to start a process. Begin with RINGPORT_SPAWN_OPTIONS_INIT.
#[repr(C)]
pub struct ringport_spawn_options {
    /// The size of this struct.
    pub size: usize,
    /// Its environment: strings `NAME=value`, and NULL after the last. NULL: this process's.
    pub environment: *const *const c_char,
    /// Its directory. NULL: this process's.
    pub directory: *const c_char,
    /// Descriptors of its standard input, output and error, each -1 for this process's. They stay the caller's. NULL: all three
    /// are this process's.
    pub standard_streams: *const c_int,
}

impl Measured for ringport_spawn_options {
    const NAME: &'static str = "ringport_spawn_options";
}

/// ## Processes of one's own
///
/// Starts a program with a port to this process, which it gets from ringport_parent_port. `argv` are its name, which is looked
/// up in PATH unless it has a `/`, and its arguments, and NULL after the last. `options` may be NULL. The caller frees the port
/// and the child.
///
/// The program inherits the port's two descriptors and learns of them from the variable RINGPORT_PARENT of its environment.
///
/// Answers RINGPORT_SPAWN when it cannot be started; RINGPORT_INVALID for an empty `argv`, a string of the environment without
/// `=`, or a stream that is not open; RINGPORT_BAD_SIZE; and what ringport_channel_new answers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_spawn(
    argv: *const *const c_char,
    options: *const ringport_spawn_options,
    port: *mut *mut ringport_port,
    child: *mut *mut ringport_child,
) -> ringport_status {
    answer(|| {
        let (port_out, child_out) = (output(port, "port")?, output(child, "child")?);
        let mut words = strings(argv, "argv")?.into_iter();
        let Some(program) = words.next() else {
            return Err(Failure::new(
                RINGPORT_INVALID,
                "`argv` is empty: it begins with the program",
            ));
        };
        let mut command = Command::new(program);
        command.args(words);
        if let Some(options) = crate::arguments::options(options)? {
            apply(options, &mut command)?;
        }
        let (port, child) = Worker::spawn(command)?.into_parts();
        let id = child.id() as i32;
        port_out.write(ringport_port::new(port));
        child_out.write(
            Rc::into_raw(Rc::new(ringport_child {
                id,
                parent: std::process::id(),
                home: Home::new(child),
            }))
            .cast_mut(),
        );
        Ok(())
    })
}

unsafe fn apply(given: &ringport_spawn_options, command: &mut Command) -> Answer<()> {
    if !given.environment.is_null() {
        command.env_clear();
        for word in strings(given.environment, "environment")? {
            let word = word.as_bytes();
            let Some(at) = word.iter().position(|byte| *byte == b'=') else {
                let text = OsStr::from_bytes(word).to_string_lossy().into_owned();
                return Err(Failure::new(
                    RINGPORT_INVALID,
                    format!("{text:?} in `environment` has no `=`"),
                ));
            };
            command.env(
                OsStr::from_bytes(&word[..at]),
                OsStr::from_bytes(&word[at + 1..]),
            );
        }
    }
    if !given.directory.is_null() {
        command.current_dir(OsStr::from_bytes(
            string(given.directory, "directory")?.to_bytes(),
        ));
    }
    if !given.standard_streams.is_null() {
        let streams = slice(given.standard_streams, 3, "standard_streams")?;
        let setters = [
            Command::stdin::<Stdio>,
            Command::stdout::<Stdio>,
            Command::stderr::<Stdio>,
        ];
        let names = [
            "standard_streams[0]",
            "standard_streams[1]",
            "standard_streams[2]",
        ];
        for ((stream, set), name) in streams.iter().zip(setters).zip(names) {
            if *stream != -1 {
                let copy = descriptor(*stream, name)?.try_clone_to_owned();
                set(
                    command,
                    Stdio::from(copy.map_err(|error| Failure::system(&error, error.to_string()))?),
                );
            }
        }
    }
    Ok(())
}

/// Strings up to NULL.
unsafe fn strings<'a>(first: *const *const c_char, name: &'static str) -> Answer<Vec<&'a OsStr>> {
    given(first, name)?;
    let mut next = first;
    let mut strings = Vec::new();
    while !next.read().is_null() {
        strings.push(OsStr::from_bytes(CStr::from_ptr(next.read()).to_bytes()));
        next = next.add(1);
    }
    Ok(strings)
}

/// The port to the process that started this one by ringport_spawn (in Rust: `Worker::spawn`). The caller frees it. Call it
/// early, before other threads are started: then it also removes the variable RINGPORT_PARENT.
///
/// Answers RINGPORT_NO_PARENT in any other process, and from the second call on; RINGPORT_NOT_A_PORT or RINGPORT_SYSTEM if what
/// was inherited cannot be used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_parent_port(port: *mut *mut ringport_port) -> ringport_status {
    answer(|| {
        let output = output(port, "port")?;
        let Some(port) = parent_port().map_err(|error| Failure::from(&error))? else {
            return Err(Failure::new(
                RINGPORT_NO_PARENT,
                "this process was not started with a port, or has asked for it before",
            ));
        };
        output.write(ringport_port::new(port));
        Ok(())
    })
}

/// The process's id; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_child_id(child: *const ringport_child) -> i32 {
    answer_or(0, || Ok(given(child, "child")?.id))
}

/// Waits until the process has ended. `*wait_status` is what waitpid(2) gives, for WIFEXITED and its like. It can be asked
/// again and again.
///
/// Answers RINGPORT_BUSY while the child is in a loop, which waits for it; RINGPORT_DETACHED when its end was told by a loop;
/// RINGPORT_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_child_wait(
    child: *mut ringport_child,
    wait_status: *mut c_int,
) -> ringport_status {
    answer(|| {
        let (child, output) = (given(child, "child")?, output(wait_status, "wait_status")?);
        output.write(child.with(Child::wait)?.into_raw());
        Ok(())
    })
}

/// The same without waiting. Answers RINGPORT_NOT_YET while the process runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_child_try_wait(
    child: *mut ringport_child,
    wait_status: *mut c_int,
) -> ringport_status {
    answer(|| {
        let (child, output) = (given(child, "child")?, output(wait_status, "wait_status")?);
        let status = child.with(Child::try_wait)?;
        output.write(status.ok_or(Failure::NotYet)?.into_raw());
        Ok(())
    })
}

/// Kills the process, by SIGKILL. RINGPORT_OK also if it has ended already. Answers RINGPORT_BUSY while the child is in a loop;
/// RINGPORT_DETACHED after a loop has told its end; RINGPORT_SYSTEM.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_child_kill(child: *mut ringport_child) -> ringport_status {
    answer(|| given(child, "child")?.with(Child::kill))
}

/// Frees the handle of a process, in a loop or not. It neither kills the process nor waits for it. NULL is nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ringport_child_free(child: *mut ringport_child) {
    answer(|| {
        if !child.is_null() {
            let child = Rc::from_raw(child.cast_const());
            let handle = Rc::as_ptr(&child);
            child.home.leave(|events, id| events.take_child(handle, id));
        }
        Ok(())
    });
}

fn failed<T>(result: io::Result<T>) -> Answer<T> {
    result.map_err(|error| Failure::system(&error, error.to_string()))
}

/// The status of a process as C has it.
pub(crate) fn raw(status: ExitStatus) -> c_int {
    status.into_raw()
}
