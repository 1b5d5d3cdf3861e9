//! Decompression of whole files, told by their first bytes.

use std::io::{self, BufReader, Cursor, Read};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The decompressed bytes of a file: gzip (of one or more members), zstd (of one or more frames), or as they are.
pub fn decode(mut file: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
    let head = read_up_to(&mut file, ZSTD.len())?;
    let gzip = head.starts_with(&GZIP);
    let zstd = head == ZSTD;
    let whole = Cursor::new(head).chain(file);
    Ok(match (gzip, zstd) {
        (true, _) => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(256 << 10, whole))),
        (_, true) => Box::new(zstd::stream::read::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

/// The first `count` bytes, or fewer where the file ends before.
pub fn read_up_to(reader: &mut dyn Read, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(count);
    reader.take(count as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn check(stored: Vec<u8>, expected: &[u8]) {
        let mut bytes = Vec::new();
        decode(Box::new(Cursor::new(stored))).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, expected);
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn finds_the_compression_by_its_first_bytes() {
        check(b"{}\n".to_vec(), b"{}\n");
        check(Vec::new(), b"");
        check(gzip(b"{}\n"), b"{}\n");
        check([gzip(b"{}\n"), gzip(b"[]\n")].concat(), b"{}\n[]\n");
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        check([zstd(b"{}\n"), zstd(b"[]\n")].concat(), b"{}\n[]\n");
    }

    #[test]
    fn a_cut_file_gives_what_came_before_the_cut_and_then_an_error() {
        let mut stored = gzip(&[b'x'; 100_000]);
        stored.truncate(stored.len() - 9);
        let mut bytes = Vec::new();
        assert!(decode(Box::new(Cursor::new(stored))).unwrap().read_to_end(&mut bytes).is_err());
        assert!(!bytes.is_empty());
    }
}
