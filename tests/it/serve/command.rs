//! `fulgurite serve` as a user runs it: a policy of a lake, called, recorded, and ended by Ctrl-C.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use fulgurite::lake::Lake;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{chat, client, derived, policy, question, table};
use crate::cases::BATCH;

fn fulgurite(lake: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
    command.args(["--lake", lake.to_str().unwrap(), "--threads", "1"]).env_remove("FULGURITE_KEY");
    command
}

#[test]
fn a_policy_of_the_lake_is_served_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake");
    policy::write(&folder.path().join("model"));
    let imported = fulgurite(&lake).args(["policy", "import", "--from"]).arg(folder.path().join("model")).output().unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));

    let mut command = fulgurite(&lake);
    command.args(["serve", "--version", "0", "--batch", BATCH, "--port", "0", "--key", "k", "--set", "generate.kv_mib=8"]);
    let mut server = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    let told = said.by_ref().find(|line| line.contains("serving on")).expect("says where it serves");
    let root = told.split_whitespace().last().unwrap().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let status = runtime.block_on(async {
        let url = format!("{root}/rollout/mine-1/attempt/0/v1/chat/completions");
        let answer = client().post(url).bearer_auth("k").json(&chat(question("What is 17 + 25?"))).send().await.unwrap();
        let reward =
            client().post(format!("{root}/rollout/mine-1/attempt/0/reward")).bearer_auth("k").json(&json!({ "value": 1.0 }));
        assert_eq!(reward.send().await.unwrap().status(), 201);
        answer.status()
    });
    assert_eq!(status, 200);
    kill(Pid::from_raw(i32::try_from(server.id()).unwrap()), Signal::SIGINT).unwrap();
    let rest: Vec<String> = said.collect();
    assert!(server.wait().unwrap().success(), "{rest:?}");
    assert!(rest.iter().any(|line| line.ends_with("mine-1.otlp.jsonl.zst")), "{rest:?}");

    let rows = runtime.block_on(async {
        let context = derived(&Lake::open_existing(lake.to_str().unwrap()).await.unwrap()).await;
        table(&context, "select rollout_id, policy_version, reward, status from rollouts").await
    });
    assert_eq!(rows, [["mine-1", "0", "1.0", "succeeded"].map(str::to_owned)]);
}
