//! Any bytes as a line: the check and the view agree, and what is forwarded is
//! still a message.

use conntally::config::{Listener, OriginChoice};
use conntally::forward::Forward;
use conntally::listen::origin::Origin;
use conntally::message::{Message, Run, check, check_lines};

pub(crate) fn run(body: &[u8]) {
    let config = Listener {
        tags: vec!["added:1".to_owned()],
        drop_tags: vec!["a*".to_owned()],
        rename: [("a".to_owned(), "_".to_owned())].into(),
        ..Listener::default()
    };
    let origin = Origin {
        container: Some("added".into()),
        pod: Some("added".into()),
    };
    let forward = Forward::new(&config).expect("valid rules");
    let forward = [OriginChoice::Field, OriginChoice::Tags]
        .map(|choice| forward.with_origin(&origin, choice));
    let mut written = Vec::new();
    check_lines(body, |run| {
        let lines = match run {
            Run::Lines(lines, _) => lines.strip_suffix(b"\n").expect("a newline"),
            Run::Bare(line) => line,
            Run::Bad(line, reason) => {
                assert_eq!(Message::parse(line), Err(reason));
                return;
            }
        };
        for line in lines.split(|&byte| byte == b'\n') {
            let kind = check(line);
            assert!(kind.is_ok());
            assert_eq!(Message::parse(line).map(|message| message.kind()), kind);
            for forward in &forward {
                written.clear();
                forward.write(line, &mut written);
                let written = written.strip_suffix(b"\n").expect("a newline");
                assert_eq!(check(written), kind);
            }
        }
    });
}
