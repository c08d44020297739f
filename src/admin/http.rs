//! The HTTP endpoint: what monitors ask over TCP, and no more. There is no control here:
//! whoever reaches the port may read what `GET /metrics` shows, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::net::TcpListener;

use super::body::{Answered, Body, object};
use super::door::{Door, LEAVING_GRACE, Limits, Socket};
use crate::address::{Address, HostPort};
use crate::exposition::Exposition;
use crate::exposition::text::Format;
use crate::handover;
use crate::listen::{Ends, ListenError, left, socket};
use crate::progress::Progress;
use crate::telemetry::HttpCounters;

/// Connections that may wait to be accepted.
const ACCEPT_QUEUE: u32 = 64;

const LIMITS: Limits = Limits {
    connections: 16,
    request_timeout: Duration::from_secs(5),
    stall_timeout: Duration::from_secs(10),
    answer_timeout: Duration::from_secs(60),
};

/// The bound HTTP endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// As the configuration has it.
    address: Address,
    listener: TcpListener,
    counters: Arc<HttpCounters>,
}

impl Endpoint {
    /// Binds, or goes on with the socket that was left for the address. Must be called within
    /// a runtime.
    ///
    /// # Errors
    /// When somebody listens there already, or the address cannot be.
    pub(crate) async fn open(
        host: &HostPort,
        left: Option<handover::Listener>,
    ) -> Result<Self, ListenError> {
        let address = Address::Tcp(host.clone());
        let listener = match left {
            Some(left) => socket::left_tcp(&address, left)?,
            None => socket::tcp(&address, host, ACCEPT_QUEUE).await?,
        };
        let bound = listener.local_addr();
        let bound = bound.map_or_else(|_| host.to_string(), |bound| bound.to_string());
        tracing::info!(address = %bound, "HTTP endpoint bound");
        Ok(Self {
            address,
            listener,
            counters: Arc::default(),
        })
    }

    /// What it counts.
    pub(crate) fn counters(&self) -> Arc<HttpCounters> {
        Arc::clone(&self.counters)
    }

    /// Leaves the socket without having answered.
    pub(crate) fn leave(self) -> Option<handover::Listener> {
        leave(&self.address, self.listener)
    }

    /// Answers until it is to end, and leaves the socket if it is to; what is not answered by
    /// then is cut off.
    pub(crate) async fn run(
        self,
        exposition: Exposition,
        progress: Arc<Progress>,
        ends: Ends,
    ) -> Option<handover::Listener> {
        let shown = Arc::new((exposition, progress));
        let answer = move |request: Request<_>| {
            let shown = Arc::clone(&shown);
            async move { answer(&shown.0, &shown.1, &request).await }
        };
        let counters = Arc::clone(&self.counters.doors);
        let door = Door::new("the HTTP endpoint", LIMITS, counters, answer, ends.stop);
        let socket = Socket::Tcp(self.listener);
        door.open(&socket).await;
        if ends.leave.is_cancelled() {
            door.close(LEAVING_GRACE).await;
            let Socket::Tcp(listener) = socket else {
                return None;
            };
            return leave(&self.address, listener);
        }
        drop(socket);
        door.close(Duration::ZERO).await;
        None
    }
}

fn leave(address: &Address, listener: TcpListener) -> Option<handover::Listener> {
    let socket = listener.into_std().ok()?.into();
    Some(left(address.to_string(), (socket, Vec::new()), None))
}

/// What there is.
const PATHS: [&str; 3] = ["/metrics", "/healthz", "/readyz"];

#[derive(Serialize)]
struct Said<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "<[&str]>::is_empty")]
    paths: &'a [&'a str],
}

impl Said<'_> {
    const FINE: Self = Self {
        r#type: "fine",
        message: "",
        paths: &[],
    };
}

/// Answers a request; a query or a body, if it has one, is not looked at.
async fn answer<B>(
    exposition: &Exposition,
    progress: &Progress,
    request: &Request<B>,
) -> Answered<Response<Body>> {
    let path = request.uri().path();
    let error = |message| Said {
        r#type: "error",
        message,
        paths: &[],
    };
    if !PATHS.contains(&path) {
        let missing = Said {
            paths: &PATHS,
            ..error("there is no such path")
        };
        return Ok(said(StatusCode::NOT_FOUND, &missing));
    }
    if request.method() != Method::GET {
        let mut response = said(
            StatusCode::METHOD_NOT_ALLOWED,
            &error("this path wants GET"),
        );
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("GET"));
        return Ok(response);
    }
    Ok(match path {
        "/metrics" => metrics(exposition, request.headers()).await,
        "/readyz" if !exposition.has_ticked() => {
            let reason = error("the first tick is not done yet: nothing has been counted");
            said(StatusCode::SERVICE_UNAVAILABLE, &reason)
        }
        "/healthz" if progress.is_stuck() => {
            let seconds = progress.age().as_secs();
            let reason = format!("no tick was done in the last {seconds} s: a stage is stuck");
            said(StatusCode::SERVICE_UNAVAILABLE, &error(&reason))
        }
        // Listeners are bound before anybody is answered, and a stage that ends takes the
        // endpoint along.
        _ => said(StatusCode::OK, &Said::FINE),
    })
}

/// A response that is a line of JSON.
fn said(status: StatusCode, said: &Said<'_>) -> Response<Body> {
    let mut line = Vec::new();
    object(&mut line, said);
    let mut response = Response::new(Body::Whole(Some(Bytes::from(line))));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

async fn metrics(exposition: &Exposition, headers: &HeaderMap) -> Response<Body> {
    let accepts = headers.get_all(ACCEPT).iter();
    let accepts: Vec<_> = accepts.filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accepts.join(","));
    let text = exposition.text(format).await;
    let mut response = Response::new(Body::Whole(Some(Bytes::from(text))));
    let kind = HeaderValue::from_static(format.content_type());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Report};
    use crate::exposition::Teller;
    use crate::flow::key::KeyHasher;
    use crate::telemetry::Telemetry;

    #[tokio::test(start_paused = true)]
    async fn it_is_ready_once_the_first_tick_is_done_and_says_why_not_before() {
        let config = Config {
            report: Report {
                connections: false,
                ..Report::default()
            },
            ..Config::default()
        };
        let (teller, told) = Teller::new(1);
        let telemetry = Telemetry::default();
        let exposition = Exposition::new(
            &config,
            KeyHasher::default(),
            &telemetry,
            Arc::default(),
            told,
        );
        let progress = Progress::default();
        let ask = async |path: &str| {
            let request = Request::get(path).body(()).unwrap();
            let Ok(response) = answer(&exposition, &progress, &request).await;
            let status = response.status().as_u16();
            let Body::Whole(Some(body)) = response.into_body() else {
                panic!("no body");
            };
            (status, String::from_utf8(body.into()).unwrap())
        };
        let (status, reason) = ask("/readyz").await;
        assert_eq!(status, 503);
        assert!(reason.contains("the first tick is not done") && reason.ends_with("}\n"));
        assert_eq!(ask("/healthz").await.0, 200);
        assert_eq!(ask("/metrics").await.0, 200);
        teller.tell(&[]);
        assert_eq!(
            ask("/readyz").await,
            (200, "{\"type\":\"fine\"}\n".to_owned())
        );
        tokio::time::advance(Duration::from_secs(60)).await;
        let (status, reason) = ask("/healthz").await;
        assert_eq!(status, 503);
        assert!(reason.contains("no tick was done in the last 60 s"));
        progress.beat();
        assert_eq!(ask("/healthz").await.0, 200);
    }
}
