//! Accepted stream sockets, unix and TCP alike.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::iter;
use std::net::{self as std_net, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net as std_unix;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};

use super::socket::{MOST_SOCKETS, unix_listener};
use super::{descriptors, origin};

/// Who is at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Process; unknown when it is in another pid namespace, or not on this host.
    pub pid: Option<u32>,
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Name of the program; empty where the process is unknown.
    pub program: Box<str>,
    /// Address, with TCP.
    pub remote: Option<SocketAddr>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.remote) {
            (Some(pid), _) => write!(f, "{} (pid {pid})", self.program),
            (None, Some(remote)) => remote.fmt(f),
            (None, None) => f.write_str("unknown"),
        }
    }
}

/// What connections come to.
#[derive(Debug)]
pub(super) enum Acceptor {
    Unix(UnixAcceptor),
    Tcp(TcpListener),
}

/// Unix sockets of one name.
#[derive(Debug)]
pub(super) struct UnixAcceptor {
    newest: UnixListener,
    /// Where the file was made anew, those before: the oldest first.
    older: VecDeque<UnixListener>,
    /// Which is asked first, so that none keeps the others from their turn.
    turn: usize,
}

impl UnixAcceptor {
    fn listeners(&self) -> impl Iterator<Item = &UnixListener> {
        self.older.iter().chain(iter::once(&self.newest))
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        let listeners = self.older.len() + 1;
        for _ in 0..listeners {
            let listener = self.older.get(self.turn).unwrap_or(&self.newest);
            self.turn = (self.turn + 1) % listeners;
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted.map(|(stream, _)| stream));
            }
        }
        Poll::Pending
    }
}

/// A connection that has come.
#[derive(Debug)]
pub(super) enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

impl Acceptor {
    pub(super) fn unix(newest: UnixListener) -> Self {
        Self::Unix(UnixAcceptor {
            newest,
            older: VecDeque::new(),
            turn: 0,
        })
    }

    /// Of unix sockets that another process bound, the oldest first.
    ///
    /// # Errors
    /// When one is none.
    pub(super) fn of_unix(older: Vec<OwnedFd>, newest: OwnedFd) -> io::Result<Self> {
        let older = older.into_iter().map(unix_listener);
        Ok(Self::Unix(UnixAcceptor {
            newest: unix_listener(newest)?,
            older: older.collect::<io::Result<_>>()?,
            turn: 0,
        }))
    }

    /// Takes a further unix socket, which the name leads to from now on. Returns who waits at
    /// one that was one too many.
    pub(super) fn renew(
        &mut self,
        listener: UnixListener,
    ) -> impl Iterator<Item = Accepted> + use<> {
        let surplus = match self {
            Self::Unix(unix) => {
                unix.older
                    .push_back(std::mem::replace(&mut unix.newest, listener));
                (unix.older.len() == MOST_SOCKETS).then(|| unix.older.pop_front())
            }
            Self::Tcp(_) => None,
        };
        queued(
            surplus
                .flatten()
                .map(|oldest| oldest.into_std().map(Queue::Unix)),
        )
    }

    /// Who waits to be accepted, asked of the system itself: the runtime may not
    /// have looked yet. Nobody is accepted after that.
    pub(super) fn into_queued(self) -> impl Iterator<Item = Accepted> {
        let queues: Vec<_> = match self {
            Self::Unix(UnixAcceptor { newest, older, .. }) => {
                let listeners = older.into_iter().chain([newest]);
                listeners
                    .map(|listener| listener.into_std().map(Queue::Unix))
                    .collect()
            }
            Self::Tcp(listener) => vec![listener.into_std().map(Queue::Tcp)],
        };
        queued(queues)
    }

    /// The sockets themselves, which go on listening: the newest, and those before it.
    ///
    /// # Errors
    /// When the runtime does not let go of one.
    pub(super) fn into_descriptors(self) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
        match self {
            Self::Unix(UnixAcceptor { newest, older, .. }) => {
                let descriptor = |of: UnixListener| of.into_std().map(OwnedFd::from);
                let older = older
                    .into_iter()
                    .map(descriptor)
                    .collect::<io::Result<_>>()?;
                Ok((descriptor(newest)?, older))
            }
            Self::Tcp(listener) => Ok((listener.into_std()?.into(), Vec::new())),
        }
    }

    /// Whether somebody waits to be accepted.
    pub(super) fn is_waited_for(&self) -> bool {
        match self {
            Self::Unix(unix) => unix.listeners().any(descriptors::is_waited_for),
            Self::Tcp(listener) => descriptors::is_waited_for(listener),
        }
    }

    /// A connection that another process accepted from it.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn adopt(&self, socket: OwnedFd) -> io::Result<Accepted> {
        match self {
            Self::Unix(_) => {
                let stream = std_unix::UnixStream::from(socket);
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Accepted::Unix)
            }
            Self::Tcp(_) => {
                let stream = std_net::TcpStream::from(socket);
                stream.set_nonblocking(true)?;
                let remote = stream.peer_addr()?;
                Ok(Accepted::Tcp(TcpStream::from_std(stream)?, remote))
            }
        }
    }

    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Unix(unix) => unix.poll_accept(cx).map_ok(Accepted::Unix),
            Self::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, remote)| Accepted::Tcp(stream, remote)),
        }
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(unix) => unix.newest.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Who waits at these.
fn queued(queues: impl IntoIterator<Item = io::Result<Queue>>) -> impl Iterator<Item = Accepted> {
    let queues = queues.into_iter().flatten();
    queues.flat_map(|queue| iter::from_fn(move || queue.accept().ok()))
}

/// A listening socket that the runtime knows nothing of.
enum Queue {
    Unix(std_unix::UnixListener),
    Tcp(std_net::TcpListener),
}

impl Queue {
    fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Accepted::Unix)
            }
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted::Tcp(TcpStream::from_std(stream)?, remote))
            }
        }
    }
}

impl Accepted {
    /// Who it is, but for the program.
    pub(super) fn peer(&self) -> Peer {
        match self {
            // Those of the process that connected, at that time (SO_PEERCRED, unix(7)).
            Self::Unix(stream) => stream.peer_cred().map_or_else(
                |_| Peer::default(),
                |peer| Peer {
                    // 0 stands for a process of another pid namespace.
                    pid: peer
                        .pid()
                        .and_then(|pid| u32::try_from(pid).ok())
                        .filter(|&pid| pid != 0),
                    uid: Some(peer.uid()),
                    gid: Some(peer.gid()),
                    ..Peer::default()
                },
            ),
            Self::Tcp(_, remote) => Peer {
                remote: Some(*remote),
                ..Peer::default()
            },
        }
    }

    pub(super) fn split(self) -> (Reader, Handle) {
        match self {
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (Reader::Unix(read), Handle::unix(write))
            }
            Self::Tcp(stream, _) => {
                let (read, write) = stream.into_split();
                (Reader::Tcp(read), Handle::tcp(write))
            }
        }
    }
}

impl Peer {
    /// Looks up what its process is called.
    pub(super) fn with_program(mut self) -> Self {
        if let Some(pid) = self.pid {
            self.program = origin::program_of(pid);
        }
        self
    }
}

/// What the connection's task reads from.
#[derive(Debug)]
pub(super) enum Reader {
    Unix(unix::OwnedReadHalf),
    Tcp(tcp::OwnedReadHalf),
}

impl Reader {
    /// Waits in the place that [`Reader::poll_read`] does: one waker, no list of them.
    pub(super) async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| match self {
            Self::Unix(half) => half.as_ref().poll_read_ready(cx),
            Self::Tcp(half) => half.as_ref().poll_read_ready(cx),
        })
        .await
    }

    /// The socket once more, which stays open when this one goes.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(half) => rustix::io::fcntl_dupfd_cloexec(half.as_ref(), 0),
            Self::Tcp(half) => rustix::io::fcntl_dupfd_cloexec(half.as_ref(), 0),
        }
        .map_err(io::Error::from)
    }

    /// Reads once. Unlike `try_read` it takes a read that does not fill the
    /// buffer as the last for now, which spares the one that says so.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buffer),
        }
    }
}

/// What the listener ends a connection by. Nothing is ever written.
#[derive(Debug)]
pub(super) struct Handle(Mutex<Option<Half>>);

/// The half that writes shuts its direction down when it goes.
#[derive(Debug)]
enum Half {
    Unix(unix::OwnedWriteHalf),
    Tcp(tcp::OwnedWriteHalf),
}

impl AsFd for Half {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(half) => half.as_ref().as_fd(),
            Self::Tcp(half) => half.as_ref().as_fd(),
        }
    }
}

impl Handle {
    fn unix(half: unix::OwnedWriteHalf) -> Self {
        Self(Mutex::new(Some(Half::Unix(half))))
    }

    fn tcp(half: tcp::OwnedWriteHalf) -> Self {
        Self(Mutex::new(Some(Half::Tcp(half))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Half>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends one direction; what is queued already can still be read.
    pub(super) fn shutdown(&self, how: Shutdown) {
        if let Some(half) = &*self.lock()
            && let Err(error) = rustix::net::shutdown(half, how)
        {
            // The peer was first.
            tracing::debug!(%error, "shutdown");
        }
    }

    /// Bytes that have come and are not read.
    pub(super) fn unread_bytes(&self) -> u64 {
        let half = self.lock();
        let unread = half.as_ref().map(rustix::io::ioctl_fionread);
        unread.and_then(Result::ok).unwrap_or(0)
    }

    /// Lets go of the connection without ending it.
    pub(super) fn forget(&self) {
        match self.lock().take() {
            Some(Half::Unix(half)) => half.forget(),
            Some(Half::Tcp(half)) => half.forget(),
            None => {}
        }
    }
}
