//! Messages and their parts in every shape, whole or spread over attributes.
#![no_main]

use fulgurite::trace::attributes::Attributes;
use fulgurite::trace::message::{self, Role, Stated, read_stated, take_openinference, take_traceloop};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert!(message::readers_agree(text), "the fast reader of messages and the general one differ");
    assert!(fulgurite::trace::scan_agrees(text), "the scanner of members and serde differ");
    if let Ok(read) = read_stated(text, Role::User) {
        check(&read, text.len());
        let json = message::messages_to_json(&read.iter().map(|stated| stated.message.clone()).collect::<Vec<_>>());
        let again = read_stated(&json, Role::User).expect("what we write, we read");
        check(&again, json.len());
    }
    for (prefix, openinference) in [("llm.input_messages.", true), ("gen_ai.prompt.", false)] {
        let Ok(mut attributes) = Attributes::from_json(text) else { return };
        let before = attributes.iter().count();
        let take = if openinference { take_openinference } else { take_traceloop };
        let read = take(&mut attributes, prefix, Role::User);
        assert!(read.len() <= before, "more messages than attributes");
        check(&read, text.len());
        check_json(&attributes.to_json().unwrap_or_else(|| "{}".to_owned()));
    }
});

fn check(read: &[Stated], read_bytes: usize) {
    let mut made_bytes = 0;
    for stated in read {
        let json = stated.message.to_json();
        check_json(&json);
        made_bytes += json.len();
    }
    assert!(made_bytes <= 4_096 + 64 * read_bytes, "{read_bytes} bytes became {made_bytes} bytes of messages");
}

fn check_json(json: &str) {
    assert!(serde_json::from_str::<&RawValue>(json).is_ok(), "not JSON: {json}");
}
