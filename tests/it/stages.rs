//! The stages as a user runs them: the same program, on a directory and on an object store.

use std::path::Path;
use std::process::Command;

use fulgurite::schema;

use crate::peers::{self, Server};

/// The stages that work on any batch, in the order in which they read each other.
pub const STAGES: [&str; 4] = ["ingest", "derive", "air", "credit"];

/// A subcommand on a lake, with its batch.
pub fn fulgurite(subcommand: &str, lake: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulgurite"));
    command.args([subcommand, "--lake", lake, "--batch", "b"]);
    command
}

/// A stage that does its work even where it is fresh; `ingest` reads the sample traces.
pub fn rebuild(stage: &str, lake: &Path) -> Command {
    let mut command = fulgurite(stage, lake.to_str().unwrap());
    command.args(["--threads", "2", "--rebuild"]);
    if stage == "ingest" {
        let sample_data = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample_data");
        command.args(["langgraph", "openai_agents"].map(|folder| sample_data.join(folder)));
    }
    command
}

/// Runs a command to its end and gives what it printed.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_object_store_holds_the_same_rows_as_a_directory() {
    let Some(python) = peers::python() else { return };
    let server = Server::start(Command::new(python).arg(peers::script("s3_server.py")).arg("lakes"));
    let folder = tempfile::tempdir().unwrap();
    let on_s3 = |command: &mut Command| {
        let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
        output(command.env("AWS_ENDPOINT_URL", &server.url).envs(keys))
    };
    for stage in STAGES {
        output(&mut rebuild(stage, folder.path()));
        on_s3(&mut rebuild(stage, Path::new("s3://lakes/of/mine")));
    }
    for table in ["spans", "rollouts", "calls", "tool_calls", "rewards", "air_rewards", "credits", "transitions"] {
        let sorted_by = schema::table(table).unwrap().doc.sorted_by.join(", ");
        let query = format!("select * from {table} order by {sorted_by}");
        let here = output(fulgurite("sql", folder.path().to_str().unwrap()).args(["--format", "jsonl", &query]));
        let there = on_s3(fulgurite("sql", "s3://lakes/of/mine").args(["--format", "jsonl", &query]));
        assert!(!here.is_empty() && here == there, "{table} differs");
    }
    let status = on_s3(&mut fulgurite("status", "s3://lakes/of/mine"));
    assert_eq!(status.matches("fresh").count(), STAGES.len(), "{status}");
}
