//! Files of JSON: lines, documents, arrays, and what is left of them after a crash.
#![no_main]

use fulgurite::trace::detect::{Layout, layout};
use fulgurite::trace::split::Scanner;
use fulgurite_fuzz::{check_file, read_record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let sink = check_file(bytes);
    let blank = layout(bytes) == Layout::Empty || bytes.iter().all(|byte| b" \t\r\n,[]\xef\xbb\xbf".contains(byte));
    assert!(blank || !sink.spans.is_empty() || !sink.rejects.is_empty() || bytes.contains(&b'{'), "a file is lost");
    bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| line.starts_with(b"{")).for_each(read_record);
    scan_in_two(bytes);
});

/// Where the text is cut for the scanner makes no difference to where records end.
fn scan_in_two(bytes: &[u8]) {
    let ends = |pieces: &[fulgurite::trace::split::Piece], offset: usize| -> Vec<(bool, usize, usize)> {
        use fulgurite::trace::split::Piece::{Garbage, Record};
        pieces
            .iter()
            .map(|piece| match piece {
                Record { range, .. } => (true, range.start + offset, range.end + offset),
                Garbage { range, .. } => (false, range.start + offset, range.end + offset),
            })
            .collect()
    };
    let whole = ends(&Scanner::default().scan(bytes).0, 0);
    let cut = bytes.first().map_or(0, |byte| usize::from(*byte) * bytes.len() / 256);
    let mut scanner = Scanner::default();
    let (pieces, consumed) = scanner.scan(&bytes[..cut]);
    let mut parts = ends(&pieces, 0);
    parts.extend(ends(&scanner.scan(&bytes[consumed..]).0, consumed));
    assert_eq!(whole, parts, "cut at {cut}");
}
