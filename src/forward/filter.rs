//! `allow` and `deny`: which lines of its senders a listener hands on, by what they
//! are called as they come.

use crate::config;
use crate::names::{Globs, called, taken_runs};

/// Names that may pass, and names that may not.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    /// None for all.
    allow: Globs,
    deny: Globs,
}

impl Filter {
    pub(super) fn new(config: &config::Listener) -> Self {
        let allow = Globs::new(&config.allow);
        Self {
            allow: if allow.match_all() {
                Globs::default()
            } else {
                allow
            },
            deny: Globs::new(&config.deny),
        }
    }

    /// Whether every line passes, whatever it is called.
    pub(crate) fn takes_all(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether this line passes, with its newline or without: `deny` has the last word.
    pub(crate) fn takes(&self, line: &[u8]) -> bool {
        self.takes_all() || {
            let name = called(line);
            (self.allow.is_empty() || self.allow.match_name(name)) && !self.deny.match_name(name)
        }
    }

    /// Shows the lines that pass, each with its newline, in runs, and how many each run
    /// has. Returns how many did not pass.
    pub(crate) fn runs<'a>(&self, lines: &'a [u8], see: impl FnMut(&'a [u8], u64)) -> u64 {
        taken_runs(lines, |line| self.takes(line), see)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(allow: &[&str], deny: &[&str]) -> Filter {
        let globs = |globs: &[&str]| globs.iter().map(ToString::to_string).collect();
        Filter::new(&config::Listener {
            allow: globs(allow),
            deny: globs(deny),
            ..config::Listener::default()
        })
    }

    #[test]
    fn a_name_passes_that_is_allowed_and_not_denied() {
        for (allow, deny, passing) in [
            (&[][..], &[][..], &["app.x", "app.debug", "db.x"][..]),
            (&["app.*"], &[], &["app.x", "app.debug"]),
            (&[], &["*.debug"], &["app.x", "db.x"]),
            (&["app.*"], &["*.debug"], &["app.x"]),
            (&["app.*", "*"], &["db.*"], &["app.x", "app.debug"]),
            (&["app.*"], &["*"], &[]),
        ] {
            let filter = filter(allow, deny);
            let names = ["app.x", "app.debug", "db.x"];
            let passed: Vec<_> = names
                .into_iter()
                .filter(|name| filter.takes(format!("{name}:1|c\n").as_bytes()))
                .collect();
            assert_eq!(passed, passing, "{allow:?} {deny:?}");
        }
        assert!(filter(&["*"], &[]).takes_all());
    }

    #[test]
    fn an_event_goes_by_its_title_and_a_check_by_its_name() {
        let filter = filter(&["app.*"], &["app.secret*"]);
        for (line, expected) in [
            ("_e{6,4}:app.up|text", true),
            ("_e{5,6}:start|app.up", false),
            ("_e{10,1}:app.secret|t", false),
            ("_sc|app.up|0|m:app.secret", true),
            ("_sc|app.secrets|0", false),
        ] {
            assert_eq!(filter.takes(line.as_bytes()), expected, "{line}");
        }
    }
}
