//! What the tests share.

pub(crate) mod admin;
pub(crate) mod cgroup;
pub(crate) mod clients;
pub(crate) mod collector;
pub(crate) mod counted;
pub(crate) mod daemon;
pub(crate) mod http;
pub(crate) mod inject;
pub(crate) mod lines;
pub(crate) mod netns;
pub(crate) mod proc;
pub(crate) mod receiver;
pub(crate) mod sender;
pub(crate) mod tally;
pub(crate) mod terminal;
pub(crate) mod tools;
