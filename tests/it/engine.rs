//! The engine of SQL stages: what a user's SQL file may do, and what it is told when it is wrong. The stage `values` stands for any.

use std::collections::BTreeMap;

use anyhow::Result;
use datafusion::scalar::ScalarValue;
use fulgurite::engine::{self, SqlFile, SqlStage, StageInput};
use fulgurite::exit::{ExitCode, code_of};
use fulgurite::lake::Lake;
use fulgurite::stage::{Context, Summary};
use serde_json::json;

use crate::cases::{self, Tables, block_on};

const RIGHT: &str = "\
-- values/x: a value for each call.
--
-- reads   calls
-- writes  values
-- grain   rollout_id, step
-- params  $base Float64               -- value of the first call

select rollout_id, call_id, step, $base + step as value from calls
";

fn file(name: &str, text: &str) -> Result<SqlFile> {
    SqlFile::parse(name, text, Some(format!("mine/{name}.sql")))
}

fn stage(files: Vec<SqlFile>, audits: Vec<SqlFile>) -> SqlStage {
    SqlStage {
        name: "values",
        inputs: vec![StageInput::required("derive")],
        files,
        audits,
        relations: vec![],
        params: BTreeMap::from([("base".to_owned(), ScalarValue::Int64(Some(2)))]),
        config: json!({}),
    }
}

async fn lake() -> Lake {
    let mut tables = Tables::default();
    for step in 0..3 {
        tables.add("calls", json!({ "rollout_id": "r", "step": step }));
    }
    cases::lake(&tables, &["derive"], 1).await.expect("a lake")
}

async fn run(context: &Context, text: &str) -> Result<Summary> {
    engine::run(context, stage(vec![file("values/x", text)?], vec![])).await
}

#[test]
fn a_wrong_file_is_told_what_is_right() {
    let cases = [
        ("-- reads   calls", "-- reads   rollouts", "says `reads rollouts`, but the statement reads `calls`"),
        ("-- writes  values", "-- writes  valves", "no SQL file of this stage writes `values`"),
        ("-- grain   rollout_id, step", "-- grain   rollout", "the grain names `rollout`, which is no column of `values`"),
        ("-- params", "-- order   base\n-- params", "the order names `base`, which is no column of `values`"),
        ("$base Float64", "$bass Float64", "`$base` stands in the statement but not in the header's params (`$bass`)"),
        ("$base + step", "1.5 + step", "the header's params are `$base`, the statement's are "),
        ("$base", "$other", "parameter `$other` has no value; this stage sets `$base`"),
        ("$base Float64", "$base Boolean", "Cannot coerce arithmetic expression Boolean + Int64"),
        ("$base + step as value", "cast($base as bigint) + step as value", "write `cast(... as double)`"),
        ("call_id, step", "step", "`values` has the column `call_id`, the statement has only rollout_id, step, value"),
        ("as value", "as value, 1 as more", "column `more` is not in `values`"),
        ("from calls", "from calls where", "mine/values/x.sql"),
        ("from calls\n", "from calls; select 1\n", "more or less than one statement"),
        ("select rollout_id", "drop table calls --", "a statement that is no query"),
        ("rollout_id, call_id", "rollout, call_id", "rollout"),
    ];
    block_on(async {
        let context = cases::context(&lake().await, &[]).expect("a context");
        for (right, wrong, expected) in cases {
            let text = RIGHT.replace(right, wrong);
            assert_ne!(text, RIGHT, "{right}");
            let error = run(&context, &text).await.expect_err(wrong);
            assert!(format!("{error:#}").contains(expected), "{wrong}: {error:#}");
            assert_eq!(code_of(&error), ExitCode::Usage, "{wrong}: {error:#}");
        }
        assert!(context.lake.manifest("values", cases::BATCH).await.expect("reads").is_none(), "nothing was committed");
    });
}

#[test]
fn a_stage_runs_once_and_says_why_it_runs_again() {
    block_on(async {
        let mut context = cases::context(&lake().await, &[]).expect("a context");
        let first = run(&context, RIGHT).await.expect("runs");
        assert_eq!((first.status.as_str(), first.rows["values"]), ("done", 3));
        let rows = cases::query(&context, "select value from \"values\" order by step").await.expect("reads");
        assert_eq!(cases::numbers(&rows, "value"), [Some(2.0), Some(3.0), Some(4.0)]);

        let again = run(&context, RIGHT).await.expect("runs");
        assert_eq!((again.status.as_str(), again.manifest), ("nothing_to_do", first.manifest.clone()));
        let changed = RIGHT.replace("$base + step", "$base - step");
        let stale = stage(vec![file("values/x", &changed).expect("parses")], vec![]);
        let freshness = engine::freshness(&context, &stale).await.expect("compares");
        assert_eq!(freshness.reasons(), ["`values/x` changed"]);

        context.dry_run = true;
        assert_eq!(run(&context, &changed).await.expect("checks").status, "would_run");
        context.dry_run = false;
        context.lake.seal("values", cases::BATCH).await.expect("seals");
        assert_eq!(run(&context, &changed).await.expect("leaves it").status, "sealed");
        context.rebuild = true;
        assert_eq!(run(&context, &changed).await.expect("runs").status, "done");
    });
}

#[test]
fn rows_that_break_the_grain_or_an_audit_are_not_committed() {
    let audit = "-- audits/small: values stay below four.\n--\n-- reads   values\n-- audits  values\n\n\
                 select rollout_id, step, value from \"values\" where value >= 4\n";
    block_on(async {
        let context = cases::context(&lake().await, &[]).expect("a context");
        let twice =
            RIGHT.replace("from calls\n", "from calls union all select rollout_id, call_id, step, 0.5 as value from calls\n");
        let error = run(&context, &twice).await.expect_err("two rows for each call");
        assert!(format!("{error:#}").contains("several with rollout_id = `r`, step = `0`"), "{error:#}");
        assert_eq!(code_of(&error), ExitCode::Failed);

        // In a relation that a table is made of, it is the relation's file that is named.
        let end = "-- values/end: as they are.\n--\n-- reads twice\n-- writes values\n-- grain rollout_id, step\n\nselect * from twice\n";
        let files = [("values/x", twice.replace("writes  values", "writes  twice")), ("values/end", end.to_owned())];
        let files = files.iter().map(|(name, text)| file(name, text).expect("parses")).collect();
        let error = engine::run(&context, stage(files, vec![])).await.expect_err("two rows for each call");
        assert!(format!("{error:#}").starts_with("`mine/values/x.sql`: the grain of `twice` is rollout_id, step"), "{error:#}");

        let files = vec![file("values/x", RIGHT).expect("parses")];
        let error = engine::run(&context, stage(files, vec![file("audits/small", audit).expect("parses")])).await;
        let error = error.expect_err("the third value is 4");
        assert!(format!("{error:#}").contains("| r          | 2    | 4.0   |"), "{error:#}");
        assert_eq!(code_of(&error), ExitCode::Failed);
        assert!(context.lake.manifest("values", cases::BATCH).await.expect("reads").is_none(), "nothing was committed");
    });
}

#[test]
fn an_input_that_was_not_made_is_named() {
    block_on(async {
        let context = cases::context(&Lake::open("memory://").await.expect("a lake"), &[]).expect("a context");
        let error = run(&context, RIGHT).await.expect_err("derive has not run");
        assert!(format!("{error:#}").contains("run `fulgurite derive` on it first"), "{error:#}");
        assert_eq!(code_of(&error), ExitCode::Usage);
    });
}

/// A relation that two files read is computed once, or its random numbers would not cancel; one that two files write holds the rows of
/// both.
#[test]
fn files_hand_relations_to_each_other() {
    let write = |name: &str, reads: &str, writes: &str, sql: &str| {
        let text = format!("-- {name}: test.\n--\n-- reads {reads}\n-- writes {writes}\n-- grain rollout_id, step\n\n{sql}\n");
        file(name, &text).expect("parses")
    };
    let sum = "select drawn.rollout_id, drawn.call_id, drawn.step, drawn.value + negated.value + drawn.step as value from drawn \
               inner join negated on negated.rollout_id = drawn.rollout_id and negated.step = drawn.step";
    let files = vec![
        write("values/sum", "drawn, negated", "values", sum),
        write("values/negated", "drawn", "negated", "select step, rollout_id, -value as value from drawn"),
        write(
            "values/even",
            "calls",
            "drawn",
            "select rollout_id, call_id, step, random() as value from calls where step % 2 = 0",
        ),
        write(
            "values/odd",
            "calls",
            "drawn",
            "select random() as value, step, call_id, rollout_id from calls where step % 2 = 1",
        ),
    ];
    block_on(async {
        let context = cases::context(&lake().await, &[]).expect("a context");
        engine::run(&context, stage(files, vec![])).await.expect("runs");
        let rows = cases::query(&context, "select value from \"values\" order by step").await.expect("reads");
        assert_eq!(cases::numbers(&rows, "value"), [Some(0.0), Some(1.0), Some(2.0)]);
    });
}

/// Neither side of the join fits into memory, but those of a range of rollouts do.
#[test]
fn a_join_larger_than_memory_runs_by_ranges() {
    let (rollouts, calls) = (60_i64, 10_i64);
    let write = |name: &str, reads: &str, writes: &str, sql: &str| {
        let header = format!("-- reads {reads}\n-- writes {writes}\n-- grain rollout_id, step\n-- within rollout_id");
        let mut file = file(name, &format!("-- {name}: test.\n--\n{header}\n\n{sql}\n")).expect("parses");
        file.path = None; // the grain of a user's file is looked at beforehand, over everything at once
        file
    };
    let many = format!(
        "select a.rollout_id, a.call_id, (a.step * {calls} + b.step) * {calls} + c.step as step, \
         repeat(cast(a.step * b.step + c.step as text), 900) as text \
         from calls as a join calls as b on b.rollout_id = a.rollout_id join calls as c on c.rollout_id = a.rollout_id"
    );
    let joined = "select one.rollout_id, one.call_id, one.step, cast(length(one.text) + length(other.text) as double) as value \
                  from many as one join many as other on other.rollout_id = one.rollout_id and other.step = one.step";
    let files = || vec![write("values/many", "calls", "many", &many), write("values/joined", "many", "values", joined)];
    block_on(async {
        let mut tables = Tables::default();
        for rollout in 0..rollouts {
            for step in 0..calls {
                tables.add("calls", json!({ "rollout_id": format!("r{rollout:02}"), "step": step }));
            }
        }
        let lake = cases::lake(&tables, &["derive"], 1).await.expect("a lake");
        let context = |range_rows: i64| {
            let values = [("engine.memory_mib", "64"), ("threads", "2"), ("engine.range_rows", &range_rows.to_string())];
            cases::context(&lake, &cases::settings(&values)).expect("a context")
        };
        let error = engine::run(&context(0), stage(files(), vec![])).await.expect_err("does not fit");
        assert!(format!("{error:#}").contains("Resources exhausted"), "{error:#}");
        let context = context(50);
        let summary = engine::run(&context, stage(files(), vec![])).await.expect("runs by ranges");
        assert_eq!(summary.rows["values"], (rollouts * calls.pow(3)) as u64);
        let rows = cases::query(&context, "select sum(value) as value from \"values\"").await.expect("reads");
        let digits = |number: i64| number.to_string().len() as i64;
        let steps = || 0..calls;
        let of_one: i64 =
            steps().flat_map(|a| steps().flat_map(move |b| steps().map(move |c| 2 * 900 * digits(a * b + c)))).sum();
        assert_eq!(cases::numbers(&rows, "value"), [Some((rollouts * of_one) as f64)]);
    });
}

/// `[pipeline] sql` names a folder whose files replace built-in ones of the same name and add others.
#[test]
fn a_pipeline_brings_its_own_files() {
    let folder = tempfile::tempdir().expect("a directory");
    let mine = folder.path().join("sql/derive");
    std::fs::create_dir_all(&mine).expect("a folder");
    let halved = "-- derive/outcomes: half of every outcome.\n--\n-- reads   rewards\n-- writes  outcomes\n-- grain   rollout_id\n\n\
                  select rollout_id, value / 2 as reward, source from rewards where is_outcome\n";
    std::fs::write(mine.join("outcomes.sql"), halved).expect("written");
    let pipeline = folder.path().join("pipeline.toml");
    std::fs::write(&pipeline, "[pipeline]\nsql = \"sql\"\n").expect("written");
    let config = fulgurite::config::Config::load(Some(&pipeline), &[]).expect("loads");
    let files = engine::sql_files(&config).expect("loads");
    assert_eq!(files.get("derive/outcomes").expect("there").text, halved);
    let missing = engine::sql_files(
        &fulgurite::config::Config::load(Some(&pipeline), &["pipeline.sql=nowhere".to_owned()]).expect("loads"),
    );
    assert!(format!("{:#}", missing.expect_err("no such folder")).contains("which is no folder"));
    assert!(format!("{:#}", files.get("derive/outcome").expect_err("misspelt")).contains("`derive/outcomes`"));
}
