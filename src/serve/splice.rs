//! Tokens across turns: where a prompt holds what this server said before in the rollout, its sampled ids take the place of its text.
//!
//! Clients send text back, and the ids that a tokenizer makes of a text need not be those that were sampled (and a template may print a tool
//! call otherwise than the model wrote it). So the next prompt is the last prompt's ids, then the sampled ids, then the new text's. A
//! template that prints an earlier turn otherwise now than it did right after it (stripped thinking) is followed: the prompt is tokenised
//! anew, and the rollout has forked.

use std::sync::Arc;

use anyhow::Result;
use serde_json::Value;

/// Something that the server said: one choice of one call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Turn {
    /// The prompt as text and as the ids that the policy saw.
    pub prompt_text: String,
    pub prompt_ids: Vec<u32>,
    /// Sampled ids, the one that ended the turn included.
    pub said_ids: Vec<u32>,
    /// Everything sampled, as text.
    pub said_text: String,
    /// What the client was told.
    pub content: String,
    pub call_ids: Vec<String>,
}

/// How a prompt continues what was said before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// Nothing that this server said is in it.
    First,
    /// It begins with an earlier prompt and what was sampled for it.
    Spliced,
    /// Something that this server said is in it, and its ids could not be kept.
    Fork,
}

impl Prefix {
    pub fn as_str(self) -> &'static str {
        match self {
            Prefix::First => "first",
            Prefix::Spliced => "spliced",
            Prefix::Fork => "fork",
        }
    }
}

/// A prompt in both forms.
#[derive(Debug, Clone, PartialEq)]
pub struct Spliced {
    pub text: String,
    pub ids: Vec<u32>,
    pub prefix: Prefix,
}

/// The policy's words, as far as they are needed here.
pub struct Words<'a> {
    /// Messages, and whether the assistant's next turn is opened.
    pub render: &'a dyn Fn(&[Value], bool) -> Result<String>,
    pub encode: &'a dyn Fn(&str) -> Vec<u32>,
    /// What ends a turn, as text and id.
    pub ends: &'a [(String, u32)],
}

/// The prompt of a conversation whose next turn is the assistant's.
///
/// * `turns`: what the server said before in the rollout, oldest first.
///
/// # Errors
/// The template refuses the messages.
pub fn prompt(messages: &[Value], turns: &[Arc<Turn>], words: &Words<'_>) -> Result<Spliced> {
    let text = (words.render)(messages, true)?;
    let mut prefix = Prefix::First;
    for (index, message) in messages.iter().enumerate().rev().filter(|(_, message)| message["role"] == "assistant") {
        let mut said = turns.iter().rev().filter(|turn| is_of(turn, message)).peekable();
        if said.peek().is_none() {
            continue;
        }
        prefix = Prefix::Fork;
        // The template alone knows where the turn ends.
        let Ok(until) = (words.render)(&messages[..=index], false) else { continue };
        let known = said.find_map(|turn| Some((turn, after(turn, message, &until, &text, words.ends)?)));
        if let Some((turn, rest)) = known {
            let mut ids = [&turn.prompt_ids[..], &turn.said_ids].concat();
            ids.extend((words.encode)(&rest));
            return Ok(Spliced { text, ids, prefix: Prefix::Spliced });
        }
    }
    let ids = (words.encode)(&text);
    Ok(Spliced { text, ids, prefix })
}

/// Whether a message is this turn come back: by the id of a tool call, or by its text.
fn is_of(turn: &Turn, message: &Value) -> bool {
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !calls.is_empty() {
        return calls.iter().filter_map(|call| call["id"].as_str()).any(|id| turn.call_ids.iter().any(|known| known == id));
    }
    let text = message["content"].as_str().unwrap_or_default().trim();
    turn.call_ids.is_empty() && turn.content.trim() == text
}

/// The text that follows a turn's sampled ids in a prompt; `None` where the template printed the turn otherwise than it was.
///
/// * `until`: the conversation up to the turn, its end included; `text`: the whole prompt.
fn after(turn: &Turn, message: &Value, until: &str, text: &str, ends: &[(String, u32)]) -> Option<String> {
    let printed = until.strip_prefix(turn.prompt_text.as_str())?;
    let rest = text.strip_prefix(until)?;
    let content = message["content"].as_str().unwrap_or_default().trim();
    let thought = "</think>";
    if !printed.contains(content) || (turn.said_text.contains(thought) && !printed.contains(thought)) {
        return None;
    }
    let (at, end, _) = ends.iter().filter_map(|(end, id)| Some((printed.rfind(end.as_str())?, end, id))).max()?;
    let ended = turn.said_ids.last().is_some_and(|last| ends.iter().any(|(_, id)| id == last));
    // An answer that was cut off has no end of its own; the template gives it one.
    let tail = if ended { &printed[at + end.len()..] } else { &printed[at..] };
    Some(format!("{tail}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const END: (&str, u32) = ("<end>", 1000);

    /// `[role]content<end>\n`, tool calls as `(name)`; bytes are ids, and the end is one of its own.
    fn render(messages: &[Value], opened: bool) -> Result<String> {
        let mut text = String::new();
        for message in messages {
            let calls = message["tool_calls"].as_array().into_iter().flatten();
            let calls: String = calls.map(|call| format!("({})", call["function"]["name"].as_str().unwrap())).collect();
            let (role, content) = (message["role"].as_str().unwrap(), message["content"].as_str().unwrap());
            text.push_str(&format!("[{role}]{content}{calls}{}\n", END.0));
        }
        if opened {
            text.push_str("[assistant]");
        }
        Ok(text)
    }

    /// As `render`, but thoughts of turns before the last question are left out.
    fn strips_thoughts(messages: &[Value], opened: bool) -> Result<String> {
        let last = messages.iter().rposition(|message| message["role"] == "user").unwrap_or(0);
        let mut messages = messages.to_vec();
        for message in &mut messages[..last] {
            let content = message["content"].as_str().unwrap();
            let stripped = content.rsplit("</think>").next().unwrap().to_owned();
            message["content"] = stripped.into();
        }
        render(&messages, opened)
    }

    fn encode(text: &str) -> Vec<u32> {
        let mut parts = text.split(END.0);
        let mut ids: Vec<u32> = parts.next().unwrap_or_default().bytes().map(u32::from).collect();
        for part in parts {
            ids.push(END.1);
            ids.extend(part.bytes().map(u32::from));
        }
        ids
    }

    fn spliced(render: &dyn Fn(&[Value], bool) -> Result<String>, messages: &[Value], turns: &[Turn]) -> Spliced {
        let ends = [(END.0.to_owned(), END.1)];
        let turns: Vec<Arc<Turn>> = turns.iter().cloned().map(Arc::new).collect();
        prompt(messages, &turns, &Words { render, encode: &encode, ends: &ends }).unwrap()
    }

    /// What was said to the messages, in ids that no encoding of the text would give.
    fn said(messages: &[Value], content: &str, call: Option<&str>, ids: &[u32]) -> Turn {
        let text = render(messages, true).unwrap();
        Turn {
            prompt_ids: encode(&text),
            prompt_text: text,
            said_ids: ids.to_vec(),
            said_text: content.to_owned(),
            content: content.to_owned(),
            call_ids: call.map(str::to_owned).into_iter().collect(),
        }
    }

    fn message(role: &str, content: &str) -> Value {
        json!({ "role": role, "content": content })
    }

    #[test]
    fn the_next_prompt_begins_with_the_last_and_what_was_sampled() {
        let question = [message("user", "q")];
        let asks = json!({ "role": "assistant", "content": "", "tool_calls": [{ "id": "c1", "function": { "name": "f", "arguments": {} } }] });
        let first = said(&question, "", Some("c1"), &[7, 8, END.1]);
        let second_messages = [question[0].clone(), asks.clone(), message("tool", "1")];
        let second = spliced(&render, &second_messages, std::slice::from_ref(&first));
        assert_eq!(second.prefix, Prefix::Spliced);
        let expected = [encode("[user]q<end>\n[assistant]"), vec![7, 8, END.1], encode("\n[tool]1<end>\n[assistant]")].concat();
        assert_eq!(second.ids, expected);

        // The third goes on from the second, whose prompt holds the first turn's ids already. It was cut off before its end.
        let mut cut = said(&second_messages, "so", None, &[9]);
        cut.prompt_ids = second.ids.clone();
        let third_messages = [&second_messages[..], &[message("assistant", " so "), message("user", "more")]].concat();
        let third = spliced(&render, &third_messages, &[first, cut]);
        assert_eq!(third.prefix, Prefix::Spliced);
        assert_eq!(third.ids, [second.ids, vec![9], encode("<end>\n[user]more<end>\n[assistant]")].concat());
    }

    #[test]
    fn what_was_never_said_here_is_tokenised() {
        let messages = [message("user", "q"), message("assistant", "other"), message("user", "r")];
        let turn = said(&messages[..1], "said", None, &[7, END.1]);
        let first = spliced(&render, &messages, &[turn]);
        assert_eq!((first.prefix, first.ids), (Prefix::First, encode(&first.text)));
    }

    #[test]
    fn a_template_that_rewrites_what_was_said_is_followed() {
        let content = "<think>t</think>a";
        let messages = [message("user", "q"), message("assistant", content), message("user", "r")];
        let turn = said(&messages[..1], content, None, &[7, END.1]);
        let forked = spliced(&strips_thoughts, &messages, std::slice::from_ref(&turn));
        assert_eq!((forked.prefix, forked.ids), (Prefix::Fork, encode(&forked.text)));
        assert!(forked.text.contains("[assistant]a<end>"));
        // A tool's answer is no new question: the thought stays, and with it the ids.
        let messages = [message("user", "q"), message("assistant", content), message("tool", "1")];
        assert_eq!(spliced(&strips_thoughts, &messages, &[turn]).prefix, Prefix::Spliced);
    }

    #[test]
    fn another_beginning_is_a_fork() {
        let messages = [message("user", "q"), message("assistant", "a"), message("user", "r")];
        let turn = said(&[message("user", "other")], "a", None, &[7, END.1]);
        assert_eq!(spliced(&render, &messages, &[turn]).prefix, Prefix::Fork);
    }
}
