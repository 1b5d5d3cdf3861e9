//! What a policy does wrong with the built-in agent's tool is found by the rules of AIR, on the call that did it.

use fulgurite::lake::Lake;
use fulgurite::policy::{self, As};
use fulgurite::rollout::{self, Options};
use fulgurite::{air, derive, ingest};

use super::{context, write_tasks};
use crate::cases::{BATCH, query, texts};
use crate::serve::policy as by_hand;

/// A policy that asks for its tool in these words, and answers once it was told anything; what AIR finds in its rollouts.
async fn findings(call: [&str; 2]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().join("lake").to_str().unwrap()).await.unwrap();
    let weights = folder.path().join("policy");
    by_hand::write_saying(&weights, call);
    policy::import(&mut context(&lake, "0000", folder.path(), &[]), &weights, As::First).await.unwrap();
    write_tasks(folder.path(), &["What is 17 + 25?"]);
    let settings = [
        "agent.builtin=calculator",
        "agent.grader.kind=exact",
        "rollout.tasks=tasks.jsonl",
        "rollout.samples=2",
        "generate.kv_mib=16",
    ];
    let context = context(&lake, BATCH, folder.path(), &settings);
    rollout::run(&context, &Options::default()).await.unwrap();
    ingest::run(&context, &[format!("{}/traces/batch={BATCH}/*.otlp.jsonl.zst", lake.location())]).await.unwrap();
    derive::run(&context).await.unwrap();
    air::run(&context).await.unwrap();
    let sql = "select concat_ws(' ', r.task_id, a.step, a.rule, a.value, s.kind) as line from air_rewards as a \
               join rollouts as r on r.rollout_id = a.rollout_id left join spans as s on s.span_id = a.evidence_span_id \
               order by a.rollout_id, a.step, a.rule";
    texts(&query(&context, sql).await.unwrap(), "line")
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_the_policy_are_found_in_rollouts() {
    let cases: [([&str; 2], &[&str]); 4] = [
        // An expression that is none: the tool fails.
        (
            ["<tool_call>\n{\"name\": \"calculator\", \"arguments\": {\"expression\":", " \"17 +\"}}\n</tool_call>"],
            &["tool_error"],
        ),
        // A tool that nobody offers.
        (
            ["<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 17,", " \"b\": 25}}\n</tool_call>"],
            &["tool_error", "unknown_tool"],
        ),
        // Words that were meant for a call, and that no agent ever sees as one.
        (
            ["<tool_call>\n{\"name\": \"calculator\", \"arguments\": {\"expression\":", " 17 + 25}}\n</tool_call>"],
            &["malformed_arguments"],
        ),
        (["<tool_call>\n{\"name\": \"calculator\", \"arguments\": {\"expression\":", " \"17 + 25\"}}\n</tool_call>"], &[]),
    ];
    for (call, rules) in cases {
        let found = findings(call).await;
        for rule in rules {
            // Both samples make the mistake at their first call, each with its own span as evidence.
            let of_rule = found.iter().filter(|line| line.contains(&format!(" 0 {rule} -0.1 "))).count();
            assert_eq!(of_rule, 2, "{rule}: {found:?}");
        }
        let bad = ["tool_error", "unknown_tool", "malformed_arguments"];
        let other = bad.iter().filter(|rule| !rules.contains(*rule) && found.iter().any(|line| line.contains(**rule)));
        assert_eq!(other.count(), 0, "{found:?}");
    }
}
