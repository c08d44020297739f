//! Binding: a socket file with its mode and owner from the first moment on, and
//! nobody else's taken away.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket, UnixDatagram, UnixListener, UnixSocket};

use super::ListenError;
use super::datagram::Tells;
use crate::address::{Address, FileId, HostPort};
use crate::config::{FileMode, Owner};

/// Connections that may wait to be accepted; the system takes less if
/// `net.core.somaxconn` is less.
const ACCEPT_QUEUE: u32 = 1024;

/// The name of a socket in the file system, taken away when this is dropped if it
/// is still ours.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: FileId,
}

impl SocketFile {
    /// The file of a socket that another process bound.
    pub(super) fn inherited(path: &Path, identity: FileId) -> Self {
        Self {
            path: path.to_owned(),
            identity,
        }
    }

    /// Leaves the file where it is, to the process that takes our place.
    pub(super) fn leave(self) -> FileId {
        let identity = self.identity;
        std::mem::forget(self);
        identity
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Ok(there) = FileId::of(&self.path) else {
            return;
        };
        if there != self.identity {
            tracing::warn!(path = %self.path.display(), "the socket file is not ours any more: left alone");
        } else if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file stays behind");
        }
    }
}

/// A name to be given to a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// What errors call it.
    pub(crate) address: &'a Address,
    /// The path in it.
    pub(crate) path: &'a Path,
    /// Whom the file belongs to.
    pub(crate) owner: &'a Owner,
    /// Of the file.
    pub(crate) mode: FileMode,
}

/// Binds a unix stream socket.
pub(crate) fn unix_stream(place: Place<'_>) -> Result<(UnixListener, SocketFile), ListenError> {
    let errors = Errors(place.address);
    let socket = UnixSocket::new_stream().map_err(errors.while_doing("open a socket"))?;
    let file = bind(&socket, place, SocketType::STREAM)?;
    let listener = socket
        .listen(ACCEPT_QUEUE)
        .map_err(errors.while_doing("listen"))?;
    Ok((listener, file))
}

/// Binds a unix datagram socket, which tells the processes that send by it where it can.
pub(super) fn unix_datagram(
    place: Place<'_>,
) -> Result<(UnixDatagram, Tells, SocketFile), ListenError> {
    let errors = Errors(place.address);
    let socket = UnixSocket::new_datagram().map_err(errors.while_doing("open a socket"))?;
    let tells = if sees_every_process() {
        // Before anybody can send: what was sent before would tell of no process.
        sockopt::set_socket_passcred(&socket, true)
            .map_err(|error| errors.of(error.into(), "ask for the senders' processes"))?;
        Tells::Process
    } else {
        Tells::Nothing
    };
    let file = bind(&socket, place, SocketType::DGRAM)?;
    let socket = socket.datagram().map_err(errors.while_doing("listen"))?;
    Ok((socket, tells, file))
}

/// Whether a unix datagram socket tells processes that another process of ours made, or
/// somebody else. Of the latter's, datagrams may wait that were sent before it was asked to.
pub(super) fn tells(socket: impl AsFd, is_ours: bool) -> Tells {
    let does = is_ours && sees_every_process();
    if does && sockopt::socket_passcred(socket).unwrap_or(false) {
        Tells::Process
    } else {
        Tells::Nothing
    }
}

/// The pid namespace of the system itself, which all others are in (`PROC_PID_INIT_INO`
/// in `linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Whether every process has a number here. In another pid namespace, those outside of it
/// have 0, which rustix's type for it does not admit.
fn sees_every_process() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|path| path == Path::new(FIRST_PID_NAMESPACE))
}

/// Gives a socket its name, owner and mode.
fn bind(
    socket: &UnixSocket,
    place: Place<'_>,
    kind: SocketType,
) -> Result<SocketFile, ListenError> {
    let Place { address, path, .. } = place;
    let errors = Errors(address);
    let (user, group) = ids(place.owner).map_err(|reason| ListenError::Owner {
        address: address.clone(),
        reason,
    })?;
    clear_way(path, kind, address)?;
    // The file gets the mode of the socket that is bound (unix(7)): no one comes
    // in before it has its owner. A umask would be the whole process's.
    rustix::fs::fchmod(socket, Mode::empty())
        .map_err(|error| errors.of(error.into(), "restrict the socket"))?;
    socket.bind(path).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address.clone()),
        _ => errors.of(error, "create the socket file"),
    })?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: FileId::of(path).map_err(errors.while_doing("look at the socket file"))?,
    };
    if user.is_some() || group.is_some() {
        lchown(path, user, group).map_err(errors.while_doing("change its owner"))?;
    }
    fs::set_permissions(path, Permissions::from_mode(place.mode.0))
        .map_err(errors.while_doing("change its mode"))?;
    Ok(file)
}

/// Removes a socket file that nobody listens on any more.
fn clear_way(path: &Path, kind: SocketType, address: &Address) -> Result<(), ListenError> {
    let errors = Errors(address);
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or_else(|| Path::new("/"));
            return match fs::metadata(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Err(ListenError::NoDirectory {
                        address: address.clone(),
                        directory: directory.to_owned(),
                    })
                }
                _ => Ok(()),
            };
        }
        Err(error) => return Err(errors.of(error, "look at the path")),
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket {
            address: address.clone(),
            path: path.to_owned(),
        });
    }
    match probe(path, kind) {
        Err(Errno::CONNREFUSED) => {
            tracing::info!(path = %path.display(), "nobody listens on the socket file: replaced");
            fs::remove_file(path).map_err(errors.while_doing("remove the stale socket file"))
        }
        Err(Errno::NOENT) => Ok(()),
        // A live one: it answers, is too busy to, or is of the other type.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(ListenError::InUse(address.clone())),
        Err(error) => Err(errors.of(error.into(), "find out whether the socket file is in use")),
    }
}

/// Tries to connect, without waiting for a full accept queue.
fn probe(path: &Path, kind: SocketType) -> Result<(), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    rustix::net::connect(socket, &SocketAddrUnix::new(path)?)
}

/// The first address that a host has; IPv4 before IPv6, since that is what
/// clients that are told `localhost` try first.
async fn resolve(address: &Address, host: &HostPort) -> Result<std::net::SocketAddr, ListenError> {
    let mut found: Vec<_> = tokio::net::lookup_host((host.host.as_str(), host.port))
        .await
        .map_err(Errors(address).while_doing("resolve the name"))?
        .collect();
    found.sort_by_key(std::net::SocketAddr::is_ipv6);
    found
        .first()
        .copied()
        .ok_or_else(|| Errors(address).of(io::ErrorKind::NotFound.into(), "resolve the name"))
}

/// Binds a TCP socket.
pub(super) async fn tcp(address: &Address, host: &HostPort) -> Result<TcpListener, ListenError> {
    let errors = Errors(address);
    let to = resolve(address, host).await?;
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .map_err(errors.while_doing("open a socket"))?;
    // Else the port is taken for a minute after a restart.
    socket
        .set_reuseaddr(true)
        .map_err(errors.while_doing("open a socket"))?;
    socket.bind(to).map_err(errors.while_doing("bind"))?;
    socket
        .listen(ACCEPT_QUEUE)
        .map_err(errors.while_doing("listen"))
}

/// Binds a UDP socket.
pub(super) async fn udp(address: &Address, host: &HostPort) -> Result<UdpSocket, ListenError> {
    let to = resolve(address, host).await?;
    UdpSocket::bind(to)
        .await
        .map_err(Errors(address).while_doing("bind"))
}

/// Errors of the system, told with the address.
#[derive(Clone, Copy)]
struct Errors<'a>(&'a Address);

impl<'a> Errors<'a> {
    fn while_doing(self, action: &'static str) -> impl FnOnce(io::Error) -> ListenError + 'a {
        move |error| self.of(error, action)
    }

    fn of(self, source: io::Error, action: &'static str) -> ListenError {
        let address = self.0.clone();
        match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse(address),
            io::ErrorKind::PermissionDenied => ListenError::Permission {
                address,
                action,
                source,
            },
            _ => ListenError::System {
                address,
                action,
                source,
            },
        }
    }
}

/// The numbers of an owner's user and group; `None` leaves the process's own.
fn ids(owner: &Owner) -> Result<(Option<u32>, Option<u32>), String> {
    Ok((
        lookup(&owner.user, "user", "/etc/passwd")?,
        lookup(&owner.group, "group", "/etc/group")?,
    ))
}

fn lookup(name: &str, what: &str, file: &str) -> Result<Option<u32>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(id) = name.parse() {
        return Ok(Some(id));
    }
    let table = fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    find_id(&table, name)
        .map(Some)
        .ok_or_else(|| format!("there is no {what} {name:?} in {file}"))
}

/// The third column of the line that begins with the name: `passwd(5)`, `group(5)`.
fn find_id(table: &str, name: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut columns = line.split(':');
        if columns.next() != Some(name) {
            return None;
        }
        columns.nth(1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_name_or_a_number_or_left_out() {
        for (text, user, group) in [
            ("", None, None),
            ("root", Some(0), None),
            ("root:root", Some(0), Some(0)),
            (":root", None, Some(0)),
            ("1000:1001", Some(1000), Some(1001)),
        ] {
            assert_eq!(ids(&text.parse().unwrap()), Ok((user, group)), "{text}");
        }
        let error = ids(&"root:no-such-group".parse().unwrap()).unwrap_err();
        assert_eq!(error, "there is no group \"no-such-group\" in /etc/group");
    }

    #[test]
    fn an_id_is_the_third_column() {
        let table = "root:x:0:0::/root:/bin/sh\nbroken\nweb:x:33:33::/:\n";
        assert_eq!(find_id(table, "web"), Some(33));
        assert_eq!(find_id(table, "broken"), None);
        assert_eq!(find_id(table, "we"), None);
    }
}
