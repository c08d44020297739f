//! The man pages: of section 1 from the arguments that the program takes, of section 5 from
//! the configuration that it ships.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::{Page, reference};
use crate::cli::{DEFAULT_CONFIG, Exit};

/// What `man` shows below each page.
const SOURCE: &str = concat!("conntally ", env!("CARGO_PKG_VERSION"));

const EXITS: [(Exit, &str); 7] = [
    (Exit::Fine, "All went well."),
    (Exit::Other, "Anything that has no number of its own."),
    (Exit::Usage, "The arguments are wrong."),
    (Exit::NoFile, "There is no such file, or network namespace."),
    (Exit::NotRunning, "The daemon is not running."),
    (
        Exit::Permission,
        "A capability or permission is missing; the message names it.",
    ),
    (Exit::Config, "The configuration is wrong."),
];

const FILES: [(&str, &str); 4] = [
    (
        DEFAULT_CONFIG,
        "The configuration, where --config does not name another.",
    ),
    (
        "/etc/conntally/conf.d/*.toml",
        "Merged into it, in the order of their names.",
    ),
    (
        "/run/conntally",
        "The sockets that local programs send to, and the daemon's own.",
    ),
    ("/var/lib/conntally", "Where an output's spool may be kept."),
];

/// Every page.
pub(super) fn pages(command: &Command) -> io::Result<Vec<Page>> {
    let mut pages = vec![reference::page(SOURCE)?];
    add(command, &mut pages)?;
    Ok(pages)
}

/// Adds the page of a command, and those of the commands below it.
fn add(command: &Command, pages: &mut Vec<Page>) -> io::Result<()> {
    let man = Man::new(command.clone()).source(SOURCE).manual("conntally");
    let mut text = Vec::new();
    man.render(&mut text)?;
    let more = if command.get_name() == "conntally" {
        below_all()
    } else {
        let mut more = Roff::new();
        more.control("SH", ["SEE ALSO"]).text([
            bold("conntally"),
            roman("(1), "),
            bold("conntally.toml"),
            roman("(5)"),
        ]);
        more
    };
    text.extend_from_slice(more.to_roff().as_bytes());
    let name = man.get_filename();
    pages.push(Page { name, text });
    for below in command.get_subcommands() {
        add(below, pages)?;
    }
    Ok(())
}

/// What the page of the program has below what clap knows.
fn below_all() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (exit, meaning) in EXITS {
        let code = (exit as u8).to_string();
        roff.control("TP", [])
            .text([bold(code)])
            .text([roman(meaning)]);
    }
    roff.control("SH", ["FILES"]);
    for (path, what) in FILES {
        roff.control("TP", [])
            .text([italic(path)])
            .text([roman(what)]);
    }
    roff.control("SH", ["SEE ALSO"]).text([
        bold("conntally.toml"),
        roman("(5), "),
        bold("conntrack"),
        roman("(8)"),
    ]);
    roff
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::generate::command;

    fn all() -> Vec<(String, String)> {
        let pages = pages(&command()).unwrap().into_iter();
        pages
            .map(|page| (page.name, String::from_utf8(page.text).unwrap()))
            .collect()
    }

    #[test]
    fn every_command_has_a_page_and_each_page_names_itself() {
        let pages = all();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in [
            "conntally.toml.5",
            "conntally.1",
            "conntally-generate-man.1",
        ] {
            assert!(names.contains(&name), "{names:?}");
        }
        for below in command().get_subcommands() {
            let name = format!("conntally-{}.1", below.get_name());
            assert!(names.contains(&name.as_str()), "no {name} in {names:?}");
        }
        for (name, text) in &pages {
            let title = name.rsplit_once('.').unwrap().0.replace('-', "\\-");
            let heading = format!(".SH NAME\n{title} \\- ");
            assert!(text.contains(&heading), "no {heading:?} in {name}:\n{text}");
        }
    }

    #[test]
    fn the_page_of_the_program_tells_every_exit_code() {
        let (_, text) = all()
            .into_iter()
            .find(|(name, _)| name == "conntally.1")
            .unwrap();
        for code in [0, 1, 64, 66, 69, 77, 78] {
            assert!(
                text.contains(&format!(".TP\n\\fB{code}\\fR\n")),
                "{code}: {text}"
            );
        }
    }
}
