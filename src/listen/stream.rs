//! Accepted stream sockets, unix and TCP alike.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::iter;
use std::net::{self as std_net, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net as std_unix;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};

use super::origin;

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

/// A socket that connections come to.
#[derive(Debug)]
pub(super) enum Acceptor {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A connection that has come.
#[derive(Debug)]
pub(super) enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

impl Acceptor {
    /// What waits to be accepted, asked of the system itself: the runtime may not
    /// have looked yet. Nothing is accepted after that.
    pub(super) fn into_queued(self) -> impl Iterator<Item = Accepted> {
        let queue = match self {
            Self::Unix(listener) => listener.into_std().map(Queue::Unix),
            Self::Tcp(listener) => listener.into_std().map(Queue::Tcp),
        };
        queue
            .into_iter()
            .flat_map(|queue| iter::from_fn(move || queue.accept().ok()))
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Self::Unix(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, _)| Accepted::Unix(stream)),
            Self::Tcp(listener) => listener
                .poll_accept(cx)
                .map_ok(|(stream, remote)| Accepted::Tcp(stream, remote)),
        }
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
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
                (Reader::Unix(read), Handle::Unix(write))
            }
            Self::Tcp(stream, _) => {
                let (read, write) = stream.into_split();
                (Reader::Tcp(read), Handle::Tcp(write))
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
pub(super) enum Handle {
    Unix(unix::OwnedWriteHalf),
    Tcp(tcp::OwnedWriteHalf),
}

impl Handle {
    /// Ends one direction; what is queued already can still be read.
    pub(super) fn shutdown(&self, how: Shutdown) {
        let done = match self {
            Self::Unix(half) => rustix::net::shutdown(half.as_ref(), how),
            Self::Tcp(half) => rustix::net::shutdown(half.as_ref(), how),
        };
        if let Err(error) = done {
            // The peer was first.
            tracing::debug!(%error, "shutdown");
        }
    }

    /// Bytes that have come and are not read.
    pub(super) fn unread_bytes(&self) -> u64 {
        match self {
            Self::Unix(half) => rustix::io::ioctl_fionread(half.as_ref()),
            Self::Tcp(half) => rustix::io::ioctl_fionread(half.as_ref()),
        }
        .unwrap_or(0)
    }
}
