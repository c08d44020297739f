//! Any text as a configuration: a mistake has its place in it, and what is taken is read again
//! as the same.

use conntally::config::{Environment, File, parse};

fn read(text: &str) -> Result<conntally::config::Config, Vec<String>> {
    let file = File {
        path: "conntally.toml".into(),
        text: text.to_owned(),
    };
    let environment = Environment::of(&[("PORT", "9125")]);
    parse(&[file], &environment).map_err(|wrong| wrong.iter().map(ToString::to_string).collect())
}

pub(crate) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match read(&text) {
        Ok(config) => {
            let printed = toml::to_string(&config).expect("what was read can be printed");
            // What came of `$${` would be a variable's beginning.
            if !printed.contains("${") {
                assert_eq!(read(&printed), Ok(config));
            }
        }
        Err(wrong) => assert!(!wrong.is_empty()),
    }
}
