//! Sessions of command-line agents and other recordings of what was said, turn after turn: prompts are implied, and lines wait for the
//! rest of their session.
#![no_main]

use fulgurite::trace::span::Format;
use fulgurite_fuzz::{check_file, read_record};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let sink = check_file(bytes);
    bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| line.starts_with(b"{")).for_each(read_record);
    let of_session = |format| {
        use Format::{Adp, AgentLightningV1, Atif, Chat, ClaudeCode, Codex, Gemini, SweAgent, Verifiers};
        matches!(format, ClaudeCode | Codex | Gemini | Atif | SweAgent | Adp | Verifiers | Chat | AgentLightningV1)
    };
    // What is in no such format is left to the other targets.
    if sink.spans.iter().any(|span| of_session(span.format)) { Corpus::Keep } else { Corpus::Reject }
});
