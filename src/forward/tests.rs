use proptest::prelude::*;

use super::*;
use crate::message::{Message, check, line_strategy};

fn forward(tags: &[&str], container: Option<&str>) -> Forward {
    let forward = Forward::new(&config::Listener {
        tags: tags.iter().map(ToString::to_string).collect(),
        ..config::Listener::default()
    })
    .unwrap();
    container.map_or_else(|| forward.clone(), |id| in_container(&forward, id))
}

fn in_container(forward: &Forward, id: &str) -> Forward {
    let origin = Origin {
        container: Some(id.into()),
        pod: None,
    };
    forward.with_origin(&origin, OriginChoice::Field)
}

fn written(forward: &Forward, line: &str) -> String {
    let mut out = Vec::new();
    forward.write(line.as_bytes(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn tags_are_merged_or_appended() {
    let forward = forward(&["env:prod", "team:a"], None);
    for (line, expected) in [
        ("a:1|c", "a:1|c|#env:prod,team:a\n"),
        ("a:1|c|#x:y", "a:1|c|#x:y,env:prod,team:a\n"),
        ("a:1|c|#", "a:1|c|#env:prod,team:a\n"),
        ("a:1|c|#x,", "a:1|c|#x,env:prod,team:a\n"),
        ("a:1|c|#x:y|@0.5|zz", "a:1|c|#x:y,env:prod,team:a|@0.5|zz\n"),
        ("a:1|c|#x|#y|T1", "a:1|c|#x|#y,env:prod,team:a|T1\n"),
        (
            "_e{1,3}:t|a|#|p:low",
            "_e{1,3}:t|a|#|p:low|#env:prod,team:a\n",
        ),
        (
            "_sc|n|0|m:all well",
            "_sc|n|0|#env:prod,team:a|m:all well\n",
        ),
        (
            "_sc|n|0|#x|m:all well",
            "_sc|n|0|#x,env:prod,team:a|m:all well\n",
        ),
        (
            "_sc|n|0|m:well|#x|d:1",
            "_sc|n|0|m:well|#x,env:prod,team:a|d:1\n",
        ),
        ("_sc|n|0", "_sc|n|0|#env:prod,team:a\n"),
    ] {
        assert_eq!(written(&forward, line), expected);
    }
}

#[test]
fn the_container_is_named_where_the_line_does_not_say_whose_it_is() {
    let forward = forward(&[], Some("abc"));
    for (line, expected) in [
        ("a:1|c", "a:1|c|c:ci-abc\n"),
        ("a:1|c|#x:y", "a:1|c|#x:y|c:ci-abc\n"),
        ("a:1|c|card:low", "a:1|c|card:low|c:ci-abc\n"),
        ("a:1|c|c:in-7", "a:1|c|c:in-7\n"),
        ("a:1|c|e:it-false|#x", "a:1|c|e:it-false|#x\n"),
        ("_sc|n|0|m:well", "_sc|n|0|c:ci-abc|m:well\n"),
        ("_sc|n|0|m:well|#x", "_sc|n|0|c:ci-abc|m:well|#x\n"),
        ("_e{1,1}:t|a", "_e{1,1}:t|a|c:ci-abc\n"),
    ] {
        assert_eq!(written(&forward, line), expected);
    }
}

#[test]
fn both_are_added_in_one_go() {
    let forward = forward(&["env:prod"], Some("abc"));
    assert_eq!(
        written(&forward, "a:1|c|#x|@1"),
        "a:1|c|#x,env:prod|@1|c:ci-abc\n"
    );
    assert_eq!(
        written(&forward, "_sc|n|0|m:w|#x"),
        "_sc|n|0|c:ci-abc|m:w|#x,env:prod\n"
    );
    assert_eq!(
        written(&forward, "_sc|n|0|m:w"),
        "_sc|n|0|#env:prod|c:ci-abc|m:w\n"
    );
}

#[test]
fn an_origin_is_told_in_tags_where_no_tag_does() {
    let origin = |container: Option<&str>, pod: Option<&str>| Origin {
        container: container.map(Into::into),
        pod: pod.map(Into::into),
    };
    let told = |origin: &Origin, tags: &[&str], line: &str| {
        let forward = forward(tags, None).with_origin(origin, OriginChoice::Tags);
        written(&forward, line)
    };
    let both = origin(Some("abc"), Some("u-1"));
    for (line, expected) in [
        ("a:1|c", "a:1|c|#container_id:abc,pod_uid:u-1\n"),
        (
            "a:1|c|#x:y|@1",
            "a:1|c|#x:y,container_id:abc,pod_uid:u-1|@1\n",
        ),
        // A client says so of itself, to whoever understands it.
        (
            "a:1|c|c:ci-abc",
            "a:1|c|c:ci-abc|#container_id:abc,pod_uid:u-1\n",
        ),
        ("a:1|c|#container_id:z", "a:1|c|#container_id:z\n"),
        ("a:1|c|#x,pod_uid:z,y", "a:1|c|#x,pod_uid:z,y\n"),
        (
            "a:1|c|#my_container_id:z",
            "a:1|c|#my_container_id:z,container_id:abc,pod_uid:u-1\n",
        ),
        ("_sc|n|0|m:w", "_sc|n|0|#container_id:abc,pod_uid:u-1|m:w\n"),
    ] {
        assert_eq!(told(&both, &[], line), expected);
    }
    let tagged = told(&both, &["env:prod"], "a:1|c|#container_id:z");
    assert_eq!(tagged, "a:1|c|#container_id:z,env:prod\n");
    let tagged = told(&origin(Some("abc"), None), &["env:prod"], "a:1|c");
    assert_eq!(tagged, "a:1|c|#env:prod,container_id:abc\n");
    assert_eq!(
        told(&origin(None, Some("u")), &[], "a:1|c"),
        "a:1|c|#pod_uid:u\n"
    );
    assert_eq!(told(&Origin::default(), &[], "a:1|c"), "a:1|c\n");
}

#[test]
fn a_text_that_would_not_stay_a_tag_is_refused() {
    for tag in ["", "a,b", "a|b", "a\nb"] {
        let config = config::Listener {
            tags: vec![tag.to_owned()],
            ..config::Listener::default()
        };
        let error = Forward::new(&config).unwrap_err().to_string();
        assert!(error.contains("is not a tag"), "{error}");
    }
}

#[test]
fn what_is_dropped_is_dropped_of_the_senders_tags_alone() {
    let edited = Forward::new(&config::Listener {
        tags: vec!["env:prod".to_owned()],
        rename: [("old.".to_owned(), "new.".to_owned())].into(),
        drop_tags: vec!["env".to_owned()],
        ..config::Listener::default()
    })
    .unwrap();
    let forward = in_container(&edited, "abc");
    assert!(!forward.is_identity());
    for (line, expected) in [
        ("old.a:1|c", "new.a:1|c|#env:prod|c:ci-abc\n"),
        ("old.a:1|c|#env:dev", "new.a:1|c|#env:prod|c:ci-abc\n"),
        ("a:1|c|#env:dev,x|@1", "a:1|c|#x,env:prod|@1|c:ci-abc\n"),
    ] {
        assert_eq!(written(&forward, line), expected);
    }
}

proptest! {
    /// A line without anything to add goes byte for byte.
    #[test]
    fn prop_nothing_to_add_changes_nothing(line in line_strategy()) {
        prop_assert_eq!(written(&forward(&[], None), &line), format!("{line}\n"));
    }

    /// What is written is still a message of the same kind, and without the
    /// additions it is the line that came.
    #[test]
    fn prop_all_but_the_additions_stays_byte_for_byte(line in line_strategy()) {
        let written = written(&forward(&["added:1"], Some("added")), &line);
        let written = written.strip_suffix('\n').unwrap();
        prop_assert_eq!(check(written.as_bytes()), check(line.as_bytes()));
        let message = Message::parse(written.as_bytes()).unwrap();
        prop_assert!(message.tags().iter().any(|tag| tag == b"added:1"), "{}", written);
        let without = written.replacen("|c:ci-added", "", 1);
        let taken_out = [",added:1", "added:1", "|#added:1"]
            .iter()
            .any(|added| without.replacen(added, "", 1) == line);
        prop_assert!(taken_out, "{:?} became {:?}", line, written);
    }
}
