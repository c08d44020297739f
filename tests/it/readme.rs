//! The README's commands, run in their order as they stand there.
//!
//! They run as root in a tree that is this system's with another layer on top (overlayfs), in
//! a network namespace with flows of its own; nothing of it is left behind. What stands in
//! for programs that can't do their work there is in `readme/`, with the reason.

use std::fs;
use std::path::Path;

use crate::support::daemon::{Program, binary, clean};
use crate::support::netns::{isolated, run, track};
use crate::support::tools::skip;

const TEST: &str = "every_command_of_the_readme_runs";

/// The first lines of the blocks of commands, in their order. Whoever writes another adds it
/// here, once the tree has what it takes (`readme/tree`).
const BLOCKS: [&str; 12] = [
    "$ conntally snapshot",
    "sudo apt install ./conntally_0.1.0-1_amd64.deb  # or: sudo dnf install ./conntally-0.1.0-1.x86_64.rpm",
    "sudo systemctl stop conntally",
    "cargo run --release -- run      # counts this host's connections, prints metric lines each tick",
    "python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"/run/conntally/dsd_stream.socket\"); s.sendall(b\"page.views:1|c|#page:home\\n\")'",
    "$ conntally top",
    "$ conntally connections --host db-primary,10.0.0.0/8 --state opening",
    "$ conntally status",
    "$ conntally clients --sort bad-lines --top 2",
    "curl --unix-socket /run/conntally/admin.sock http://conntally/collector",
    "sudo setcap cap_net_admin+ep target/release/conntally",
    "sudo install -D -m 644 -t /etc/systemd/system/conntally.service.d \\",
];

/// A block between fences.
struct Block<'a> {
    /// What the fence says.
    language: &'a str,
    lines: Vec<&'a str>,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                let lines = Vec::new();
                open = Some(Block { language, lines });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push(line),
            (None, None) => {}
        }
    }
    blocks
}

impl Block<'_> {
    fn has_commands(&self) -> bool {
        matches!(self.language, "sh" | "console")
    }

    /// The commands, without what a console shows of their output.
    fn script(&self) -> String {
        let lines = self.lines.iter();
        let commands = lines.filter_map(|line| match self.language {
            "console" => line.strip_prefix("$ "),
            _ => Some(line),
        });
        commands.flat_map(|line| [line, "\n"]).collect()
    }

    /// What a console shows of tables: the headers.
    fn headers(&self) -> impl Iterator<Item = String> {
        let is_header = |line: &&&str| {
            let mut letters = line.chars().filter(|c| c.is_alphabetic()).peekable();
            letters.peek().is_some() && letters.all(char::is_uppercase)
        };
        let is_console = self.language == "console";
        let lines = self.lines.iter().filter(move |_| is_console);
        lines.filter(is_header).map(|line| words(line))
    }
}

/// A line whose columns stand one blank apart.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    fs::read_to_string(path).unwrap()
}

#[test]
fn every_block_of_commands_is_known() {
    let text = readme();
    let blocks = blocks(&text);
    for block in &blocks {
        let commands = block.lines.iter().any(|line| line.starts_with("$ "));
        assert!(
            !commands || block.language == "console",
            "a block with commands is no ```console: {}",
            block.lines[0]
        );
    }
    let commands = blocks.iter().filter(|block| block.has_commands());
    let first: Vec<&str> = commands.map(|block| block.lines[0]).collect();
    assert_eq!(first, BLOCKS, "see the list in tests/it/readme.rs");
}

#[test]
fn every_command_of_the_readme_runs() {
    if !rustix::process::geteuid().is_root() {
        return skip(TEST, "not root");
    }
    let programs = [
        "unshare",
        "conntrack",
        "curl",
        "setcap",
        "python3",
        "nft",
        "tmux",
    ];
    isolated(&programs, || {
        track();
        run("ip address add 10.0.0.1/32 dev lo");
        // The connection that the README shows.
        run(
            "conntrack -I -p tcp -s 10.0.0.1 -d 10.0.0.7 --sport 40001 --dport 5432 \
             --state SYN_SENT -t 600",
        );
        let text = readme();
        let blocks = blocks(&text);
        let commands = blocks.iter().filter(|block| block.has_commands());
        let script: String = commands.map(|block| block.script() + "mark\n").collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("script");
        fs::write(&path, format!("mark() {{ echo '== next'; }}\n{script}")).unwrap();

        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = clean("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh"]);
        command.arg(here.join("tests/it/readme/tree"));
        command.args([directory.path(), &binary(), here, &path]);
        let ended = Program::start(&mut command).wait();
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.code, Some(0), "{said}");
        let parts: Vec<&str> = ended.stdout.split("== next\n").collect();
        assert_eq!(parts.len(), BLOCKS.len() + 1, "{said}");

        let commands = blocks.iter().filter(|block| block.has_commands());
        for (block, part) in commands.zip(&parts) {
            for header in block.headers() {
                let shown = part.lines().any(|line| words(line) == header);
                assert!(shown, "no header {header:?} in\n{part}\n{}", ended.stderr);
            }
        }
        let row = "syn_sent tcp outbound 10.0.0.7 10.0.0.1:40001 10.0.0.7:5432";
        assert!(parts[6].lines().any(|line| words(line) == row), "{said}");
        assert!(parts[0].contains("conntrack.connections:1|g|"), "{said}");
        assert!(
            parts[11 + 1].contains("\npage.views:1|c|#page:home"),
            "{said}"
        );
    });
}
