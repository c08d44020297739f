//! What a process was left when it began.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};
use tracing::{info, warn};

use super::state::{Named, decode, is_ours};
use super::{Legacy, Listener};
use crate::address::Address;
use crate::config::Environment;
use crate::report::SentSeries;

/// Names the memory file to the program that takes our place: our process id, and the
/// descriptor.
pub(super) const VARIABLE: &str = "CONNTALLY_HANDOVER";
/// The memory file in systemd's descriptor store.
pub(super) const STATE_NAME: &str = "conntally-state";

/// Descriptors that were open when the process began.
#[derive(Debug, Default)]
pub struct Inherited {
    legacy: Legacy,
    /// Bound sockets that systemd made.
    sockets: Vec<OwnedFd>,
}

impl Inherited {
    /// Takes what systemd, or the program before us in this process, has left open. To be
    /// called once, before anything else is opened.
    #[must_use]
    pub fn take(environment: &Environment) -> Self {
        if let Some(left) = environment.get(VARIABLE) {
            return Self::in_place(left);
        }
        let passed = match sd_notify::listen_fds_with_names() {
            Ok(passed) => passed,
            Err(error) => {
                warn!(%error, "what systemd passed is left alone");
                return Self::default();
            }
        };
        let mut named = Named::default();
        let mut sockets = Vec::new();
        for (number, name) in passed {
            let Some(descriptor) = own(number) else {
                continue;
            };
            // Those of a unit may all have one name.
            match name.as_str() {
                STATE_NAME => drop(named.insert(name, descriptor)),
                name if is_ours(name) => drop(named.insert(name.to_owned(), descriptor)),
                _ => sockets.push(descriptor),
            }
        }
        let legacy = match named.remove(STATE_NAME) {
            Some(state) => read(state, &mut named),
            None => Legacy::default(),
        };
        Self { legacy, sockets }
    }

    /// `PID:DESCRIPTOR`.
    fn in_place(left: &str) -> Self {
        let Some((pid, number)) = left.split_once(':') else {
            return Self::default();
        };
        // Of another process, which started us as it would any.
        if pid.parse() != Ok(std::process::id()) {
            return Self::default();
        }
        let state = number.parse().ok().and_then(own);
        let Some(state) = state else {
            warn!(left, "what the program before left is not there");
            return Self::default();
        };
        let mut named = Named::default();
        let mut file = File::from(state);
        let mut numbers = String::new();
        // The numbers come first, a line each, and an empty line.
        let bytes = match read_all(&mut file) {
            Ok(bytes) => bytes,
            Err(error) => {
                warn!(%error, "cannot read what the program before left");
                return Self::default();
            }
        };
        let mut rest = &*bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            if line.is_empty() {
                break;
            }
            numbers.clear();
            numbers.push_str(&String::from_utf8_lossy(line));
            if let Some((name, number)) = numbers.split_once('=')
                && let Some(descriptor) = number.parse().ok().and_then(own)
            {
                named.insert(name.to_owned(), descriptor);
            }
        }
        Self {
            legacy: told(rest, &mut named),
            sockets: Vec::new(),
        }
    }

    /// From what this very process left, where no other took its place.
    #[must_use]
    pub fn of(legacy: Legacy) -> Self {
        Self {
            legacy,
            sockets: Vec::new(),
        }
    }

    /// What is left of the listener of this address, if anything is.
    pub fn take_listener(&mut self, address: &Address) -> Option<Listener> {
        if let Some(left) = self.legacy.take_listener(&address.to_string()) {
            return Some(left);
        }
        let is_it = |socket: &OwnedFd| is_bound_to(socket.as_fd(), address);
        let place = self.sockets.iter().position(is_it)?;
        Some(Listener {
            address: address.to_string(),
            socket: self.sockets.swap_remove(place),
            // It is systemd's, which keeps it.
            file: None,
            older: Vec::new(),
            connections: Vec::new(),
        })
    }

    /// What is left of the output of this address, if anything is.
    pub fn take_output(&mut self, address: &str) -> Option<super::Output> {
        self.legacy.take_output(address)
    }

    /// The kernel's events that wait, if any do.
    pub fn take_events(&mut self) -> Option<super::Events> {
        self.legacy.events.take()
    }

    /// The series that were sent.
    pub fn take_series(&mut self) -> SentSeries {
        std::mem::take(&mut self.legacy.series)
    }

    /// What nobody took.
    #[must_use]
    pub fn into_legacy(self) -> Legacy {
        self.legacy
    }

    /// Lets go of what nobody took: the configuration names it no more.
    pub fn finish(self) {
        for Listener {
            address,
            connections,
            ..
        } in &self.legacy.listeners
        {
            let connections = connections.len();
            warn!(%address, connections, "a listener was left that is not configured: closed");
        }
        for output in &self.legacy.outputs {
            let (address, lines) = (&output.address, output.contents.lines());
            if lines > 0 {
                warn!(%address, lines, "lines were left for an output that is not configured: lost");
            }
        }
        if !self.sockets.is_empty() {
            let sockets = self.sockets.len();
            warn!(
                sockets,
                "systemd passed sockets that no listener's address matches: closed"
            );
        }
        self.legacy.close();
    }
}

fn read(state: OwnedFd, named: &mut Named) -> Legacy {
    match read_all(&mut File::from(state)) {
        Ok(bytes) => told(&bytes, named),
        Err(error) => {
            warn!(%error, "cannot read what the process before left");
            Legacy::default()
        }
    }
}

fn read_all(file: &mut File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn told(bytes: &[u8], named: &mut Named) -> Legacy {
    match decode(bytes, named) {
        Ok(legacy) => {
            let (descriptors, lines) = (legacy.descriptors(), legacy.lines());
            info!(
                descriptors,
                lines, "goes on with what the process before left"
            );
            legacy
        }
        Err(error) => {
            warn!(%error, "what the process before left is of no use");
            Legacy::default()
        }
    }
}

/// Takes a descriptor that was open when the process began.
#[expect(unsafe_code, reason = "a descriptor passed by number has no owner yet")]
fn own(number: RawFd) -> Option<OwnedFd> {
    // Standard input, output and error belong to the standard library.
    if number < 3 {
        return None;
    }
    // SAFETY: it is borrowed for this call alone, which fails where it is not open.
    let passed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(passed, FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, and was so before this process opened anything: whoever passed its
    // number passed it to us, and each number is taken once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether this is a socket bound to the address, of its kind.
fn is_bound_to(socket: BorrowedFd<'_>, address: &Address) -> bool {
    let Ok(bound) = rustix::net::getsockname(socket) else {
        return false;
    };
    let kind = sockopt::socket_type(socket);
    match address {
        Address::UnixStream(path) | Address::UnixDatagram(path) => {
            let wanted = match address {
                Address::UnixStream(_) => SocketType::STREAM,
                _ => SocketType::DGRAM,
            };
            bound.address_family() == AddressFamily::UNIX
                && kind == Ok(wanted)
                && SocketAddrUnix::try_from(bound).is_ok_and(|bound| is_path(&bound, path))
        }
        Address::Udp(end) | Address::Tcp(end) => {
            let wanted = match address {
                Address::Tcp(_) => SocketType::STREAM,
                _ => SocketType::DGRAM,
            };
            let bound = std::net::SocketAddr::try_from(bound);
            kind == Ok(wanted)
                && bound.is_ok_and(|bound| {
                    bound.port() == end.port && end.host.parse() == Ok(bound.ip())
                })
        }
        Address::Unix(_) | Address::Stdout => false,
    }
}

fn is_path(bound: &SocketAddrUnix, path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    bound.path_bytes() == Some(path.as_os_str().as_bytes())
}
