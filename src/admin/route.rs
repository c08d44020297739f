//! What a request asks for: its method, path and query, checked.

use hyper::{Method, Uri};

use crate::collector::journal::ClientId;
use crate::connections::filter::ConnectionFilter;
use crate::flow::key::FlowKey;

/// Every route: method, path, what it does. Shown to whoever asks for another.
pub(super) const ROUTES: [(&str, &str, &str); 16] = [
    (
        "GET",
        "/status",
        "the daemon, its collectors, outputs and listeners, with their counters",
    ),
    (
        "GET",
        "/snapshot",
        "connections by remote host, as the last tick found them",
    ),
    (
        "GET",
        "/clients",
        "the open connections of the stream listeners",
    ),
    (
        "GET",
        "/connections?host=&port=&state=&direction=&protocol=&client=ID&flush=1",
        "connections that are there; with client, and what ended since it last asked",
    ),
    ("DELETE", "/clients/ID", "forget a client of /connections"),
    (
        "DELETE",
        "/clients/ID/connections/KEY",
        "leave a connection out of what a client sees",
    ),
    ("GET", "/collector", "what the collector says of itself"),
    ("POST", "/collector/pause", "stop reading the kernel"),
    ("POST", "/collector/resume", "go on, with a resync"),
    (
        "POST",
        "/collector/flush",
        "make every end visible that the kernel holds back",
    ),
    (
        "POST",
        "/flush",
        "send at once what waits in the outputs for company",
    ),
    ("POST", "/reload", "read the configuration anew"),
    ("GET", "/log", "what is logged"),
    (
        "PUT",
        "/log?filter=FILTER",
        "log this until the next start; an empty filter: as at the start",
    ),
    ("GET", "/debug/tables", "the flow table"),
    ("GET", "/", "these routes"),
];

/// A request that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Routes,
    Status,
    Snapshot,
    Clients,
    Connections(Question),
    RemoveClient(ClientId),
    Hide(ClientId, FlowKey),
    Collector,
    Pause,
    Resume,
    Flush,
    FlushOutputs,
    Reload,
    Log,
    SetLog(String),
    Tables,
}

/// Which connections.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) filter: ConnectionFilter,
    pub(super) client: Option<ClientId>,
    pub(super) flush: bool,
}

/// Why a request is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unroutable {
    /// There is no such path.
    Path,
    /// The path wants another method.
    Method(&'static str),
    /// Something in it is wrong.
    Request(String),
}

/// Reads a request's line.
pub(super) fn route(method: &Method, uri: &Uri) -> Result<Route, Unroutable> {
    let path = uri.path().strip_prefix('/').unwrap_or_default();
    // One more than the longest path has, so that a longer one matches none.
    let segments: Vec<&str> = path.splitn(5, '/').collect();
    let wanted = match segments[..] {
        ["" | "status" | "snapshot" | "clients" | "connections" | "collector"]
        | ["debug", "tables"] => "GET",
        ["clients", _] | ["clients", _, "connections", _] => "DELETE",
        ["flush" | "reload"] | ["collector", "pause" | "resume" | "flush"] => "POST",
        ["log"] => "GET, PUT",
        _ => return Err(Unroutable::Path),
    };
    if !wanted.split(", ").any(|one| method.as_str() == one) {
        return Err(Unroutable::Method(wanted));
    }
    let wrong = |error: &dyn ToString| Unroutable::Request(error.to_string());
    let query = uri.query().unwrap_or_default();
    let sets = path == "log" && method == Method::PUT;
    if path != "connections" && !sets && !query.is_empty() {
        return Err(Unroutable::Request(format!("/{path} takes no query")));
    }
    Ok(match segments[..] {
        [""] => Route::Routes,
        ["status"] => Route::Status,
        ["snapshot"] => Route::Snapshot,
        ["clients"] => Route::Clients,
        ["connections"] => Route::Connections(question(query).map_err(Unroutable::Request)?),
        ["clients", id] => Route::RemoveClient(id.parse().map_err(|error| wrong(&error))?),
        ["clients", id, _, key] => Route::Hide(
            id.parse().map_err(|error| wrong(&error))?,
            key.parse().map_err(|error| wrong(&error))?,
        ),
        ["collector"] => Route::Collector,
        ["collector", "pause"] => Route::Pause,
        ["collector", "resume"] => Route::Resume,
        ["collector", _] => Route::Flush,
        ["flush"] => Route::FlushOutputs,
        ["reload"] => Route::Reload,
        ["log"] if sets => Route::SetLog(filter(query).map_err(Unroutable::Request)?),
        ["log"] => Route::Log,
        _ => Route::Tables,
    })
}

fn question(query: &str) -> Result<Question, String> {
    let mut question = Question::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode(key)?, decode(value)?);
        match key.as_str() {
            "client" => {
                question.client = Some(value.parse().map_err(|error| format!("{error}"))?);
            }
            "flush" => {
                question.flush = match value.as_str() {
                    "" | "1" | "true" => true,
                    "0" | "false" => false,
                    _ => return Err(format!("flush: {value:?} is neither 1 nor 0")),
                };
            }
            _ => (question.filter.add(&key, &value)).map_err(|error| error.to_string())?,
        }
    }
    Ok(question)
}

fn filter(query: &str) -> Result<String, String> {
    match query.split_once('=') {
        Some(("filter", text)) => decode(text),
        _ => Err("what is to be logged? write ?filter=FILTER".to_owned()),
    }
}

/// The path and query that [`route`] reads a filter for the log from.
pub(super) fn log_target(filter: &str) -> String {
    let mut target = "/log?filter=".to_owned();
    encode(filter, &mut target);
    target
}

/// The path and query that [`route`] reads the question from.
pub(super) fn target(filter: &ConnectionFilter, client: &ClientId, flush: bool) -> String {
    let mut target = format!("/connections?client={client}");
    for (key, value) in filter.pairs() {
        target.push('&');
        target.push_str(key);
        target.push('=');
        encode(&value, &mut target);
    }
    if flush {
        target.push_str("&flush=1");
    }
    target
}

/// Undoes percent-encoding (RFC 3986, 2.1), and `+` for a space as forms have it.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let number = digit().zip(digit()).map(|(high, low)| high << 4 | low);
                number
                    .and_then(|number| u8::try_from(number).ok())
                    .ok_or_else(|| format!("{text:?}: % without two hex digits"))?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).map_err(|_| format!("{text:?} is not UTF-8"))
}

fn encode(text: &str, to: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            to.push(char::from(byte));
        } else {
            to.push('%');
            for nibble in [byte >> 4, byte & 15] {
                to.extend(char::from_digit(u32::from(nibble), 16));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Result<Route, Unroutable> {
        route(&Method::GET, &target.parse().unwrap())
    }

    #[test]
    fn a_question_reads_back_from_its_path_and_query() {
        let mut filter = ConnectionFilter::default();
        filter
            .add("host", "10.0.0.0/8,fd00::1,größe & co=x")
            .unwrap();
        filter.add("state", "failed").unwrap();
        let client: ClientId = "net-watch".parse().unwrap();
        let target = target(&filter, &client, true);
        let question = Question {
            filter,
            client: Some(client),
            flush: true,
        };
        assert_eq!(get(&target), Ok(Route::Connections(question)), "{target}");
    }

    #[test]
    fn a_filter_for_the_log_reads_back_from_its_path_and_query() {
        for filter in ["info,conntally::output=debug", ""] {
            let uri: Uri = log_target(filter).parse().unwrap();
            let read = route(&Method::PUT, &uri);
            assert_eq!(read, Ok(Route::SetLog(filter.to_owned())), "{uri}");
        }
        assert_eq!(get("/log"), Ok(Route::Log));
    }

    #[test]
    fn every_route_that_is_listed_is_there_and_wants_its_method() {
        for (method, path, _) in ROUTES {
            let path = path.split("?host").next().unwrap();
            let path = path.replace("KEY", "0123456789abcdef");
            let uri: Uri = path.parse().unwrap();
            assert!(route(&method.parse().unwrap(), &uri).is_ok(), "{path}");
            let Err(Unroutable::Method(wanted)) = route(&Method::PATCH, &uri) else {
                panic!("{path}");
            };
            assert!(wanted.contains(method), "{path}: {wanted}");
        }
    }

    #[test]
    fn what_is_no_request_says_why() {
        for path in [
            "/connection",
            "/connections/x",
            "/clients/a/b",
            "/debug",
            "/collector/stop",
        ] {
            assert_eq!(get(path), Err(Unroutable::Path), "{path}");
        }
        for (target, part) in [
            ("/connections?host=%zz", "two hex digits"),
            ("/connections?host=%ff", "not UTF-8"),
            ("/connections?port=x", "port: \"x\" is no port"),
            ("/connections?color=red", "there is no filter \"color\""),
            ("/connections?client=a/b", "cannot be a client's name"),
            ("/connections?flush=perhaps", "neither 1 nor 0"),
            ("/collector?verbose=1", "takes no query"),
            ("/log?filter=info", "takes no query"),
        ] {
            let Err(Unroutable::Request(reason)) = get(target) else {
                panic!("{target}");
            };
            assert!(reason.contains(part), "{reason}");
        }
    }
}
