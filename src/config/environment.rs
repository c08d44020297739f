//! What the environment says: `${VAR}` in strings, the Datadog variables, and the
//! built-in defaults where no file is.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Admin, Config, Listener, Output};
use crate::address::{Address, DEFAULT_PORT};
use crate::report::text::check_tag;

/// The environment's variables, read once.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    uid: u32,
}

/// Variables that become tags, and the tag of each, as Datadog's clients have them.
const TAG_VARIABLES: [(&str, &str); 4] = [
    ("DD_ENTITY_ID", "dd.internal.entity_id"),
    ("DD_ENV", "env"),
    ("DD_SERVICE", "service"),
    ("DD_VERSION", "version"),
];

impl Environment {
    /// The process's own. Variables that are not Unicode are left out.
    #[must_use]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            variables,
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// Made of these.
    #[must_use]
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            variables: variables.iter().map(owned).collect(),
            uid: 0,
        }
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name)?.as_str();
        (!value.is_empty()).then_some(value)
    }

    /// Replaces each `${NAME}`; `$${` stands for itself. `None` when there is
    /// nothing to replace.
    pub(super) fn expand(&self, text: &str) -> Result<Option<String>, String> {
        if !text.contains("${") {
            return Ok(None);
        }
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = after;
                continue;
            }
            let Some((name, after)) = after.split_once('}') else {
                return Err(
                    "`${` without `}`: write ${NAME}, or $${ for the two characters".into(),
                );
            };
            let Some(value) = self.variables.get(name) else {
                return Err(format!("the environment variable {name} is not set"));
            };
            expanded.push_str(before);
            expanded.push_str(value);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(Some(expanded))
    }

    /// Adds the tags that Datadog's clients add, but for keys that the file has.
    /// Returns what is wrong with those that cannot be.
    pub(super) fn add_tags(&self, config: &mut Config) -> Vec<String> {
        let mut wrong = Vec::new();
        for (variable, key) in TAG_VARIABLES {
            if let Some(value) = self.get(variable)
                && !config
                    .tags
                    .iter()
                    .any(|tag| tag.split(':').next() == Some(key))
            {
                let tag = format!("{key}:{value}");
                match check_tag(&tag) {
                    Ok(()) => config.tags.push(tag),
                    Err(error) => wrong.push(format!("{variable}: {error}")),
                }
            }
        }
        wrong
    }

    /// Where a Datadog client would send, if the environment says so.
    fn datadog_output(&self) -> Result<Option<Address>, String> {
        if let Some(url) = self.get("DD_DOGSTATSD_URL") {
            return match url.parse() {
                Ok(address) => Ok(Some(address)),
                Err(error) => Err(format!("DD_DOGSTATSD_URL: {error}")),
            };
        }
        let from = |variable: &str, text: String| match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(error) => Err(format!("{variable}: {error}")),
        };
        if let Some(host) = self.get("DD_AGENT_HOST") {
            if host.starts_with('/') || host.contains("://") {
                return from("DD_AGENT_HOST", host.to_owned());
            }
            let port = self.get("DD_DOGSTATSD_PORT").map_or_else(
                || Ok(DEFAULT_PORT),
                |port| {
                    port.parse()
                        .map_err(|_| format!(
                            "DD_DOGSTATSD_PORT: {port:?} is not a port: write a number from 1 to 65535"
                        ))
                },
            )?;
            let host = if host.contains(':') {
                format!("[{host}]")
            } else {
                host.to_owned()
            };
            return from("DD_AGENT_HOST", format!("udp://{host}:{port}"));
        }
        if let Some(path) = self.get("DD_DOGSTATSD_SOCKET") {
            return from("DD_DOGSTATSD_SOCKET", format!("unix://{path}"));
        }
        match self.get("DD_DOGSTATSD_PORT") {
            Some(port) => from("DD_DOGSTATSD_PORT", format!("udp://127.0.0.1:{port}")),
            None => Ok(None),
        }
    }

    /// Where a program without a configured place keeps its sockets: systemd's
    /// `RUNTIME_DIRECTORY`, `/run/conntally` for root, else the user's own.
    #[must_use]
    pub fn runtime_directory(&self) -> PathBuf {
        if let Some(directories) = self.get("RUNTIME_DIRECTORY") {
            // systemd joins several with colons; the first is ours.
            PathBuf::from(directories.split(':').next().unwrap_or(directories))
        } else if self.uid == 0 {
            PathBuf::from("/run/conntally")
        } else if let Some(directory) = self.get("XDG_RUNTIME_DIR") {
            PathBuf::from(directory).join("conntally")
        } else {
            std::env::temp_dir().join(format!("conntally-{}", self.uid))
        }
    }
}

/// The configuration where no file is.
pub(super) fn defaults(environment: &Environment) -> Result<Config, String> {
    let address = environment.datadog_output()?.unwrap_or(Address::Stdout);
    let directory = environment.runtime_directory();
    let socket = directory.join("dsd_stream.socket");
    Ok(Config {
        outputs: vec![Output {
            address,
            ..Output::default()
        }],
        listeners: vec![Listener {
            address: Address::UnixStream(socket),
            ..Listener::default()
        }],
        admin: Admin {
            socket: directory.join("admin.sock").display().to_string(),
            ..Admin::default()
        },
        ..Config::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(variables: &[(&str, &str)]) -> String {
        let config = defaults(&Environment::of(variables)).unwrap();
        config.outputs[0].address.to_string()
    }

    #[test]
    fn without_a_file_the_output_is_where_a_datadog_client_would_send() {
        assert_eq!(output(&[]), "stdout:");
        assert_eq!(output(&[("DD_AGENT_HOST", "agent")]), "udp://agent:8125");
        assert_eq!(
            output(&[("DD_AGENT_HOST", "fd00::1"), ("DD_DOGSTATSD_PORT", "9125")]),
            "udp://[fd00::1]:9125"
        );
        assert_eq!(
            output(&[("DD_DOGSTATSD_SOCKET", "/run/dsd.socket")]),
            "unix:///run/dsd.socket"
        );
        assert_eq!(
            output(&[
                ("DD_DOGSTATSD_URL", "unixstream:///run/s.socket"),
                ("DD_AGENT_HOST", "agent")
            ]),
            "unixstream:///run/s.socket"
        );
        let error = defaults(&Environment::of(&[("DD_DOGSTATSD_URL", "http://x")])).unwrap_err();
        assert!(error.contains("DD_DOGSTATSD_URL"), "{error}");
    }

    #[test]
    fn tags_of_the_environment_yield_to_those_of_the_file() {
        let mut config = Config {
            tags: vec!["env:file".to_owned()],
            ..Config::default()
        };
        Environment::of(&[
            ("DD_ENV", "prod"),
            ("DD_SERVICE", "edge"),
            ("DD_VERSION", ""),
        ])
        .add_tags(&mut config);
        assert_eq!(config.tags, ["env:file", "service:edge"]);
    }

    #[test]
    fn variables_in_braces_are_replaced_and_missing_ones_named() {
        let environment = Environment::of(&[("A", "1"), ("EMPTY", "")]);
        let expand = |text| environment.expand(text);
        assert_eq!(expand("plain $A").unwrap(), None);
        assert_eq!(expand("x${A}y${EMPTY}z").unwrap().unwrap(), "x1yz");
        assert_eq!(expand("$${A}").unwrap().unwrap(), "${A}");
        assert!(expand("${NOPE}").unwrap_err().contains("NOPE is not set"));
        assert!(expand("${A").unwrap_err().contains("without"));
    }
}
