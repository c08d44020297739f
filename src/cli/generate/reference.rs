//! conntally.toml(5), from the configuration that is shipped: a test holds that to the code.

use std::io;

use clap_mangen::roff::{Roff, bold, italic, roman};

use super::Page;
use crate::cli::DEFAULT_CONFIG;

/// What is shipped, every key at its default and with its comment.
const SHIPPED: &str = include_str!("../../../config/conntally.toml");

/// A line of the shipped file.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Empty,
    /// `[table]` or `[[table]]`, and what is said of it.
    Table(&'a str, &'a str),
    /// `key = value`, also where that is a comment, and what is said of it.
    Key(&'a str, &'a str),
    /// Any other comment.
    Text(&'a str),
}

impl<'a> From<&'a str> for Line<'a> {
    fn from(line: &'a str) -> Self {
        let text = line.trim_start_matches("# ").trim_start_matches('#');
        let (content, remark) = remark(text);
        if content.is_empty() && remark.is_empty() {
            Self::Empty
        } else if line.starts_with('[') {
            Self::Table(content, remark)
        } else if is_key(content) {
            Self::Key(content, remark)
        } else {
            Self::Text(text)
        }
    }
}

/// A line without its comment, and the comment.
fn remark(line: &str) -> (&str, &str) {
    let mut quoted = false;
    let beginning = line.char_indices().find(|&(_, character)| {
        quoted ^= character == '"';
        character == '#' && !quoted
    });
    let (content, remark) = beginning.map_or((line, ""), |(place, _)| line.split_at(place));
    (content.trim(), remark.trim_start_matches('#').trim())
}

/// Whether this is `key = value`, and no sentence.
fn is_key(text: &str) -> bool {
    let key = text.split_once(" = ").map(|(key, _)| key);
    key.is_some_and(|key| !key.is_empty() && (key.starts_with('"') || !key.contains(' ')))
}

/// The page.
pub(super) fn page(source: &str) -> io::Result<Page> {
    let mut roff = Roff::new();
    roff.control("TH", ["conntally.toml", "5", "", source, "conntally"])
        .control("SH", ["NAME"])
        .text([roman("conntally.toml - the configuration of conntally")])
        .control("SH", ["SYNOPSIS"])
        .text([italic(DEFAULT_CONFIG)])
        .control("br", [])
        .text([italic("/etc/conntally/conf.d/*.toml")])
        .control("SH", ["DESCRIPTION"]);
    let mut in_keys = false;
    for line in SHIPPED.lines().map(Line::from) {
        match line {
            Line::Empty if in_keys => {}
            Line::Empty => {
                roff.control("PP", []);
            }
            Line::Table(name, remark) => {
                in_keys = true;
                roff.control("SH", [name]);
                say(&mut roff, remark);
            }
            Line::Key(assignment, remark) => {
                if !in_keys {
                    in_keys = true;
                    roff.control("SH", ["GENERAL"]);
                }
                roff.control("TP", []).text([bold(assignment)]);
                say(&mut roff, remark);
            }
            Line::Text(text) => say(&mut roff, text),
        }
    }
    roff.control("SH", ["SEE ALSO"]).text([
        bold("conntally"),
        roman("(1), "),
        bold("conntally-check"),
        roman("(1)"),
    ]);
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    Ok(Page {
        name: "conntally.toml.5".to_owned(),
        text,
    })
}

fn say(roff: &mut Roff, text: &str) {
    if !text.is_empty() {
        roff.text([roman(text)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_configuration_is_told_apart_from_what_is_said_of_it() {
        for (line, expected) in [
            ("", Line::Empty),
            ("#", Line::Empty),
            (
                "# is an error; [[output]] is added.",
                Line::Text("is an error; [[output]] is added."),
            ),
            (
                "[hosts.groups]  # network = name: one",
                Line::Table("[hosts.groups]", "network = name: one"),
            ),
            (
                "a = \"x#y\" # its #remark",
                Line::Key("a = \"x#y\"", "its #remark"),
            ),
            ("b = []", Line::Key("b = []", "")),
            (
                "# c = \"1B\" # default: 1B",
                Line::Key("c = \"1B\"", "default: 1B"),
            ),
            (
                "# \"10.0.0.0/8\" = \"a\"",
                Line::Key("\"10.0.0.0/8\" = \"a\"", ""),
            ),
        ] {
            assert_eq!(Line::from(line), expected, "{line}");
        }
    }

    #[test]
    fn every_key_is_shown_at_its_default_in_its_table() {
        let page = String::from_utf8(page("conntally").unwrap().text).unwrap();
        let (general, tables) = page.split_once("\n.SH [collector]\n").unwrap();
        assert!(
            general.contains("\n.SH GENERAL\n.TP\n\\fBinterval = \"10s\"\\fR\na tick: "),
            "{page}"
        );
        assert!(
            tables.contains("\n.SH [[output]]\n.TP\n\\fBaddress = "),
            "{page}"
        );
        let keys = SHIPPED
            .lines()
            .filter(|line| matches!(Line::from(*line), Line::Key(..)));
        assert_eq!(page.matches("\n.TP\n").count(), keys.count());
        let live = toml::from_str::<toml::Table>(SHIPPED).unwrap();
        for (name, value) in live {
            let in_table = value.as_table().cloned().unwrap_or_default();
            for key in in_table
                .keys()
                .filter(|key| in_table[*key].as_table().is_none())
            {
                assert!(
                    page.contains(&format!(".TP\n\\fB{key} = ")),
                    "{name}.{key}: {page}"
                );
            }
        }
    }
}
