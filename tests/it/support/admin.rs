//! Asking the admin socket as any program may: by HTTP.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::netns::PATIENCE;

/// Answers of the admin socket.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) lines: Vec<Value>,
}

impl Answer {
    pub(crate) fn last(&self) -> &Value {
        self.lines.last().unwrap()
    }

    pub(crate) fn of_type(&self, name: &str) -> Vec<&Value> {
        let is_it = |line: &&Value| line["type"] == name;
        self.lines.iter().filter(is_it).collect()
    }
}

pub(crate) fn read(mut stream: UnixStream) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_ascii_lowercase(),
        lines: body
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect(),
    }
}

/// By HTTP/1.0, whose bodies come without frames.
pub(crate) fn send(socket: &Path, method: &str, target: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {target} HTTP/1.0\r\n\r\n").unwrap();
    stream
}

pub(crate) fn ask(socket: &Path, method: &str, target: &str) -> Answer {
    read(send(socket, method, target))
}
