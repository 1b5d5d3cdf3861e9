//! `fulgurite diff`: what differs between two batches or two settings, worked out by hand; and that nothing of it stays.

use std::path::Path;

use fulgurite::commands::diff::{self, DiffArgs, Side};
use fulgurite::config::Config;
use fulgurite::lake::Lake;
use fulgurite::stage::{Context, Summary};
use fulgurite::{air, credit, derive, ingest};

use crate::cases::block_on;

/// Two runs of a task: the first asks twice and earns 1, the second asks once and earns 0.
const RUNS: &str = r#"{"rollout_id":"a","task_id":"t","reward":1.0,"messages":[{"role":"user","content":"3 + 3?"},{"role":"assistant","content":"six"},{"role":"user","content":"In digits."},{"role":"assistant","content":"6"}]}
{"rollout_id":"b","task_id":"t","reward":0.0,"messages":[{"role":"user","content":"3 + 3?"},{"role":"assistant","content":"5"}]}
"#;

/// The first of them again; the second said something else and earns 0.5; and a third that earns 0.
const LATER: &str = r#"{"rollout_id":"a","task_id":"t","reward":1.0,"messages":[{"role":"user","content":"3 + 3?"},{"role":"assistant","content":"six"},{"role":"user","content":"In digits."},{"role":"assistant","content":"6"}]}
{"rollout_id":"b","task_id":"t","reward":0.5,"messages":[{"role":"user","content":"3 + 3?"},{"role":"assistant","content":"7"}]}
{"rollout_id":"c","task_id":"t","reward":0.0,"messages":[{"role":"user","content":"3 + 3?"},{"role":"assistant","content":"no"}]}
"#;

fn config(settings: &[&str]) -> Config {
    let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
    Config::load(None, &settings).expect("settings")
}

/// A lake with batches of these names, built with the defaults.
async fn lake(folder: &Path, batches: &[(&str, &str)]) -> Lake {
    let lake = Lake::open(folder.join("lake").to_str().expect("UTF-8")).await.expect("a lake");
    for (batch, text) in batches {
        let path = folder.join("runs.jsonl");
        std::fs::write(&path, text).expect("writes");
        let context = Context {
            lake: lake.clone(),
            batch: (*batch).to_owned(),
            config: config(&[]),
            rebuild: false,
            dry_run: false,
            progress: Default::default(),
            stop: Default::default(),
        };
        ingest::run(&context, &[path.display().to_string()]).await.expect("ingests");
        derive::run(&context).await.expect("derives");
        air::run(&context).await.expect("finds");
        credit::run(&context).await.expect("credits");
    }
    lake
}

fn args(folder: &Path) -> DiffArgs {
    DiffArgs {
        other_batch: None,
        other_pipeline: None,
        other_settings: vec!["credit.level=transition".to_owned()],
        limit: 50,
        tolerance: 1e-9,
        format: None,
        output: Some(folder.join("diff.csv")),
    }
}

/// What the command tells, and the differences without `agent` and `call_id`, as lines.
async fn compare(lake: &Lake, this: Side, other: Side, args: DiffArgs) -> anyhow::Result<(Summary, Vec<String>)> {
    let path = args.output.clone().expect("a file");
    let args = DiffArgs { other_batch: Some(other.batch.clone()), ..args };
    let summary = diff::run(lake, (this, other), &config(&[]), &Default::default(), &Default::default(), args).await?;
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        format!("{} {} {} | {}", cells[0], cells[1], cells[2], cells[5..].join(","))
    });
    Ok((summary, lines.collect()))
}

fn side(batch: &str, settings: Option<&[&str]>) -> Side {
    Side { batch: batch.to_owned(), config: settings.map(config) }
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("lists").map(|entry| entry.expect("an entry").path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

/// Over rollouts the mean is 1/2, over calls 2/3. The other agent's calls are dropped, and their advantages stay.
#[test]
fn settings_differ_in_what_they_settle_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("a directory");
    block_on(async {
        let lake = lake(folder.path(), &[("day", RUNS)]).await;
        let before = files(&folder.path().join("lake"));
        let run_id = lake.manifest("credit", "day").await.expect("reads").expect("there").run_id;
        for _ in 0..2 {
            let other = side("day", Some(&["credit.level=transition"]));
            let (summary, rows) = compare(&lake, side("day", Some(&[])), other, args(folder.path())).await.expect("compares");
            assert_eq!(summary.status, "different");
            assert_eq!(summary.counts.iter().map(|(what, n)| (what.as_str(), *n)).collect::<Vec<_>>(), [("advantage", 3)]);
            let over_calls = "(1.0 - 0.6666666666666666) / 1.0 * 1.0";
            assert_eq!(
                rows,
                [
                    format!("advantage a 0 | 0.5,0.33333333333333337,(1.0 - 0.5) / 1.0 * 1.0 -> {over_calls}"),
                    format!("advantage a 1 | 0.5,0.33333333333333337,(1.0 - 0.5) / 1.0 * 1.0 -> {over_calls}"),
                    "advantage b 0 | -0.5,-0.6666666666666666,(0.0 - 0.5) / 1.0 * 1.0 -> (0.0 - 0.6666666666666666) / 1.0 * 1.0"
                        .to_owned(),
                ]
            );
        }
        let other = side("day", Some(&["credit.agents=[\"somebody\"]"]));
        let (_, rows) = compare(&lake, side("day", Some(&[])), other, args(folder.path())).await.expect("compares");
        assert_eq!(rows.len(), 3);
        assert!(rows.iter().all(|row| row.starts_with("dropped") && row.contains("| used,other_agent,")), "{rows:?}");

        let (summary, rows) =
            compare(&lake, side("day", Some(&[])), side("day", Some(&["credit.gamma=0.5"])), args(folder.path()))
                .await
                .expect("compares");
        assert_eq!((summary.status.as_str(), rows.len()), ("equal", 0), "identical credit knows no discount");
        assert_eq!(files(&folder.path().join("lake")), before, "no file came to the lake");
        assert_eq!(lake.manifest("credit", "day").await.expect("reads").expect("there").run_id, run_id);
    });
}

/// With the third run the mean is still 1/2, so that the first has what it had.
#[test]
fn batches_differ_in_what_was_said_and_earned() {
    let folder = tempfile::tempdir().expect("a directory");
    block_on(async {
        let lake = lake(folder.path(), &[("day", RUNS), ("copy", RUNS), ("later", LATER)]).await;
        let (summary, rows) =
            compare(&lake, side("day", None), side("later", None), args(folder.path())).await.expect("compares");
        assert_eq!((summary.rows["this"], summary.rows["other"], summary.rows["different"]), (3, 4, 2));
        let beginnings: Vec<&str> = rows.iter().map(|row| row.split(" | ").next().unwrap_or_default()).collect();
        assert_eq!(beginnings, ["response b 0", "outcome b 0", "return b 0", "advantage b 0", "only_in_other c 0"]);
        assert_eq!(rows[1], "outcome b 0 | 0.0,0.5,");
        assert_eq!(rows[3], "advantage b 0 | -0.5,0.0,(0.0 - 0.5) / 1.0 * 1.0 -> (0.5 - 0.5) / 1.0 * 1.0");
        assert_eq!(rows[4], "only_in_other c 0 | ,used,this has no such rollout");

        let few = DiffArgs { limit: 2, ..args(folder.path()) };
        let (summary, rows) = compare(&lake, side("later", None), side("day", None), few).await.expect("compares");
        assert_eq!((summary.counts["only_in_this"], rows.len()), (1, 2), "counts are of all, rows as many as were asked for");

        let (summary, rows) = compare(&lake, side("day", None), side("copy", None), args(folder.path())).await.expect("compares");
        assert_eq!((summary.status.as_str(), summary.counts.len(), rows.len()), ("equal", 0, 0));
    });
}

#[test]
fn what_cannot_be_compared_is_named() {
    let folder = tempfile::tempdir().expect("a directory");
    block_on(async {
        let lake = lake(folder.path(), &[("day", RUNS)]).await;
        let refused = async |this: Side, other: Side, change: fn(&mut DiffArgs)| {
            let mut args = args(folder.path());
            change(&mut args);
            let error = compare(&lake, this, other, args).await.expect_err("is refused");
            assert!(matches!(error.downcast_ref(), Some(fulgurite::exit::Fault::Usage(_))), "{error:#}");
            error.to_string()
        };
        let none = |_: &mut DiffArgs| {};
        let error = refused(side("day", None), side("dya", None), none).await;
        assert!(error.starts_with("there is no batch `dya` in") && error.ends_with("there are `day`"), "{error}");
        let error = refused(side("dya", Some(&[])), side("day", Some(&[])), none).await;
        assert!(error.starts_with("there is no batch `dya` in"), "{error}");
        let error = refused(side("day", None), side("day", None), none).await;
        assert_eq!(error, "`day` is compared with itself; name another batch or other settings");
        let error = refused(side("day", Some(&[])), side("day", Some(&[])), |args| args.tolerance = -1.0).await;
        assert_eq!(error, "`--tolerance` is -1; it has to be 0 or more");
    });
}
