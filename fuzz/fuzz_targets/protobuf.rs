//! OTLP in protobuf, alone and in frames.
#![no_main]

use fulgurite::trace::container::{ReadOptions, Sink, read_proto};
use fulgurite::trace::span::Origin;
use fulgurite_fuzz::{check, check_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut sink = Sink::default();
    let read = read_proto(bytes, Origin::default(), &ReadOptions::default(), &mut sink);
    assert!(read.is_ok() || sink.spans.is_empty() && sink.rejects.is_empty(), "a refused message left something behind");
    check(sink, bytes.len());
    let mut framed = Vec::with_capacity(bytes.len() + 4);
    framed.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    framed.extend_from_slice(bytes);
    check_file(&framed);
});
