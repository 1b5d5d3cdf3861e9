//! ADP, the Agent Data Protocol: one trajectory a record, a list of actions and observations.
//!
//! ```text
//! {"id", "content": [{"class_": "text_observation", "content", "source": "user" | "environment"},
//!                    {"class_": "api_action", "function", "kwargs", "description", "tool_call_id", "reward"},
//!                    {"class_": "code_action", "language", "content", "description"},
//!                    {"class_": "message_action", "content", "reasoning_content"},
//!                    {"class_": "web_observation", …}],
//!  "available_apis", "details"}
//! ```
//!
//! Actions up to the next observation are taken for one LLM call, whose prompt is what stands before them. Code is asked for as a tool of
//! its language. There are no times, no usage and no finish reasons, and tool statuses are texts.

use super::dialogue::{Dialogue, message};
use super::metadata::identify;
use super::record::{parse, reward_value, take_id};
use super::{Keys, ReadOptions, Sink};
use crate::trace::attributes::{Attributes, Value, push_json_string};
use crate::trace::message::{Message, Role, ToolCallRequest};
use crate::trace::openai::push_tools;
use crate::trace::reject::Reject;
use crate::trace::span::{Choice, Format, Identity, Kind, Llm, Origin, Reward, RolloutRecord, Span};

/// Whether a record is a trajectory.
pub fn recognises(keys: &Keys<'_>) -> bool {
    keys.begins("content", b'[') && keys.first_of("content").has("class_")
}

/// Reads one trajectory.
pub fn read(text: &str, origin: Origin, options: &ReadOptions, sink: &mut Sink) -> Result<(), Reject> {
    let mut record = parse(text)?;
    let trace_id = take_id(&mut record, "id");
    let mut identity = Identity::default();
    identify(&mut identity, &Attributes::of_object(record.get("details")), options);
    let apis = record.take("available_apis");
    let mut tools = Vec::new();
    if let Some(apis) = apis.as_ref().and_then(Value::as_text) {
        push_tools(&apis, &mut tools);
    }
    let offered = Llm { tools_known: !tools.is_empty(), tools, ..Llm::default() };
    let dialogue = Dialogue::new(Span {
        origin,
        format: Format::Adp,
        span_id: if trace_id.is_some() { "item.".to_owned() } else { format!("{}.{}.", origin.line, origin.position) },
        trace_id,
        order: Some(format!("{:012}.", origin.line)),
        kind_evidence: Some("class_".to_owned()),
        identity,
        ..Span::default()
    });
    let content = record.take("content").ok_or(Reject::MissingField { field: "content" })?;
    let mut talk = Talk { dialogue, offered, open: None };
    for item in content.elements() {
        let item = Attributes::from_json(item).map_err(|source| Reject::Shape { container: "content", source })?;
        talk.read_item(item)?;
    }
    talk.close()?;
    let dialogue = talk.dialogue;
    let mut about = dialogue.place(Kind::Rollout);
    about.name = "trajectory".to_owned();
    about.order = None;
    about.rollout = Some(Box::<RolloutRecord>::default());
    about.attributes_json = record.to_json();
    sink.spans.push(about);
    sink.spans.extend(dialogue.into_spans());
    Ok(())
}

/// A trajectory that is being read.
struct Talk {
    dialogue: Dialogue,
    offered: Llm,
    /// Actions since the last observation, and their rewards.
    open: Option<(Message, Vec<Reward>)>,
}

impl Talk {
    fn read_item(&mut self, mut item: Attributes<'_>) -> Result<(), Reject> {
        let class = item.take_text("class_").unwrap_or_default();
        let reward = item.get("reward").and_then(reward_value);
        let reward =
            reward.map(|value| Reward { name: "reward".to_owned(), value: Some(value), primary: true, ..Reward::default() });
        let id = take_id(&mut item, "tool_call_id");
        match class.as_str() {
            "api_action" | "code_action" | "message_action" => {
                let answer = action(&class, item, id);
                let (whole, rewards) =
                    self.open.get_or_insert_with(|| (Message { role: Role::Assistant, ..Message::default() }, Vec::new()));
                whole.merge(answer);
                rewards.extend(reward);
            }
            "text_observation" => {
                let told = message(Role::User, item.get("content"));
                let of_user = item.text("source") == Some("user");
                self.observe(Message { tool_call_id: id, ..told }, of_user, reward)?;
            }
            "web_observation" => {
                item.take("reward");
                self.observe(Message { content: item.to_json(), tool_call_id: id, ..Message::default() }, false, reward)?;
            }
            other => return Err(Reject::bad_value("class_", other, "an action or an observation of ADP")),
        }
        Ok(())
    }

    /// The end of a response.
    fn close(&mut self) -> Result<(), Reject> {
        let Some((said, rewards)) = self.open.take() else { return Ok(()) };
        let choice = Choice { message: said, ..Choice::default() };
        self.dialogue.answer(choice, self.offered.clone())?.rewards = rewards;
        Ok(())
    }

    /// What the environment says answers the actions before it, where they asked for anything.
    fn observe(&mut self, told: Message, of_user: bool, reward: Option<Reward>) -> Result<(), Reject> {
        self.close()?;
        if !of_user && (told.tool_call_id.is_some() || self.dialogue.asked() == 1) {
            self.dialogue.result(told).rewards.extend(reward);
            return Ok(());
        }
        self.dialogue.hear(Message { role: Role::User, tool_call_id: None, ..told });
        if let (Some(reward), Some(call)) = (reward, self.dialogue.calls_mut().last()) {
            call.rewards.push(reward);
        }
        Ok(())
    }
}

/// What the model said and asked for.
fn action(class: &str, mut item: Attributes<'_>, id: Option<String>) -> Message {
    let (said, request) = match class {
        "message_action" => (item.take("content"), None),
        "api_action" => {
            let arguments = item.take("kwargs").and_then(Value::into_text).unwrap_or_else(|| "{}".to_owned());
            (item.take("description"), Some((item.take_text("function").unwrap_or_default(), arguments)))
        }
        _ => {
            let mut arguments = "{\"code\":".to_owned();
            push_json_string(&mut arguments, item.take_text("content").unwrap_or_default().as_str());
            arguments.push('}');
            (item.take("description"), Some((item.take_text("language").unwrap_or_default(), arguments)))
        }
    };
    let mut answer = message(Role::Assistant, said.as_ref());
    answer.reasoning = item.take_text("reasoning_content");
    answer.tool_calls = request.map(|(name, arguments)| ToolCallRequest { id, name, arguments }).into_iter().collect();
    answer
}

#[cfg(test)]
mod tests {
    use super::super::record::{codes, sink_of};
    use super::*;

    #[test]
    fn actions_are_calls_and_observations_their_results() {
        let sink = sink_of(
            r#"{"id":"t1","content":[{"class_":"text_observation","content":"q","source":"user"},
                {"class_":"code_action","language":"bash","content":"ls","description":"look"},
                {"class_":"text_observation","content":"a.txt","source":"environment","reward":0.25},
                {"class_":"api_action","function":"click","kwargs":{"x":1},"description":null},
                {"class_":"web_observation","url":"u","html":"<p>"},
                {"class_":"message_action","content":"done","reward":1}],"details":{"task_id":"k"}}"#,
            &[],
        );
        assert_eq!(codes(&sink), [""; 0]);
        let kinds: Vec<Kind> = sink.spans.iter().map(|span| span.kind).collect();
        assert_eq!(kinds, [Kind::Rollout, Kind::Llm, Kind::Tool, Kind::Llm, Kind::Tool, Kind::Llm]);
        let code = &sink.spans[1].llm.as_deref().unwrap().choices[0].message;
        assert_eq!((code.content.as_deref(), code.tool_calls[0].arguments.as_str()), (Some("look"), r#"{"code":"ls"}"#));
        assert_eq!((sink.spans[2].rewards[0].value, sink.spans[5].rewards[0].value), (Some(0.25), Some(1.0)));
        let web = sink.spans[4].tool.as_deref().unwrap();
        assert_eq!((web.name.as_deref(), web.result.as_deref()), (Some("click"), Some(r#"{"html":"<p>","url":"u"}"#)));
        assert_eq!(sink.spans[5].llm.as_deref().unwrap().input.len(), 5);
        assert_eq!(codes(&sink_of(r#"{"content":[{"class_":"dance"}]}"#, &[])), ["bad_value"]);
    }
}
