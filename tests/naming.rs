//! Where listeners are found: what a name is, where names live, and who else can get there.

mod common;
#[path = "meeting/parties.rs"]
mod parties;
#[path = "meeting/place.rs"]
mod place;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use common::next;
use parties::{assert_entangled, meet};
use place::{Place, mode, set_mode, user};
use ringport::{BindError, ConnectError, Listener, ListenerOptions, Worker, connect};

roles! { asks_for_a_name, asks_for_strange_names, binds_whatever_the_umask }

/// A name that nobody else is likely to use in a directory that is not the tests' own.
const NAME: &str = "test-of-ringport";

#[test]
fn names_that_are_none() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let nul = |prefix: &str| PathBuf::from(OsString::from_vec(format!("{prefix}a\0b").into()));
    let in_place = |name: &str| PathBuf::from(format!("{}/{name}", place.path().display()));
    let names = ["", ".", "..", "mixer.lock", ".lock"].map(PathBuf::from);
    let paths = ["", ".", "..", "mixer.lock"].map(in_place);
    let with_nul = [
        nul(""),
        nul("./"),
        nul(&format!("{}/", place.path().display())),
    ];
    for name in names.into_iter().chain(paths).chain(with_nul) {
        match Listener::bind(&name) {
            Err(BindError::Name { name: named }) => assert_eq!(named, name),
            other => panic!("{name:?}: wanted Name, got {other:?}"),
        }
        match connect(&name) {
            Err(ConnectError::Name { name: named }) => assert_eq!(named, name),
            other => panic!("{name:?}: wanted Name, got {other:?}"),
        }
    }
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn a_path_has_at_most_107_bytes() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let of = |len: usize| place.join(&"x".repeat(len - place.path().as_os_str().len() - 1));
    for len in [106, 107] {
        let listener = Listener::bind(of(len)).unwrap();
        assert_eq!(listener.path().as_os_str().len(), len);
        let (accepted, connected) = meet(&listener);
        assert_entangled(&accepted, &connected);
        drop(listener);
        assert_eq!(place.names(), [""; 0]);
    }
    for wanted in [108, 109, 200] {
        let wanted_path = of(wanted);
        match Listener::bind(&wanted_path) {
            Err(BindError::PathTooLong { path, len, max }) => {
                assert_eq!((path, len, max), (wanted_path.clone(), wanted, 107));
            }
            other => panic!("wanted PathTooLong, got {other:?}"),
        }
        match connect(&wanted_path) {
            Err(ConnectError::PathTooLong { path, len, max }) => {
                assert_eq!((path, len, max), (wanted_path, wanted, 107));
            }
            other => panic!("wanted PathTooLong, got {other:?}"),
        }
    }
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn a_path_leads_to_a_directory_that_must_exist() {
    let _quiet = common::descriptors();
    let place = Place::new();
    match Listener::bind(place.join("no/here")) {
        Err(BindError::System { path, source, .. }) => {
            assert!(path.starts_with(place.path()));
            assert_eq!(source.raw_os_error(), Some(libc::ENOENT));
        }
        other => panic!("wanted System, got {other:?}"),
    }
    assert_eq!(place.names(), [""; 0]);
}

/// What a process is told that binds a name, and connects to it when it is free again: with this as its
/// runtime directory.
fn told(runtime: Option<&Path>) -> [String; 2] {
    let mut command = common::command("asks_for_a_name");
    match runtime {
        Some(directory) => command.env("XDG_RUNTIME_DIR", directory),
        None => command.env_remove("XDG_RUNTIME_DIR"),
    };
    command.current_dir("/");
    let (port, child) = Worker::spawn(command).unwrap().into_parts();
    let told = [next(&port), next(&port)].map(|text| String::from_utf8(text).unwrap());
    common::end_well(child);
    told
}

fn asks_for_a_name() {
    let parent = common::parent();
    let name = NAME;
    let bound = match Listener::bind(name) {
        Ok(listener) => {
            let (accepted, connected) = meet(&listener);
            assert_entangled(&accepted, &connected);
            format!("bound {}", listener.path().display())
        }
        Err(BindError::Directory { path, fault }) => {
            assert!(!fault.is_empty());
            format!("directory {}", path.display())
        }
        Err(other) => format!("{other:?}"),
    };
    parent.post_bytes(bound.as_bytes()).unwrap();
    let connected = match connect(name) {
        Err(ConnectError::NobodyListens { path, .. }) => format!("nobody {}", path.display()),
        Err(ConnectError::Directory { path, fault }) => {
            assert!(!fault.is_empty());
            format!("directory {}", path.display())
        }
        other => format!("{other:?}"),
    };
    parent.post_bytes(connected.as_bytes()).unwrap();
}

/// The process was told that its listeners live in `directory`.
#[track_caller]
fn assert_at(told: &[String; 2], directory: &Path) {
    let path = directory.join(NAME);
    assert_eq!(told[0], format!("bound {}", path.display()));
    assert_eq!(told[1], format!("nobody {}", path.display()));
}

#[test]
fn s62_names_live_in_a_directory_of_the_user_alone() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let directory = place.join("ringport");
    assert_at(&told(Some(place.path())), &directory);
    assert_eq!(mode(&directory), 0o700, "it was made");
    assert_at(&told(Some(place.path())), &directory);

    let refused = |what: &str| {
        let named = format!("directory {}", directory.display());
        assert_eq!(told(Some(place.path())), [named.clone(), named], "{what}");
    };
    for open in [0o755, 0o770, 0o710, 0o701, 0o704, 0o702, 0o777, 0o1777] {
        set_mode(&directory, open);
        refused(&format!("mode {open:o}"));
        assert_eq!(mode(&directory), open, "it was left as it is");
        assert_eq!(place::names_in(&directory), [""; 0]);
    }
    set_mode(&directory, 0o700);
    assert_at(&told(Some(place.path())), &directory);

    fs::rename(&directory, place.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.join("elsewhere"), &directory).unwrap();
    refused("a link to a directory that would do");
    fs::remove_file(&directory).unwrap();
    fs::write(&directory, "").unwrap();
    refused("a file");
    fs::remove_file(&directory).unwrap();

    if user() == 0 {
        // Only root can give a directory away.
        fs::create_dir(&directory).unwrap();
        set_mode(&directory, 0o700);
        std::os::unix::fs::chown(&directory, Some(1), None).unwrap();
        refused("another user's");
    }
}

#[test]
fn without_a_runtime_directory_names_live_in_tmp() {
    let _quiet = common::descriptors();
    let fallback = PathBuf::from(format!("/tmp/ringport-{}", user()));
    for runtime in [
        None,
        Some(""),
        Some("run"),
        Some("./tmp"),
        Some("tmp/../tmp"),
    ] {
        assert_at(&told(runtime.map(Path::new)), &fallback);
        assert_eq!(mode(&fallback), 0o700);
    }
    // One that is set and not there is a mistake, not a reason to go elsewhere.
    let place = Place::new();
    let [bound, connected] = told(Some(&place.join("gone")));
    assert!(bound.starts_with("System"), "{bound}");
    assert!(connected.starts_with("nobody"), "{connected}");
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn strange_names_stay_in_the_directory() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let mut command = common::command("asks_for_strange_names");
    command.env("XDG_RUNTIME_DIR", place.path());
    assert!(command.status().unwrap().success());
    assert_eq!(place.names(), ["ringport"]);
    assert_eq!(place::names_in(&place.join("ringport")), [""; 0]);
}

fn asks_for_strange_names() {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap());
    let bytes: &[&[u8]] = &[b"\xff\xfe", b"...", b"a\nb", b"-", b"*", b"a.lock.b", b"~"];
    for name in bytes {
        let name = PathBuf::from(OsString::from_vec(name.to_vec()));
        let listener = Listener::bind(&name).unwrap();
        assert_eq!(listener.path(), runtime.join("ringport").join(&name));
        let lies_there = fs::read_dir(runtime.join("ringport")).unwrap();
        assert_eq!(lies_there.count(), 2, "the socket and its lock");
        let (accepted, connected) = meet(&listener);
        assert_entangled(&accepted, &connected);
    }
    let directory = runtime.join("ringport").as_os_str().len();
    for (len, fits) in [(107 - directory - 1, true), (107 - directory, false)] {
        let bound = Listener::bind("y".repeat(len));
        match bound {
            Ok(_) => assert!(fits),
            Err(BindError::PathTooLong { len: told, .. }) => {
                assert_eq!((told, fits), (directory + 1 + len, false));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn s62_the_socket_is_for_its_user_alone_whatever_the_umask() {
    let _quiet = common::descriptors();
    let place = Place::new();
    let mut command = common::command("binds_whatever_the_umask");
    command.env("XDG_RUNTIME_DIR", place.path());
    assert!(command.status().unwrap().success());
}

fn binds_whatever_the_umask() {
    let place = Place::new();
    let names = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR").unwrap()).join("ringport");
    for umask in [0, 0o022, 0o077] {
        // SAFETY: `umask` takes a number and has no precondition; this process has no other use of it.
        unsafe { libc::umask(umask) };
        let listener = Listener::bind(place.join("here")).unwrap();
        assert_eq!(mode(listener.path()), 0o600, "umask {umask:o}");
        assert_eq!(mode(&place.join("here.lock")) & 0o077, 0, "umask {umask:o}");
        let options = ListenerOptions::new().allow_any_user();
        let open = Listener::bind_with(place.join("open"), &options).unwrap();
        assert_eq!(
            mode(open.path()) & 0o222,
            0o222,
            "others connect by writing"
        );
        assert_eq!(mode(&place.join("open.lock")) & 0o077, 0, "umask {umask:o}");
        drop(Listener::bind("mixer").unwrap());
        assert_eq!(mode(&names), 0o700, "umask {umask:o}");
        fs::remove_dir(&names).unwrap();
    }
}
