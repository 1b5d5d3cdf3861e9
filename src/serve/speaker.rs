//! From sampled ids to what the client may see: texts that end an answer, and text that may yet turn out to be a tool call.

use std::sync::Arc;

use super::record::ToolCall;
use crate::text::Text;

/// How a tool call ends, in the formats that have an end of it.
const CLOSER: &str = "</tool_call>";
const THOUGHT: &str = "</think>";

/// One choice of one answer.
pub struct Speaker {
    text: Arc<Text>,
    /// Ids whose text may depend on what comes next, after those that their own text depends on.
    recent: Vec<u32>,
    /// How many of them have their text in `said`.
    settled: usize,
    stops: Vec<String>,
    /// Whether tools were offered, so that text may be a tool call.
    tools: bool,
    /// Whether one answer may call several.
    parallel: bool,
    /// Everything said, up to a stop.
    said: String,
    /// Bytes of it that the client has seen.
    shown: usize,
}

/// How a choice ended.
#[derive(Debug, Default, PartialEq)]
pub struct Ending {
    /// The text of the answer without tool calls; `None` where it has none.
    pub content: Option<String>,
    /// What of the text was not shown yet.
    pub rest: String,
    pub calls: Vec<ToolCall>,
    /// Texts that began like a tool call and could not be read as one.
    pub malformed: Vec<String>,
}

impl Speaker {
    pub fn new(text: &Arc<Text>, stops: &[String], tools: bool, parallel: bool) -> Speaker {
        Speaker {
            text: Arc::clone(text),
            recent: Vec::new(),
            settled: 0,
            stops: stops.to_vec(),
            tools,
            parallel,
            said: String::new(),
            shown: 0,
        }
    }

    /// Takes the next id. Returns the text that may be shown now, and whether the answer has come to one of its stops.
    pub fn push(&mut self, id: u32) -> (String, bool) {
        if self.text.end_ids().contains(&id) {
            return (String::new(), false);
        }
        let before = self.said.len();
        self.recent.push(id);
        self.decode(false);
        let ended = self.cut(before);
        (self.show(if ended { self.said.len() } else { self.sure() }), ended)
    }

    /// Everything said, tool calls included.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// Ends the choice.
    ///
    /// * `name`: makes the id of the tool call with this index.
    pub fn end(&mut self, name: impl Fn(usize) -> String) -> Ending {
        self.decode(true);
        self.cut(0);
        if !self.tools {
            let rest = self.said[self.shown..].to_owned();
            self.shown = self.said.len();
            return Ending { content: Some(self.said.clone()), rest, ..Ending::default() };
        }
        let parsed = self.text.parse_response(&self.said);
        let calls: Vec<ToolCall> = parsed
            .tool_calls
            .into_iter()
            .enumerate()
            .map(|(index, call)| ToolCall { id: format!("call_{}", name(index)), name: call.name, arguments: call.arguments })
            .take(if self.parallel { usize::MAX } else { 1 })
            .collect();
        // Thoughts are part of the text here, as templates expect them to come back.
        let thought = self.said.find(THOUGHT).filter(|_| parsed.reasoning.is_some());
        let thought = thought.map_or("", |at| &self.said[..at + THOUGHT.len()]);
        let text = parsed.content.unwrap_or_default();
        let text = if thought.is_empty() { text } else { format!("{thought}\n\n{text}") };
        let rest = text.trim_start().strip_prefix(self.said[..self.shown].trim()).unwrap_or_default().to_owned();
        let content = Some(text).filter(|text| !text.is_empty() || calls.is_empty());
        Ending { content, rest, calls, malformed: parsed.malformed }
    }

    /// Appends the text of the ids that came, once their characters are whole. A token's text may depend on the one before it (a leading
    /// space), so that the last tokens are decoded together and the text that was there before is left out.
    fn decode(&mut self, ended: bool) {
        let known = self.text.decode(&self.recent[..self.settled]);
        let text = self.text.decode(&self.recent);
        if text.len() <= known.len() || (text.ends_with(char::REPLACEMENT_CHARACTER) && !ended) {
            return;
        }
        self.said.push_str(text.get(known.len()..).unwrap_or_default());
        self.recent.drain(..self.settled);
        self.settled = self.recent.len();
    }

    /// Cuts off what follows a stop. Returns whether there is one.
    ///
    /// * `from`: where the new text begins.
    fn cut(&mut self, from: usize) -> bool {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0).max(CLOSER.len());
        let from = floor(&self.said, from.saturating_sub(longest));
        let text = &self.said[from..];
        let stop = self.stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
        let one_call = if self.tools && !self.parallel { text.find(CLOSER).map(|at| at + CLOSER.len()) } else { None };
        let Some(at) = stop.into_iter().chain(one_call).min() else { return false };
        self.said.truncate(from + at);
        true
    }

    /// How much of the text can neither be the beginning of a stop nor that of a tool call.
    fn sure(&self) -> usize {
        let begun = |mark: &str| {
            (1..mark.len())
                .rev()
                .filter(|length| mark.is_char_boundary(*length))
                .find(|length| self.said.ends_with(&mark[..*length]))
        };
        let held = self.stops.iter().filter_map(|stop| begun(stop)).max().unwrap_or(0);
        let mut sure = self.said.len() - held;
        if self.tools {
            sure = sure.min(self.text.tool_format().text_bytes(&self.said));
            // Space before a tool call is no part of the text.
            sure = self.said[..floor(&self.said, sure)].trim_end().len();
        }
        sure
    }

    fn show(&mut self, until: usize) -> String {
        let until = floor(&self.said, until).max(self.shown);
        let text = self.said[self.shown..until].to_owned();
        self.shown = until;
        text
    }
}

/// The nearest boundary of a character at or before.
fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    /// A tokenizer of bytes alone: ASCII that can be seen has its own ids, `<|end|>` is 256.
    fn bytes() -> Arc<Text> {
        let folder = tempfile::tempdir().unwrap();
        let plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let mut others = 256..;
        let vocabulary: Map<String, serde_json::Value> = (0..=255u8)
            .map(|byte| {
                let visible = if plain(&byte) { char::from(byte) } else { char::from_u32(others.next().unwrap()).unwrap() };
                (visible.to_string(), json!(byte))
            })
            .collect();
        let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
        let end = json!({ "id": 256, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
        let tokenizer = json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
            "pre_tokenizer": level, "post_processor": null, "decoder": level,
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": [] } });
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let config =
            json!({ "eos_token": "<|end|>", "chat_template": "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}" });
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        std::fs::write(folder.path().join("config.json"), json!({ "eos_token_id": 256 }).to_string()).unwrap();
        Arc::new(Text::load(folder.path()).unwrap())
    }

    /// Says a text byte by byte. Returns what was shown at once, piece by piece, and the ending.
    fn say(text: &str, stops: &[&str], tools: bool, parallel: bool) -> (Vec<String>, Ending) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut speaker = Speaker::new(&bytes(), &stops, tools, parallel);
        let mut shown = Vec::new();
        for id in text.bytes().map(u32::from).chain([256]) {
            let (piece, stopped) = speaker.push(id);
            shown.push(piece);
            if stopped {
                break;
            }
        }
        shown.retain(|piece| !piece.is_empty());
        (shown, speaker.end(|index| format!("id{index}")))
    }

    #[test]
    fn characters_are_shown_whole_and_the_end_is_no_text() {
        let (shown, ending) = say("a\u{e4}\u{1f600}", &[], false, true);
        assert_eq!(shown, ["a", "\u{e4}", "\u{1f600}"]);
        assert_eq!((ending.content.as_deref(), ending.rest.as_str()), (Some("a\u{e4}\u{1f600}"), ""));
    }

    #[test]
    fn a_stop_ends_the_answer_and_is_not_part_of_it() {
        let (shown, ending) = say("one, STIR, STOP more", &["STOP", "never"], false, true);
        assert_eq!(shown.concat() + &ending.rest, "one, STIR, ");
        assert_eq!(ending.content.as_deref(), Some("one, STIR, "));
        assert!(shown.contains(&"STI".to_owned()), "what may be a stop is held back no longer than it may be one: {shown:?}");
        // What looks like the beginning of a stop at the very end is text.
        let (shown, ending) = say("no ST", &["STOP"], false, true);
        assert_eq!((shown.concat().as_str(), ending.rest.as_str()), ("no ", "ST"));
    }

    #[test]
    fn text_is_held_back_only_while_it_may_be_a_tool_call() {
        let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>";
        let (shown, ending) = say(&format!("I <t> look.\n{call}"), &[], true, true);
        assert_eq!(shown.concat(), "I <t> look.");
        let expected = ToolCall { id: "call_id0".to_owned(), name: "f".to_owned(), arguments: "{\"x\": 1}".to_owned() };
        assert_eq!((ending.content.as_deref(), ending.rest.as_str(), ending.calls), (Some("I <t> look."), "", vec![expected]));
        // Without tools it is text like any other.
        let (shown, ending) = say(call, &[], false, true);
        assert_eq!((shown.concat().as_str(), ending.calls.len()), (call, 0));
    }

    #[test]
    fn what_is_no_call_stays_text_and_is_told() {
        let broken = "<tool_call>\n{\"name\": }\n</tool_call>";
        let (shown, ending) = say(&format!("so: {broken}"), &[], true, true);
        assert_eq!((shown.concat().as_str(), ending.calls.len(), ending.malformed.len()), ("so:", 0, 1));
        let content = ending.content.unwrap();
        assert!(content.starts_with("so:") && content.contains("{\"name\": }"), "{content}");
        assert_eq!(format!("so:{}", ending.rest), content);
    }

    #[test]
    fn one_call_alone_ends_the_answer() {
        let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
        let (_, both) = say(&format!("{call}\n{call}"), &[], true, true);
        let (_, one) = say(&format!("{call}\n{call}"), &[], true, false);
        assert_eq!((both.calls.len(), one.calls.len()), (2, 1));
    }
}
