//! Going on from a response by its id: the server remembers what was said.

use serde_json::{Value, json};

use super::{post, rollout, served};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_goes_on_from_a_response() {
    let server = served(false).await;
    let session = server.sessions().begin(rollout("r-1")).unwrap();
    let url = format!("{}/responses", server.base_url(&session));
    let tools = json!([{ "type": "function", "name": "add", "parameters": { "type": "object" } }]);
    let ask = |input: Value, before: Value, store: Value| {
        let body =
            json!({ "input": input, "tools": tools, "instructions": "Add.", "previous_response_id": before, "store": store });
        let url = url.clone();
        async move { post(&url, &body).await }
    };
    let (_, asks) = ask(json!("What is 17 + 25?"), Value::Null, Value::Null).await;
    assert_eq!((&asks["output"][0]["name"], &asks["store"]), (&json!("add"), &json!(true)), "{asks}");
    let told = json!([{ "type": "function_call_output", "call_id": asks["output"][0]["call_id"], "output": "42" }]);
    let (status, answer) = ask(told, asks["id"].clone(), json!(false)).await;
    assert_eq!((status, &answer["previous_response_id"]), (200, &asks["id"]), "{answer}");
    assert_eq!(answer["output"][0]["content"][0]["text"], "The answer is 42.");
    // The second prompt begins with the first one and the ids that were sampled for it.
    assert_eq!(server.prefix_reuse(), Some(1.0));
    for unknown in [answer["id"].clone(), json!("resp_0")] {
        let (status, body) = ask(json!("Sure?"), unknown, Value::Null).await;
        assert_eq!((status, body["error"]["code"].as_str()), (400, Some("previous_response_not_found")), "{body}");
    }
    // It may be gone on from twice.
    let told = json!([{ "type": "function_call_output", "call_id": asks["output"][0]["call_id"], "output": "43" }]);
    assert_eq!(ask(told, asks["id"].clone(), Value::Null).await.0, 200);
    server.stop().await.unwrap();
}
