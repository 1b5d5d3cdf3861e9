//! Ingest on input that is broken, hostile or large: none of it stops the run, uses unbounded memory or loses a record silently.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A folder with trace files and a lake.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let lake = self.folder.path().join("lake");
        Command::new(env!("CARGO_BIN_EXE_fulgurite")).args(arguments).args(["--lake"]).arg(lake).output().unwrap()
    }

    fn ingest(&self, paths: &[&Path]) -> Value {
        let mut arguments = vec!["ingest", "--batch", "b", "--json", "--quiet"];
        arguments.extend(paths.iter().map(|path| path.to_str().unwrap()));
        let output = self.run(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn rows(&self, query: &str) -> Vec<Value> {
        let output = self.run(&["sql", query, "--format", "jsonl", "--quiet"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// One OTLP span as a line of JSON, with extra fields.
fn span(trace: u32, span: u32, extra: Value) -> String {
    let mut fields = json!({
        "traceId": format!("{trace:032x}"), "spanId": format!("{span:016x}"), "name": "chat m", "kind": 1,
        "startTimeUnixNano": format!("{}", 1_000_000_000 + u64::from(span)), "endTimeUnixNano": format!("{}", 2_000_000_000 + u64::from(span)),
        "attributes": [
            {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
            {"key": "gen_ai.request.model", "value": {"stringValue": "m"}},
        ],
    });
    fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]}).to_string()
}

/// A line that is fine, to see that it survives its neighbours.
fn good(number: u32) -> String {
    span(number, number, json!({}))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Ingests one file: how many spans there are, and the codes, lines and offsets of the rejects.
fn check(name: &str, bytes: &[u8], spans: u64, rejects: &[(&str, i64)]) {
    let bench = Bench::new();
    let path = bench.write(name, bytes);
    let summary = bench.ingest(&[&path]);
    assert_eq!(summary["rows"]["spans"], spans, "{name}: spans");
    let found: Vec<(String, i64)> = bench
        .rows("select code, source_line, reason, raw, source_file from rejects order by source_line, byte_offset")
        .iter()
        .map(|row| {
            assert_eq!(row["source_file"], path.to_str().unwrap());
            assert!(!row["reason"].as_str().unwrap().is_empty());
            assert!(row["raw"].as_str().is_none_or(|raw| raw.len() <= 64 << 10), "{name}: raw text is not bounded");
            (row["code"].as_str().unwrap().to_owned(), row["source_line"].as_i64().unwrap())
        })
        .collect();
    let found: Vec<(&str, i64)> = found.iter().map(|(code, line)| (code.as_str(), *line)).collect();
    assert_eq!(found, rejects, "{name}: rejects");
}

#[test]
fn broken_records_are_set_aside_and_their_neighbours_kept() {
    let lines = |middle: &[u8]| [good(1).as_bytes(), b"\n", middle, b"\n", good(2).as_bytes(), b"\n"].concat();
    let truncated = &good(3)[..40];
    check("truncated.jsonl", &lines(truncated.as_bytes()), 2, &[("truncated", 2)]);
    check("first.jsonl", format!("{truncated}\n{}\n{}\n", good(1), good(2)).as_bytes(), 2, &[("truncated", 1)]);
    let document = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&good(3)).unwrap()).unwrap();
    check("document.jsonl", &lines(document.as_bytes()), 3, &[]);
    check("several.jsonl", &lines(format!("{} {}", good(3), good(4)).as_bytes()), 4, &[]);
    check("garbage.jsonl", &lines(b"{not json}"), 2, &[("json", 2)]);
    check("words.jsonl", &lines(b"some words"), 2, &[("json", 2)]);
    check("utf8.jsonl", &lines(b"{\"resourceSpans\": \"\xff\xfe\"}"), 2, &[("utf8", 2)]);
    check("unknown.jsonl", &lines(b"{\"neither\": \"this\", \"nor\": \"that\"}"), 2, &[("unknown_format", 2)]);
    let deep = format!("{{\"resourceSpans\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    check("deep.jsonl", &lines(deep.as_bytes()), 2, &[("too_deep", 2)]);
    check(
        "mixed.jsonl",
        &lines(br#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}"#),
        3,
        &[],
    );
}

#[test]
fn broken_files_are_set_aside_as_far_as_they_are_broken() {
    check("empty.jsonl", b"", 0, &[]);
    check("blank.jsonl", b"\n \n", 0, &[]);
    check("program", b"\x7fELF\x02\x01\x01\x00\x00\x00", 0, &[("unknown_format", 1)]);
    check("notes.txt", b"nothing to see here\n", 0, &[("unknown_format", 1)]);
    let document = format!("[\n{},\n{}", good(1), &good(2)[..60]);
    check("cut.json", document.as_bytes(), 1, &[("truncated", 3)]);

    let many: String = (0..2000).map(|number| good(number) + "\n").collect();
    let whole = gzip(many.as_bytes());
    let bench = Bench::new();
    let path = bench.write("cut.jsonl.gz", &whole[..whole.len() / 2]);
    let summary = bench.ingest(&[&path]);
    let spans = summary["rows"]["spans"].as_u64().unwrap();
    assert!((1..2000).contains(&spans), "what came before the cut is kept: {spans}");
    assert!(!bench.rows("select 1 from rejects where code = 'compression'").is_empty());

    let whole = zstd::encode_all(many.as_bytes(), 3).unwrap();
    let path = bench.write("cut.jsonl.zst", &whole[..whole.len() - 5]);
    bench.ingest(&[&path]);
    assert!(!bench.rows("select 1 from rejects where code = 'compression'").is_empty());
}

#[test]
fn odd_spans_are_kept() {
    let bench = Bench::new();
    let id = |number: u32| format!("{number:016x}");
    let evaluation = |value: Value| {
        json!({"attributes": [
            {"key": "agentlightning.reward.0.name", "value": {"stringValue": "primary"}},
            {"key": "agentlightning.reward.0.value", "value": value},
        ], "name": "agentlightning.annotation"})
    };
    let lines = [
        span(1, 1, json!({"parentSpanId": id(2)})),
        span(1, 2, json!({"parentSpanId": id(1)})),  // parents in a circle
        span(2, 3, json!({"parentSpanId": id(99)})), // an orphan
        span(3, 4, json!({"startTimeUnixNano": "5000000000", "endTimeUnixNano": "4000000000"})),
        span(4, 5, json!({"kind": "SPAN_KIND_OF_TOMORROW", "status": {"code": "STATUS_CODE_PURPLE"}})),
        span(5, 6, evaluation(json!({"doubleValue": "NaN"}))),
        span(5, 7, evaluation(json!({"doubleValue": "Infinity"}))),
        span(5, 8, evaluation(json!({"doubleValue": 0.5}))),
    ];
    let path = bench.write("odd.jsonl", lines.join("\n"));
    bench.ingest(&[&path]);
    let spans = bench.rows("select span_id, parent_span_id, start_ns, end_ns from spans order by span_id");
    for number in [1, 2, 3, 4, 5, 8] {
        assert!(spans.iter().any(|span| span["span_id"].as_str() == Some(&id(number))), "span {number} is lost: {spans:?}");
    }
    let values = bench.rows("select reward_value from spans where reward_value is not null");
    assert_eq!(values, [json!({"reward_value": 0.5})]);
    assert_eq!(bench.rows("select 1 from rejects where source_line in (6, 7)").len(), 2, "infinite rewards are set aside");
}

#[test]
fn the_same_file_twice_counts_once() {
    let bench = Bench::new();
    let lines = format!("{}\n{}\n", good(1), good(2));
    let (first, second) = (bench.write("a.jsonl", &lines), bench.write("b.jsonl", &lines));
    let summary = bench.ingest(&[&first, &second]);
    assert_eq!(summary["rows"]["spans"], 4);
    assert_eq!(bench.rows("select 1 from spans where dedup_of is null").len(), 2);
}

#[test]
fn a_huge_line_is_set_aside_in_bounded_memory() {
    let bench = Bench::new();
    let path = bench.folder.path().join("huge.jsonl");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    writeln!(file, "{}", good(1)).unwrap();
    write!(file, "{{\"resourceSpans\": \"").unwrap();
    for _ in 0..200 {
        file.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    writeln!(file, "\"}}\n{}", good(2)).unwrap();
    drop(file);
    let lake = bench.folder.path().join("lake");
    let command = "ulimit -v 2000000; exec \"$0\" ingest \"$1\" --lake \"$2\" --batch b --quiet --threads 2";
    let status =
        Command::new("sh").args(["-c", command, env!("CARGO_BIN_EXE_fulgurite")]).arg(&path).arg(&lake).status().unwrap();
    assert!(status.success());
    assert_eq!(bench.rows("select 1 from spans").len(), 2);
    let rejects = bench.rows("select code, source_line, size_bytes, length(raw) as raw from rejects");
    assert_eq!(rejects.len(), 1);
    assert_eq!((rejects[0]["code"].as_str(), rejects[0]["source_line"].as_i64()), (Some("too_large"), Some(2)));
    assert!(rejects[0]["size_bytes"].as_i64().unwrap() > 200 << 20);
}

#[test]
fn too_many_rejects_end_the_stage_and_commit_nothing() {
    let bench = Bench::new();
    let path = bench.write("a.jsonl", format!("{}\nbroken {{\n{}\n", good(1), good(2)));
    let path = path.to_str().unwrap();
    let refused = bench.run(&["ingest", path, "--batch", "b", "--max-rejects", "0"]);
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(message.contains("1 of 3 records") && message.contains("a.jsonl:2"), "{message}");
    assert!(!bench.folder.path().join("lake/_manifests/ingest").exists());
    assert!(bench.run(&["ingest", path, "--batch", "b", "--max-rejects", "40%"]).status.success());
    assert_eq!(bench.run(&["ingest", path, "--batch", "b", "--max-rejects", "many"]).status.code(), Some(2));
}

#[test]
fn large_input_gives_the_same_rows_on_one_thread_and_on_three() {
    let bench = Bench::new();
    let padding = "p".repeat(20_000);
    let text: String =
        (1..=3000).map(|number| span(number % 700, number, json!({"status": {"code": 1, "message": padding}})) + "\n").collect();
    let path = bench.write("large.jsonl", text);
    let dump = |threads: &str, lake: &str| {
        let lake = bench.folder.path().join(lake);
        let run = |arguments: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_fulgurite")).args(arguments).arg("--lake").arg(&lake).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        run(&["ingest", path.to_str().unwrap(), "--batch", "b", "--quiet", "--threads", threads]);
        run(&["sql", "select * from spans order by rollout_id, seq", "--format", "csv", "--quiet"])
    };
    let one = dump("1", "one");
    assert_eq!(one.iter().filter(|byte| **byte == b'\n').count(), 3001);
    assert!(one == dump("3", "three"), "the rows depend on the number of threads");
}

#[cfg(unix)]
#[test]
fn a_folder_without_permission_is_set_aside() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let path = bench.write("good.jsonl", good(1));
    let locked = bench.folder.path().join("locked");
    std::fs::create_dir(&locked).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read_dir(&locked).is_ok() {
        crate::peers::skip("this user may read every folder (root), so a folder without permission cannot be made");
    } else {
        let summary = bench.ingest(&[&path, &locked]);
        assert_eq!(summary["rows"]["spans"], 1);
        assert_eq!(bench.rows("select 1 from rejects where code = 'unreadable'").len(), 1);
    }
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o700)).unwrap();
}

/// A span of one call, `trace`'s only, that begins so many seconds after midnight of 2026-11-22.
fn call_at(trace: u32, seconds: i64) -> String {
    let start_ns = 1_795_305_600_000_000_000 + seconds * 1_000_000_000;
    let times = json!({"startTimeUnixNano": format!("{start_ns}"), "endTimeUnixNano": format!("{}", start_ns + 60_000_000_000)});
    span(trace, trace, times)
}

#[test]
fn a_period_takes_the_rollouts_that_began_in_it() {
    let bench = Bench::new();
    let lines = [call_at(1, -30), call_at(2, 0), call_at(3, 86_400 - 30), call_at(4, 86_400)];
    let path = bench.write("days.jsonl", lines.join("\n"));
    let path = path.to_str().unwrap();
    let ingest = |batch: &str, bounds: &[&str]| {
        let output = bench.run(&[&["ingest", path, "--batch", batch, "--json", "--quiet"], bounds].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let day = ingest("2026-11-22", &["--since", "2026-11-22", "--until", "2026-11-23"]);
    assert_eq!((day["rows"]["spans"].as_u64(), day["counts"]["rollouts_left_out"].as_u64()), (Some(2), Some(2)));
    assert_eq!(ingest("2026-11-22", &["--since", "2026-11-22", "--until", "2026-11-23"])["status"], "nothing_to_do");
    assert_eq!(ingest("later", &["--since", "2026-11-23"])["rows"]["spans"], 1);
    assert_eq!(ingest("before", &["--until", "2026-11-22T00:00:00Z"])["rows"]["spans"], 1);
    assert_eq!(bench.run(&["ingest", path, "--batch", "b", "--since", "monday"]).status.code(), Some(2));
}

#[test]
fn a_score_that_comes_a_day_later_makes_its_batch_stale() {
    let bench = Bench::new();
    let runs = bench.write(
        "runs.jsonl",
        r#"{"id":"r","trace_id":"r","run_type":"llm","name":"m","start_time":"2026-11-22T12:00:00Z","end_time":"2026-11-22T12:00:01Z","dotted_order":"20261122T120000000000Zr","inputs":{"messages":[{"role":"user","content":"q"}]},"outputs":{"choices":[{"index":0,"message":{"role":"assistant","content":"a"}}]}}"#,
    );
    let status = |summary: &Value| summary["status"].as_str().unwrap().to_owned();
    let build = || {
        let output = bench.run(&["derive", "--batch", "b", "--json", "--quiet"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(status(&bench.ingest(&[&runs])), "done");
    assert_eq!(status(&build()), "done");
    assert_eq!(status(&build()), "nothing_to_do");
    let feedback = bench.write(
        "feedback.jsonl",
        r#"{"id":"f","run_id":"r","trace_id":"r","key":"correctness","score":0.5,"created_at":"2026-11-23T12:00:00Z"}"#,
    );
    assert_eq!(status(&bench.ingest(&[&runs, &feedback])), "done");
    assert_eq!(status(&build()), "done");
    assert_eq!(bench.rows("select name, value from rewards"), [json!({"name": "correctness", "value": 0.5})]);
    // The same trace in two files counts once.
    let again = bench.write("again.jsonl", std::fs::read(&runs).unwrap());
    bench.ingest(&[&runs, &feedback, &again]);
    build();
    assert_eq!(bench.rows("select count(*) as calls from calls"), [json!({"calls": 1})]);
}

/// A run of one trace: a session, three calls and their tools, ten seconds each, and a reward; by time.
fn rotated_run() -> Vec<String> {
    let id = |number: u32| format!("{number:016x}");
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let at = |number: u32, more: Value| {
        let start_ns = 1_795_305_600_000_000_000 + i64::from(number) * 10_000_000_000;
        let mut extra =
            json!({"startTimeUnixNano": format!("{start_ns}"), "endTimeUnixNano": format!("{}", start_ns + 5_000_000_000)});
        extra.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        span(7, number, extra)
    };
    let mut lines = vec![at(1, json!({"name": "run", "attributes": [text("gen_ai.operation.name", "invoke_agent")]}))];
    for number in [2, 4, 6] {
        lines.push(at(number, json!({"parentSpanId": id(1)})));
        let tool = [text("gen_ai.operation.name", "execute_tool"), text("gen_ai.tool.name", "f")];
        lines.push(at(number + 1, json!({"parentSpanId": id(1), "name": "execute_tool f", "attributes": tool})));
    }
    let reward = [
        text("agentlightning.reward.0.name", "primary"),
        json!({"key": "agentlightning.reward.0.value", "value": {"doubleValue": 1.0}}),
    ];
    lines.push(at(8, json!({"parentSpanId": id(1), "name": "agentlightning.annotation", "attributes": reward})));
    lines
}

#[test]
fn a_rollout_over_rotated_files_is_one_whatever_their_order() {
    let lines = rotated_run();
    let told = "select rollout_id, seq, span_id, depth, kind, name, start_ns from spans order by rollout_id, seq";
    let check = |pieces: [usize; 3], order: [usize; 3]| {
        let bench = Bench::new();
        let text = |from: usize, to: usize| lines[from..to].join("\n") + "\n";
        let oldest = bench.write("trace.jsonl.2.gz", gzip(text(0, pieces[0]).as_bytes()));
        let older = bench.write("trace.jsonl.1", text(pieces[0], pieces[0] + pieces[1]));
        let newest = bench.write("trace.jsonl", text(pieces[0] + pieces[1], pieces.iter().sum()));
        let files = [&newest, &older, &oldest];
        let summary = bench.ingest(&order.map(|file| files[file].as_path()));
        assert_eq!(summary["rows"]["spans"], 8);
        bench.rows(told)
    };
    let expected = check([8, 0, 0], [0, 1, 2]);
    let order: Vec<String> = expected.iter().map(|row| row["span_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(order, (1..=8).map(|number| format!("{number:016x}")).collect::<Vec<_>>());
    assert!(expected.iter().all(|row| row["rollout_id"] == expected[0]["rollout_id"]));
    for (pieces, order) in [([3, 3, 2], [0, 1, 2]), ([3, 3, 2], [2, 0, 1]), ([1, 6, 1], [1, 2, 0])] {
        assert_eq!(check(pieces, order), expected, "{pieces:?} given as {order:?}");
    }
}

#[test]
fn late_spans_join_the_rollout_of_before() {
    let bench = Bench::new();
    let lines = rotated_run();
    let text = |from: usize, to: usize| lines[from..to].join("\n") + "\n";
    let run = |arguments: &[&str]| {
        let output = bench.run(&[arguments, &["--batch", "b", "--json", "--quiet"]].concat());
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), summary, String::from_utf8(output.stderr).unwrap())
    };
    let found = || {
        run(&["derive"]);
        let query = "select (select count(*) from spans) as spans, (select count(*) from calls) as calls, (select count(*) from rollouts) as rollouts, \
                     (select sum(reward) from rollouts) as reward";
        let row = bench.rows(query).remove(0);
        [&row["spans"], &row["calls"], &row["rollouts"], &row["reward"]].map(|value| value.as_f64().unwrap_or(-1.0))
    };
    let trace = bench.write("trace.jsonl", text(0, 3));
    let trace = trace.to_str().unwrap();
    assert_eq!(run(&["ingest", trace]).0, Some(0));
    assert_eq!(found(), [3.0, 1.0, 1.0, -1.0]);

    // A file that comes later; said again, nothing is to do.
    let late = bench.write("late.jsonl", text(7, 8));
    let late = late.to_str().unwrap();
    assert_eq!(run(&["ingest", late, "--add"]).1["status"], "done");
    assert_eq!(run(&["ingest", late, "--add"]).1["status"], "nothing_to_do");
    assert_eq!(found(), [4.0, 1.0, 1.0, 1.0]);

    // The file of before has grown.
    bench.write("trace.jsonl", text(0, 5));
    assert_eq!(run(&["ingest", late, "--add"]).1["rows"]["spans"], 6);
    assert_eq!(found(), [6.0, 2.0, 1.0, 1.0]);

    // It was rotated: under its name stands another file now.
    let rotated = bench.write("trace.jsonl.1.gz", gzip(text(0, 5).as_bytes()));
    bench.write("trace.jsonl", text(5, 7));
    let (code, _, message) = run(&["ingest", trace, "--add"]);
    assert!(code == Some(1) && message.contains("trace.jsonl`"), "{code:?} {message}");
    assert_eq!(found(), [6.0, 2.0, 1.0, 1.0]);
    assert_eq!(run(&["ingest", trace, rotated.to_str().unwrap(), "--add"]).1["rows"]["spans"], 8);
    assert_eq!(found(), [8.0, 3.0, 1.0, 1.0]);

    // Without `--add` the batch is the files that are given.
    let (code, replaced, _) = run(&["ingest", trace]);
    assert_eq!((code, &replaced["rows"]["spans"]), (Some(0), &json!(2)));
    assert!(replaced["warnings"][0].as_str().unwrap().starts_with("2 files of before"), "{replaced}");
    std::fs::remove_file(trace).unwrap();
    assert_eq!(run(&["ingest", late, "--add"]).0, Some(1));
}

#[test]
fn ten_thousand_files_need_few_at_a_time() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("many");
    std::fs::create_dir(&folder).unwrap();
    // Together they are too large for the spans to stay in memory; every trace is in two files.
    let filler = "x".repeat(4 << 10);
    for number in 1..=10_000u32 {
        let text = json!({"attributes": [{"key": "filler", "value": {"stringValue": filler}}]});
        std::fs::write(folder.join(format!("{number}.jsonl")), span(number.div_ceil(2), number, text)).unwrap();
    }
    let lake = bench.folder.path().join("lake");
    let command = "ulimit -n 128 && exec \"$0\" ingest \"$1\" --batch b --json --quiet --lake \"$2\"";
    let output =
        Command::new("sh").args(["-c", command, env!("CARGO_BIN_EXE_fulgurite")]).arg(&folder).arg(&lake).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = bench.rows("select count(*) as spans, count(distinct rollout_id) as rollouts from spans");
    assert_eq!(found, [json!({"spans": 10_000, "rollouts": 5_000})]);
    assert_eq!(bench.rows("select code, reason from rejects limit 3"), [] as [Value; 0]);
}
