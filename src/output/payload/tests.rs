use proptest::prelude::*;

use super::*;

const DELIMITERS: [Delimiter; 4] = [
    Delimiter::Datagram,
    Delimiter::LengthPrefix,
    Delimiter::Auto,
    Delimiter::Newline,
];

/// Packs each batch of lines, and seals at the end.
fn pack(shape: Shape, batches: &[Vec<String>]) -> (Vec<Chunk>, u64) {
    let mut chunks = vec![Chunk::new(shape)];
    let mut oversized = 0;
    for batch in batches {
        let text = batch.concat();
        let (mut lines, mut count) = (text.as_bytes(), batch.len() as u64);
        while count > 0 {
            if chunks.last().unwrap().is_full() {
                chunks.push(Chunk::new(shape));
            }
            let chunk = chunks.last_mut().unwrap();
            let before = chunk.bytes();
            let done = chunk.append(&mut lines, &mut count);
            assert_eq!(chunk.bytes() - before, done.bytes);
            oversized += done.oversized;
        }
        assert!(lines.is_empty());
    }
    chunks.last_mut().unwrap().seal();
    (chunks, oversized)
}

/// The payloads, as datagrams.
fn payloads(mut chunk: Chunk) -> Vec<(Vec<u8>, u64)> {
    let mut all = Vec::new();
    while let Some(payload) = chunk.next_payload() {
        let payload = payload.to_vec();
        let passed = chunk.pass_payload();
        assert_eq!(passed.payloads, 1);
        assert_eq!(passed.bytes, payload.len() as u64);
        all.push((payload, passed.lines));
    }
    assert_eq!(chunk.lines(), 0);
    all
}

/// A payload's lines, each with its newline: one that just fits goes without.
fn with_newline(mut payload: Vec<u8>, limit: usize) -> Vec<u8> {
    if payload.last() != Some(&b'\n') {
        assert_eq!(payload.len(), limit);
        assert_eq!(count_lines(&payload), 0);
        payload.push(b'\n');
    }
    payload
}

/// Batches of lines, some of them longer than the limit; the limit.
fn batches() -> impl Strategy<Value = (usize, Vec<Vec<String>>)> {
    (1_usize..200).prop_flat_map(|limit| {
        let line = prop::collection::vec(prop::char::range('a', 'z'), 0..limit + limit / 4 + 1)
            .prop_map(|text| text.into_iter().chain(['\n']).collect::<String>());
        let batch = prop::collection::vec(line, 0..12);
        (Just(limit), prop::collection::vec(batch, 0..12))
    })
}

/// What a stream receiver makes of one connection: its whole frames or lines.
fn received(delimiter: Delimiter, limit: usize, mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    if delimiter == Delimiter::Newline {
        let end = memrchr(b'\n', bytes).map_or(0, |newline| newline + 1);
        return bytes[..end].to_vec();
    }
    while let Some((prefix, rest)) = bytes.split_first_chunk() {
        let length = u32::from_le_bytes(*prefix) as usize;
        let Some((frame, rest)) = rest.split_at_checked(length) else {
            break;
        };
        all.extend(with_newline(frame.to_vec(), limit));
        bytes = rest;
    }
    all
}

proptest! {
    /// Payloads keep the limit, and together they are the lines that came, in order,
    /// but for those that no payload can hold.
    #[test]
    fn prop_payloads_hold_every_line_in_order_within_the_limit(
        (limit, batches) in batches(),
        delimiter in prop::sample::select(&DELIMITERS[..]),
    ) {
        let (chunks, oversized) = pack(Shape { limit, delimiter }, &batches);
        let mut out = Vec::new();
        for (payload, lines) in chunks.into_iter().flat_map(payloads) {
            prop_assert!(payload.len() <= limit);
            let payload = with_newline(payload, limit);
            prop_assert_eq!(count_lines(&payload), lines);
            out.extend_from_slice(&payload);
        }
        let lines = batches.iter().flatten();
        let (fits, large): (Vec<_>, Vec<_>) = lines.partition(|line| {
            line.len() <= limit || line.len() == limit + 1 && delimiter != Delimiter::Newline
        });
        prop_assert_eq!(large.len() as u64, oversized);
        prop_assert_eq!(out, fits.into_iter().flat_map(|line| line.bytes()).collect::<Vec<_>>());
    }

    /// However writes are cut and whenever connections die, the receivers together
    /// see each line once, and the count of what went agrees at every step.
    #[test]
    fn prop_a_lost_connection_neither_loses_nor_repeats_what_went_whole(
        (limit, batches) in batches(),
        delimiter in prop::sample::select(vec![Delimiter::LengthPrefix, Delimiter::Newline]),
        writes in prop::collection::vec((1_usize..300, prop::bool::weighted(0.2)), 1..60),
    ) {
        let (chunks, _) = pack(Shape { limit, delimiter }, &batches);
        let mut writes = writes.into_iter();
        let (mut seen, mut connection) = (Vec::new(), Vec::new());
        let (mut wanted, mut bytes, mut ended) = (Vec::new(), 0, 0);
        for mut chunk in chunks {
            let (total, sealed) = (chunk.lines(), chunk.payloads.len() as u64);
            let (all, mut lines) = (chunk.unwritten().to_vec(), 0);
            wanted.extend(received(delimiter, limit, &all));
            while !chunk.unwritten().is_empty() {
                let (size, dies) = writes.next().unwrap_or((usize::MAX, false));
                let part = chunk.unwritten();
                let part = &part[..size.min(part.len())];
                connection.extend_from_slice(part);
                let passed = chunk.wrote(part.len());
                lines += passed.lines;
                bytes += passed.bytes;
                ended += passed.payloads;
                prop_assert_eq!(lines + chunk.lines(), total);
                prop_assert_eq!(
                    count_lines(&seen) + count_lines(&received(delimiter, limit, &connection)),
                    count_lines(&wanted) - chunk.lines()
                );
                if dies {
                    seen.extend(received(delimiter, limit, &connection));
                    connection.clear();
                    chunk.rewind();
                }
            }
            prop_assert_eq!(ended, sealed);
            prop_assert_eq!(bytes, all.len() as u64);
            (bytes, ended) = (0, 0);
        }
        seen.extend(received(delimiter, limit, &connection));
        prop_assert_eq!(seen, wanted);
    }
}

#[test]
fn an_open_payload_is_carried_without_those_before_it() {
    for delimiter in DELIMITERS {
        let shape = Shape {
            limit: 8,
            delimiter,
        };
        let mut chunk = Chunk::new(shape);
        chunk.append(&mut &b"a:1|c\nb:1|c\n"[..], &mut 2);
        assert!(chunk.has_sealed() && chunk.has_open());
        let mut fresh = Chunk::new(shape);
        chunk.carry_open(&mut fresh);
        assert!(!chunk.has_open() && fresh.has_open());
        fresh.append(&mut &b"c\n"[..], &mut 1);
        fresh.seal();
        assert_eq!(payloads(chunk), [(b"a:1|c\n".to_vec(), 1)]);
        assert_eq!(payloads(fresh), [(b"b:1|c\nc\n".to_vec(), 2)]);
    }
}

#[test]
fn a_chunk_that_went_in_part_as_datagrams_goes_on_as_a_stream() {
    let shape = Shape {
        limit: 8,
        delimiter: Delimiter::Auto,
    };
    let mut chunk = Chunk::new(shape);
    chunk.append(&mut &b"a:1|c\nb:1|c\n"[..], &mut 2);
    chunk.seal();
    assert_eq!(chunk.next_payload(), Some(&b"a:1|c\n"[..]));
    chunk.pass_payload();
    assert_eq!(chunk.unwritten(), b"\x06\0\0\0b:1|c\n");
    assert_eq!(chunk.wrote(10).lines, 1);
    assert_eq!(chunk.lines(), 0);
}

#[test]
fn a_payload_may_be_larger_than_a_chunk_usually_is() {
    let shape = Shape {
        limit: 1 << 20,
        delimiter: Delimiter::LengthPrefix,
    };
    let mut chunk = Chunk::new(shape);
    let line = [vec![b'x'; (1 << 20) - 1], b"\n".to_vec()].concat();
    assert_eq!(chunk.append(&mut &line[..], &mut 1).oversized, 0);
    chunk.seal();
    assert!(chunk.is_full());
    assert_eq!(chunk.lines(), 1);
}

#[test]
fn of_what_is_cut_the_line_or_the_payload_is_missing() {
    for (delimiter, written, missing) in [
        (Delimiter::Newline, 0, &b""[..]),
        (Delimiter::Newline, 6, b""),
        (Delimiter::Newline, 7, b":2|c\n"),
        (Delimiter::Newline, 14, b"1|c\n"),
        (Delimiter::LengthPrefix, 16, b""),
        (Delimiter::LengthPrefix, 3, b"\0a:1|c\nb:2|c\n"),
        (Delimiter::LengthPrefix, 18, b"\0\0c:1|c\n"),
    ] {
        let mut chunk = Chunk::new(Shape {
            limit: 12,
            delimiter,
        });
        let mut lines = &b"a:1|c\nb:2|c\nc:1|c\n"[..];
        chunk.append(&mut lines, &mut 3);
        chunk.seal();
        chunk.wrote(written);
        assert_eq!(chunk.unwritten_of_cut(), missing, "{delimiter:?} {written}");
        let rest = chunk.unwritten_of_cut().len();
        chunk.wrote(rest);
        assert_eq!(chunk.unwritten_of_cut(), b"");
    }
}
