//! The asking side, for the commands: one request to a running daemon, its answer in
//! pieces as they come.

use std::future::poll_fn;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use memchr::memrchr;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::body::Body;
use super::orders::{Order, Outcome};
use super::{is_absent, route};
use crate::collector::journal::ClientId;
use crate::connections::filter::ConnectionFilter;

/// The longest wait for the first or the next piece: longer than the daemon's own, who
/// waits a minute for a flush.
const PATIENCE: Duration = Duration::from_secs(90);
/// The longest line of an answer; ours have a few KiB at most.
const MAX_LINE_BYTES: usize = 1 << 20;
/// The longest refusal that is read.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// Why the daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "the daemon is not running: nobody listens on {} (start it with conntally run, or name \
         its configuration with --config)",
        .0.display()
    )]
    NotRunning(PathBuf),
    /// There is no socket to ask on.
    #[error("the configuration turns the admin socket off: set admin.socket to a path")]
    Off,
    /// The socket may not be opened.
    #[error(
        "not permitted to open the admin socket {}: ask as its owner, as a member of its group, \
         or as root",
        .0.display()
    )]
    Permission(PathBuf),
    /// The system refused.
    #[error("cannot connect to the admin socket {}: {source}", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The configuration that it was to read is wrong.
    #[error("{0}")]
    Wrong(String),
    /// The daemon said no.
    #[error("the daemon refused ({status}): {message}")]
    Refused {
        /// HTTP's number for it.
        status: u16,
        /// Its reason.
        message: String,
    },
    /// The answer broke off.
    #[error("the daemon's answer broke off: {0}")]
    BrokeOff(String),
    /// Nothing came.
    #[error("the daemon did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
}

/// An answer that is being read.
#[derive(Debug)]
pub struct Answer {
    body: Incoming,
    /// The beginning of a line.
    rest: Vec<u8>,
}

/// Asks for connections, and what ended since this client last asked.
///
/// # Errors
/// When nobody listens, the socket may not be opened, or the daemon says no.
pub async fn connections(
    socket: &str,
    filter: &ConnectionFilter,
    client: &ClientId,
    flush: bool,
) -> Result<Answer, ClientError> {
    ask(socket, Method::GET, &route::target(filter, client, flush)).await
}

/// Asks how the daemon is.
///
/// # Errors
/// When nobody listens, the socket may not be opened, or the daemon says no.
pub async fn status(socket: &str) -> Result<Answer, ClientError> {
    ask(socket, Method::GET, "/status").await
}

/// Asks for the open connections of its listeners.
///
/// # Errors
/// When nobody listens, the socket may not be opened, or the daemon says no.
pub async fn clients(socket: &str) -> Result<Answer, ClientError> {
    ask(socket, Method::GET, "/clients").await
}

/// Asks for connections by remote host, as the last tick found them.
///
/// # Errors
/// When nobody listens, the socket may not be opened, or the daemon says no.
pub async fn snapshot(socket: &str) -> Result<Answer, ClientError> {
    ask(socket, Method::GET, "/snapshot").await
}

/// Gives an order; what came of it.
///
/// # Errors
/// When nobody listens, the socket may not be opened, or the daemon says no.
pub(crate) async fn give(socket: &str, order: Order<'_>) -> Result<Outcome, ClientError> {
    let (method, target) = order.request();
    line(&ask(socket, method, &target).await?.whole().await?)
}

async fn ask(socket: &str, method: Method, target: &str) -> Result<Answer, ClientError> {
    if socket.is_empty() {
        return Err(ClientError::Off);
    }
    let path = Path::new(socket);
    let stream = UnixStream::connect(path).await.map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            _ if is_absent(&source) => ClientError::NotRunning(path),
            io::ErrorKind::PermissionDenied => ClientError::Permission(path),
            _ => ClientError::Connect { path, source },
        }
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broke_off)?;
    // Its errors are those of the response that it carries.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, "conntally")
        .body(Body::EMPTY)
        .map_err(|error| ClientError::BrokeOff(error.to_string()))?;
    let response = timeout(PATIENCE, sender.send_request(request))
        .await
        .map_err(|_| ClientError::Timeout)?
        .map_err(broke_off)?;
    let status = response.status();
    let answer = Answer {
        body: response.into_body(),
        rest: Vec::new(),
    };
    if status == StatusCode::OK {
        Ok(answer)
    } else {
        Err(answer.refusal(status).await)
    }
}

/// Reads lines: each as it came, with its newline, and what it says; an error for one that
/// is none of that kind.
pub fn read<'a, T: Deserialize<'a>>(
    lines: &'a [u8],
) -> impl Iterator<Item = Result<(&'a [u8], T), ClientError>> {
    let texts = lines.split_inclusive(|&byte| byte == b'\n');
    texts.map(|text| Ok((text, line(text)?)))
}

fn line<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, ClientError> {
    serde_json::from_slice(text)
        .map_err(|error| ClientError::BrokeOff(format!("a line is none: {error}")))
}

impl Answer {
    /// The lines that came next, each with its newline; `None` at the end.
    ///
    /// # Errors
    /// When the answer breaks off, or nothing comes for too long.
    pub async fn lines(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        while let Some(piece) = self.piece().await? {
            self.rest.extend_from_slice(&piece);
            if let Some(last) = memrchr(b'\n', &self.rest) {
                let rest = self.rest.split_off(last + 1);
                return Ok(Some(mem::replace(&mut self.rest, rest)));
            }
            if self.rest.len() > MAX_LINE_BYTES {
                break;
            }
        }
        if self.rest.is_empty() {
            Ok(None)
        } else {
            Err(ClientError::BrokeOff("a line has no end".to_owned()))
        }
    }

    /// All lines that are still to come.
    ///
    /// # Errors
    /// When the answer breaks off, or nothing comes for too long.
    pub async fn whole(mut self) -> Result<Vec<u8>, ClientError> {
        let mut text = Vec::new();
        while let Some(lines) = self.lines().await? {
            text.extend_from_slice(&lines);
        }
        Ok(text)
    }

    /// The next piece; `None` at the end.
    async fn piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let next = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx));
            let frame = timeout(PATIENCE, next)
                .await
                .map_err(|_| ClientError::Timeout)?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(broke_off(error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    async fn refusal(mut self, status: StatusCode) -> ClientError {
        #[derive(Deserialize)]
        struct Told {
            message: String,
        }
        let mut text = Vec::new();
        while text.len() < MAX_REFUSAL_BYTES
            && let Ok(Some(piece)) = self.piece().await
        {
            text.extend_from_slice(&piece);
        }
        let message = match serde_json::from_slice(&text) {
            Ok(Told { message }) => message,
            Err(_) => String::from_utf8_lossy(&text).trim().to_owned(),
        };
        match status {
            StatusCode::UNPROCESSABLE_ENTITY => ClientError::Wrong(message),
            status => ClientError::Refused {
                status: status.as_u16(),
                message,
            },
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn broke_off(error: hyper::Error) -> ClientError {
    let source = std::error::Error::source(&error);
    ClientError::BrokeOff(match source {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}
