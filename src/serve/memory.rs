//! Conversations that a client may go on with by naming a response: what `previous_response_id` means in the Responses API.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::record::ChoiceRecord;

/// Most that is kept: conversations, and bytes of them, each counted whole. The oldest go first.
const KEPT: usize = 4096;
const KEPT_BYTES: usize = 256 << 20;

/// Chat messages up to and with an answer, in the order said; instructions are not among them.
pub type History = Vec<Arc<Value>>;

/// The latest conversations, by the id of the response that they end with.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    histories: HashMap<String, (History, usize)>,
    /// The oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl Memory {
    /// The conversation that ends with this response; `None` where it is not known, or not any more.
    pub fn get(&self, id: &str) -> Option<History> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.histories.get(id).map(|(history, _)| history.clone())
    }

    /// Keeps a conversation under the id of the answer that it ends with.
    pub fn put(&self, id: &str, mut history: History, answer: &ChoiceRecord) {
        history.push(Arc::new(message(answer)));
        let bytes = history.iter().map(|message| message.to_string().len()).sum();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes;
        kept.order.push_back(id.to_owned());
        kept.histories.insert(id.to_owned(), (history, bytes));
        while kept.order.len() > KEPT || kept.bytes > KEPT_BYTES {
            let Some(oldest) = kept.order.pop_front() else { break };
            kept.bytes -= kept.histories.remove(&oldest).map_or(0, |(_, bytes)| bytes);
        }
    }
}

/// An answer as the message that it is in the next prompt.
fn message(answer: &ChoiceRecord) -> Value {
    let mut message = json!({ "role": "assistant", "content": answer.content });
    if !answer.tool_calls.is_empty() {
        let call = |call: &super::record::ToolCall| json!({ "id": call.id, "type": "function", "function": { "name": call.name, "arguments": call.arguments } });
        message["tool_calls"] = answer.tool_calls.iter().map(call).collect();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let memory = Memory::default();
        let answer = ChoiceRecord { content: Some("a".to_owned()), ..ChoiceRecord::default() };
        let asked = vec![Arc::new(json!({ "role": "user", "content": "q" }))];
        for number in 0..=KEPT {
            memory.put(&format!("resp_{number}"), asked.clone(), &answer);
        }
        assert_eq!(memory.get("resp_0"), None);
        let texts: Vec<String> = memory.get("resp_1").unwrap().iter().map(|message| message["content"].to_string()).collect();
        assert_eq!(texts, ["\"q\"", "\"a\""]);
        // One that takes all the room there is takes that of the others.
        let huge = vec![Arc::new(Value::from("x".repeat(KEPT_BYTES - 1000)))];
        memory.put("resp_huge", huge, &answer);
        assert!(memory.get("resp_huge").is_some() && memory.get(&format!("resp_{}", KEPT - 100)).is_none());
        assert!(memory.0.lock().unwrap().bytes <= KEPT_BYTES);
    }
}
