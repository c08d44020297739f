//! Binding: a socket file with its mode and owner from the first moment on, and
//! nobody else's taken away.

mod file;
mod left;
mod lock;

use std::fs::{self, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpSocket, UdpSocket, UnixDatagram, UnixListener, UnixSocket};

pub(crate) use self::file::{Change, MOST_SOCKETS, SocketFile, changed};
pub(crate) use self::left::{left_tcp, left_unix_stream};
pub(super) use self::left::{tcp_listener, unix_listener};
use self::lock::DirectoryLock;
use super::ListenError;
use super::datagram::{self, Tells};
use crate::accounts::ids;
use crate::address::{Address, HostPort};
use crate::config::{FileMode, Owner};

/// Connections that may wait to be accepted; the system takes less if
/// `net.core.somaxconn` is less.
pub(super) const ACCEPT_QUEUE: u32 = 1024;

/// A name to be given to a socket.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// What errors call it.
    pub(crate) address: Address,
    /// The path in it.
    pub(crate) path: PathBuf,
    /// Whom the file belongs to.
    pub(crate) owner: Owner,
    /// Of the file.
    pub(crate) mode: FileMode,
}

/// Binds a unix stream socket. Must be called within a runtime.
pub(crate) async fn unix_stream(place: Place) -> Result<(UnixListener, SocketFile), ListenError> {
    let _lock = DirectoryLock::of(&place.path).await;
    let socket = UnixSocket::new_stream();
    place.give_to(socket, SocketType::STREAM, |socket| {
        socket.listen(ACCEPT_QUEUE)
    })
}

/// Binds a unix datagram socket, which tells the processes that send by it where it can.
/// Must be called within a runtime.
pub(super) async fn unix_datagram(
    place: Place,
) -> Result<((UnixDatagram, Tells), SocketFile), ListenError> {
    let _lock = DirectoryLock::of(&place.path).await;
    let errors = Errors(&place.address);
    let socket = UnixSocket::new_datagram().map_err(errors.while_doing("open a socket"))?;
    // Before anybody can send: what was sent before would tell of no process.
    let tells =
        datagram::ask(&socket).map_err(errors.while_doing("ask for the senders' processes"))?;
    let (socket, file) = place.give_to(Ok(socket), SocketType::DGRAM, UnixSocket::datagram)?;
    Ok(((socket, tells), file))
}

/// What stands at a path, where it may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket that nobody listens on any more.
    Stale,
}

impl Place {
    /// Gives a socket its name, owner and mode. Whoever finds the file finds one that is
    /// listened on: a new one can be entered only then, a stale one is replaced in one step
    /// by then.
    fn give_to<T>(
        &self,
        socket: io::Result<UnixSocket>,
        kind: SocketType,
        listen: impl FnOnce(UnixSocket) -> io::Result<T>,
    ) -> Result<(T, SocketFile), ListenError> {
        let errors = Errors(&self.address);
        let socket = socket.map_err(errors.while_doing("open a socket"))?;
        let owner = ids(&self.owner).map_err(|source| ListenError::Owner {
            address: self.address.clone(),
            source,
        })?;
        let found = self.look(&self.path, kind)?;
        // The file gets the mode of the socket that is bound (unix(7)): no one comes
        // in before it has its owner. A umask would be the whole process's.
        rustix::fs::fchmod(&socket, Mode::empty())
            .map_err(|error| errors.of(error.into(), "restrict the socket"))?;
        let mut file = match found {
            Found::Nothing => self.bind(&socket, &self.path)?,
            Found::Stale => self.bind_beside(&socket)?,
        };
        let listener = listen(socket).map_err(errors.while_doing("listen"))?;
        if owner != (None, None) {
            lchown(file.path(), owner.0, owner.1)
                .map_err(errors.while_doing("change its owner"))?;
        }
        fs::set_permissions(file.path(), Permissions::from_mode(self.mode.0))
            .map_err(errors.while_doing("change its mode"))?;
        if file.path() != self.path {
            self.replace(&mut file, kind)?;
        }
        if found == Found::Stale {
            tracing::info!(path = %self.path.display(), "nobody listened on the socket file: replaced");
        }
        Ok((listener, file))
    }

    /// What stands at `path`: the place itself, or where that was put aside.
    fn look(&self, path: &Path, kind: SocketType) -> Result<Found, ListenError> {
        let errors = Errors(&self.address);
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or_else(|| Path::new("/"));
                return match fs::metadata(directory) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        Err(ListenError::NoDirectory {
                            address: self.address.clone(),
                            directory: directory.to_owned(),
                        })
                    }
                    _ => Ok(Found::Nothing),
                };
            }
            Err(error) => return Err(errors.of(error, "look at the path")),
        };
        if !found.file_type().is_socket() {
            return Err(ListenError::NotASocket {
                address: self.address.clone(),
                path: self.path.clone(),
            });
        }
        match probe(path, kind) {
            Err(Errno::CONNREFUSED) => Ok(Found::Stale),
            Err(Errno::NOENT) => Ok(Found::Nothing),
            // A live one: it answers, is too busy to, or is of the other type.
            Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
                Err(ListenError::InUse(self.address.clone()))
            }
            Err(error) => {
                Err(errors.of(error.into(), "find out whether the socket file is in use"))
            }
        }
    }

    fn bind(&self, socket: &UnixSocket, path: &Path) -> Result<SocketFile, ListenError> {
        let errors = Errors(&self.address);
        socket
            .bind(path)
            .map_err(errors.while_doing("create the socket file"))?;
        SocketFile::of(self.clone(), path).map_err(errors.while_doing("look at the socket file"))
    }

    /// Binds to a name of the same directory that nobody knows. Where there can be none, as
    /// the path is too long or the file system full, takes the stale file away instead.
    fn bind_beside(&self, socket: &UnixSocket) -> Result<SocketFile, ListenError> {
        let number = RandomState::new().build_hasher().finish() % 0x1_0000_0000;
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(format!(".{number:08x}"));
        if let Ok(file) = self.bind(socket, Path::new(&beside)) {
            return Ok(file);
        }
        fs::remove_file(&self.path)
            .map_err(Errors(&self.address).while_doing("remove the stale socket file"))?;
        self.bind(socket, &self.path)
    }

    /// Puts `file` where a stale one stands. Who connects meanwhile finds the one or the other.
    fn replace(&self, file: &mut SocketFile, kind: SocketType) -> Result<(), ListenError> {
        let errors = Errors(&self.address);
        let Ok(aside) = file.exchange(self.path.clone()) else {
            // The file system can't, or somebody has taken the stale one away.
            self.look(&self.path, kind)?;
            return file
                .rename(&self.path)
                .map_err(errors.while_doing("replace the stale socket file"));
        };
        match self.look(&aside, kind) {
            Ok(Found::Nothing) => Ok(()),
            Ok(Found::Stale) => {
                fs::remove_file(&aside).map_err(errors.while_doing("remove the stale socket file"))
            }
            Err(error) => {
                // Somebody came in between: the place is theirs.
                file.exchange(aside)
                    .map_err(errors.while_doing("give the socket file back"))?;
                Err(error)
            }
        }
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

/// Binds a TCP socket, at which as many as `queue` may wait to be accepted. Must be called
/// within a runtime.
pub(crate) async fn tcp(
    address: &Address,
    host: &HostPort,
    queue: u32,
) -> Result<TcpListener, ListenError> {
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
    socket.listen(queue).map_err(errors.while_doing("listen"))
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
