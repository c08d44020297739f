use proptest::prelude::*;

use super::*;

const MAX_FRAME: usize = 16;

fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// Everything that comes of a stream that arrives in these pieces; runs of
/// lines are taken apart, since where they end is a matter of how bytes came.
fn cut_all<'a>(
    framing: Framing,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Cut<Vec<u8>>>, Option<FrameDrop>) {
    let mut framer = Framer::new(framing, MAX_FRAME);
    let mut cuts = Vec::new();
    let mut kept: Vec<u8> = Vec::new();
    let mut take = |framer: &Framer, cut: Cut<&[u8]>| match cut {
        Cut::Body(lines) if framer.framing() == Framing::Newline => {
            assert!(lines.len() <= MAX_FRAME + 1);
            cuts.extend(
                lines
                    .split_inclusive(|&byte| byte == b'\n')
                    .map(|line| Cut::Body(line.to_vec())),
            );
        }
        Cut::Body(body) => cuts.push(Cut::Body(body.to_vec())),
        Cut::Oversized => cuts.push(Cut::Oversized),
        Cut::Truncated => cuts.push(Cut::Truncated),
    };
    for piece in pieces {
        kept.extend_from_slice(piece);
        let mut rest: &[u8] = &kept;
        loop {
            match framer.cut(&mut rest) {
                Ok(Some(cut)) => take(&framer, cut),
                Ok(None) => break,
                Err(error) => return (cuts, error.reason()),
            }
        }
        assert!(rest.len() < MAX_FRAME + PREFIX_BYTES);
        kept = rest.to_vec();
    }
    if let Some(cut) = framer.finish(&kept) {
        take(&framer, cut);
    }
    (cuts, None)
}

fn cut_whole(framing: Framing, stream: &[u8]) -> (Vec<Cut<Vec<u8>>>, Option<FrameDrop>) {
    cut_all(framing, [stream])
}

fn body(text: &str) -> Cut<Vec<u8>> {
    Cut::Body(text.into())
}

#[test]
fn frames_are_cut_by_their_prefix() {
    let stream = [frame(b"a:1|c"), frame(b"b:2|g\nc:3|g\n")].concat();
    let expected = (vec![body("a:1|c"), body("b:2|g\nc:3|g\n")], None);
    assert_eq!(cut_whole(Framing::Length, &stream), expected);
    assert_eq!(cut_whole(Framing::Auto, &stream), expected);
}

#[test]
fn an_empty_frame_is_a_sign_of_life() {
    let stream = [frame(b""), frame(b"a:1|c"), frame(b""), frame(b"")].concat();
    assert_eq!(
        cut_whole(Framing::Auto, &stream),
        (vec![body("a:1|c")], None)
    );
}

#[test]
fn an_oversized_frame_costs_only_itself() {
    let stream = [frame(b"a:1|c"), frame(&[b'x'; 5000]), frame(b"b:2|g")].concat();
    assert_eq!(
        cut_whole(Framing::Auto, &stream),
        (vec![body("a:1|c"), Cut::Oversized, body("b:2|g")], None)
    );
}

#[test]
fn a_frame_beyond_what_is_skipped_ends_the_stream() {
    let length = u32::try_from(SKIP_LIMIT_BYTES).unwrap() + 1;
    let stream = [frame(b"a:1|c"), length.to_le_bytes().to_vec()].concat();
    assert_eq!(
        cut_whole(Framing::Auto, &stream),
        (vec![body("a:1|c")], Some(FrameDrop::Oversized))
    );
}

#[test]
fn text_where_a_prefix_is_asked_for_ends_the_stream() {
    assert_eq!(
        cut_whole(Framing::Length, b"a:1|c\n"),
        (vec![], Some(FrameDrop::Unframed))
    );
}

#[test]
fn a_frame_that_the_stream_ends_in_is_truncated() {
    for cut in 1..9 {
        let stream = frame(b"a:1|c");
        assert_eq!(
            cut_whole(Framing::Length, &stream[..cut]),
            (vec![Cut::Truncated], None),
            "{cut}"
        );
    }
    let mut stream = frame(&[b'x'; 5000]);
    stream.truncate(100);
    assert_eq!(
        cut_whole(Framing::Length, &stream),
        (vec![Cut::Oversized], None)
    );
}

#[test]
fn lines_need_no_prefix_and_the_last_no_newline() {
    assert_eq!(
        cut_whole(Framing::Auto, b"a:1|c\nb:2|g\r\nc:3|g"),
        (
            vec![body("a:1|c\n"), body("b:2|g\r\n"), body("c:3|g")],
            None
        )
    );
    assert_eq!(cut_whole(Framing::Auto, b"a:1"), (vec![body("a:1")], None));
    assert_eq!(cut_whole(Framing::Auto, b""), (vec![], None));
}

#[test]
fn an_oversized_line_costs_only_itself() {
    let long = "x".repeat(MAX_FRAME + 1);
    let longest = "y".repeat(MAX_FRAME);
    let stream = format!("a:1|c\n{long}\n{longest}\n{long}{long}\nb:2|g\n{long}");
    assert_eq!(
        cut_whole(Framing::Auto, stream.as_bytes()),
        (
            vec![
                body("a:1|c\n"),
                Cut::Oversized,
                body(&format!("{longest}\n")),
                Cut::Oversized,
                body("b:2|g\n"),
                Cut::Oversized,
            ],
            None
        )
    );
    let endless = "x".repeat(SKIP_LIMIT_BYTES + 1);
    let (cuts, error) = cut_all(Framing::Auto, endless.as_bytes().chunks(MAX_FRAME + 1));
    assert_eq!(
        (cuts, error),
        (vec![Cut::Oversized], Some(FrameDrop::Oversized))
    );
}

#[test]
fn a_length_that_looks_like_a_newline_is_a_length() {
    let stream = frame(b"aaaaa:1|ms");
    assert_eq!(stream.first(), Some(&b'\n'));
    assert_eq!(
        cut_all(Framing::Auto, stream.chunks(1)),
        (vec![body("aaaaa:1|ms")], None)
    );
}

/// Streams: frames or lines, of sizes around the limit, and at times cut short.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let body = prop::collection::vec(prop::sample::select(&b"a:1|c\n\r\0"[..]), 0..40);
    let frames = prop::collection::vec(body.prop_map(|body| frame(&body)), 0..12);
    let lines = prop::collection::vec("[a:1|\n]{0,40}\n", 0..12);
    prop_oneof![
        frames.prop_map(|frames| frames.concat()),
        lines.prop_map(|lines| lines.concat().into_bytes()),
        any::<Vec<u8>>(),
    ]
    .prop_flat_map(|stream| {
        let length = stream.len();
        (Just(stream), 0..=length)
    })
    .prop_map(|(mut stream, length)| {
        if length % 3 == 0 {
            stream.truncate(length);
        }
        stream
    })
}

fn framings() -> impl Strategy<Value = Framing> {
    prop::sample::select(vec![Framing::Auto, Framing::Length, Framing::Newline])
}

proptest! {
    /// What comes of a stream does not depend on how its bytes are split.
    #[test]
    fn prop_framing_is_independent_of_splits(
        stream in streams(),
        framing in framings(),
        sizes in prop::collection::vec(1_usize..24, 1..8),
    ) {
        let mut pieces = Vec::new();
        let mut rest = &stream[..];
        for &size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, next) = rest.split_at(size.min(rest.len()));
            pieces.push(piece);
            rest = next;
        }
        prop_assert_eq!(cut_all(framing, pieces), cut_whole(framing, &stream));
    }

    /// The decoder cuts as the framer does.
    #[test]
    fn prop_the_decoder_agrees(stream in streams(), framing in framings()) {
        let mut framer = Framer::new(framing, MAX_FRAME);
        let mut decoder = framer.clone();
        let mut input = BytesMut::from(&stream[..]);
        let mut rest = &stream[..];
        let mut ended = false;
        while !ended {
            let decoded = decoder.decode_eof(&mut input);
            let cut = match framer.cut(&mut rest) {
                Ok(None) => {
                    ended = true;
                    Ok(framer.finish(rest))
                }
                cut => cut,
            };
            match (cut, decoded) {
                (Ok(Some(Cut::Body(body))), Ok(Some(Cut::Body(decoded)))) => prop_assert_eq!(body, decoded),
                (Ok(Some(Cut::Oversized)), Ok(Some(Cut::Oversized)))
                | (Ok(Some(Cut::Truncated)), Ok(Some(Cut::Truncated)))
                | (Ok(None), Ok(None)) => {}
                (Err(error), Err(decoded)) => {
                    prop_assert_eq!(error.reason(), decoded.reason());
                    ended = true;
                }
                (cut, decoded) => prop_assert!(false, "{:?} but {:?}", cut, decoded),
            }
        }
    }
}
