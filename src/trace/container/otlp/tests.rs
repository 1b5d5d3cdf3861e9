//! OTLP in every encoding gives the same spans.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::super::{ReadOptions, Sink, read_json, read_proto};
use super::*;
use crate::trace::span::{Kind, Origin, Span};

fn read(text: &str) -> Sink {
    let mut sink = Sink::default();
    read_json(text.as_bytes(), Origin::default(), &ReadOptions::default(), &mut sink)
        .unwrap_or_else(|reject| panic!("{}: {text}", reject.reason()));
    sink
}

fn refused(record: &[u8]) -> &'static str {
    let mut sink = Sink::default();
    let refused = read_json(record, Origin::default(), &ReadOptions::default(), &mut sink).expect_err("record is broken");
    assert!(sink.spans.is_empty() && sink.rejects.is_empty(), "a refused record leaves nothing behind");
    refused.code()
}

/// A request with one span that has these fields beside its ids.
fn request(fields: serde_json::Value) -> String {
    let mut span = json!({"traceId": "808a7a5f85cd3e5895cb0472f7733f5b", "spanId": "c1e38046157ad96c"});
    span.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).to_string()
}

fn only_span(text: &str) -> Span {
    let mut sink = read(text);
    assert_eq!((sink.spans.len(), sink.rejects.len()), (1, 0), "{text}");
    sink.spans.remove(0)
}

#[test]
fn values_of_attributes() {
    let check = |value: serde_json::Value, expected: &str| {
        let span = only_span(&request(json!({"attributes": [{"key": "k", "value": value}]})));
        assert_eq!(span.attributes_json.as_deref(), Some(expected), "{value}");
    };
    check(json!({"stringValue": "a\"\n\u{e9}"}), "{\"k\":\"a\\\"\\n\u{e9}\"}");
    check(json!({"string_value": "x"}), r#"{"k":"x"}"#);
    check(json!({"intValue": "-13"}), r#"{"k":-13}"#);
    check(json!({"intValue": 9007199254740993i64}), r#"{"k":9007199254740993}"#);
    check(json!({"intValue": "9223372036854775808"}), r#"{"k":"9223372036854775808"}"#);
    check(json!({"doubleValue": 0.25}), r#"{"k":0.25}"#);
    check(json!({"doubleValue": 3}), r#"{"k":3.0}"#);
    check(json!({"doubleValue": "NaN"}), r#"{"k":"NaN"}"#);
    check(json!({"doubleValue": "0.5"}), r#"{"k":0.5}"#);
    check(json!({"boolValue": false}), r#"{"k":false}"#);
    check(json!({"bytesValue": "AAE="}), r#"{"k":"AAE="}"#);
    check(json!({}), r#"{"k":null}"#);
    check(json!(null), r#"{"k":null}"#);
    check(json!("bare"), r#"{"k":"bare"}"#);
    check(json!({"futureValue": {"a": [1]}}), r#"{"k":null}"#);
    check(json!({"arrayValue": {}}), r#"{"k":[]}"#);
    check(json!({"arrayValue": {"values": [{"stringValue": "a"}, {}, {"intValue": "1"}]}}), r#"{"k":["a",null,1]}"#);
    let inner = json!({"key": "b", "value": {"array_value": {"values": [{"boolValue": true}]}}});
    check(
        json!({"kvlistValue": {"values": [{"key": "a", "value": {"kvlistValue": {"values": [inner]}}}]}}),
        r#"{"k":{"a":{"b":[true]}}}"#,
    );
}

#[test]
fn what_writers_get_wrong_is_mended() {
    let text = request(json!({"attributes": [{"key": "k", "value": {"stringValue": "cut?"}}]})).replace('?', "\\ud83d");
    assert_eq!(only_span(&text).attributes_json.as_deref(), Some("{\"k\":\"cut\u{fffd}\"}"));
    let text = request(json!({"attributes": [{"key": "k", "value": {"doubleValue": 7}}]})).replace(":7}", ":NaN}");
    assert_eq!(only_span(&text).attributes_json.as_deref(), Some(r#"{"k":"NaN"}"#));
}

#[test]
fn times_and_status() {
    let times = |start: serde_json::Value| only_span(&request(json!({"startTimeUnixNano": start}))).start_ns;
    assert_eq!(times(json!("1795363527493000001")), Some(1795363527493000001));
    assert_eq!(times(json!(1795363527493000001u64)), Some(1795363527493000001));
    assert_eq!(times(json!("0")), None);
    assert_eq!(times(json!(null)), None);
    assert_eq!(only_span(&request(json!({}))).start_ns, None);

    let status = |status: serde_json::Value| {
        let span = only_span(&request(json!({"status": status})));
        (span.status, span.status_message, span.attributes_json)
    };
    assert_eq!(status(json!({})), (Status::Unset, None, None));
    assert_eq!(status(json!(null)), (Status::Unset, None, None));
    assert_eq!(status(json!({"code": 0})), (Status::Unset, None, None));
    assert_eq!(status(json!({"code": "STATUS_CODE_OK", "message": ""})), (Status::Ok, None, None));
    assert_eq!(status(json!({"code": 2, "message": "boom"})), (Status::Error, Some("boom".into()), None));
    assert_eq!(status(json!({"code": 9})), (Status::Unset, None, Some(r#"{"otel.status_code":"9"}"#.into())));
}

#[test]
fn events_links_and_surroundings() {
    let span = only_span(
        r#"{"resource_spans":[{"scope_spans":[{"spans":[{"span_id":"C1E38046157AD96C","parent_span_id":"","kind":"SPAN_KIND_NEW","flags":257,
        "links":[{"trace_id":"0xd5344f3ddf84f8c8791bdab4599c72c0","span_id":"fc7f56ce876fef0e","attributes":[{"key":"a","value":{"int_value":1}}]},{}],
        "events":[{"name":"exception","time_unix_nano":"7","attributes":null}],"attributes":null}],
        "scope":{"name":"lib","version":"1.0","attributes":[{"key":"s","value":{"stringValue":"t"}}]}}],
        "resource":{"attributes":[{"key":"service.name","value":{"stringValue":"agent"}}]}}]}"#,
    );
    assert_eq!((span.trace_id, span.span_id.as_str(), span.parent_span_id), (None, "c1e38046157ad96c", None));
    assert_eq!(
        (span.service_name.as_deref(), span.scope_name.as_deref(), span.scope_version.as_deref()),
        (Some("agent"), Some("lib"), Some("1.0"))
    );
    assert_eq!(span.resource_json.as_deref(), Some(r#"{"service.name":"agent"}"#));
    assert_eq!(span.attributes_json.as_deref(), Some(r#"{"otel.scope.s":"t"}"#));
    assert_eq!(span.links.len(), 1);
    assert_eq!(span.links[0].trace_id, "d5344f3ddf84f8c8791bdab4599c72c0");
    assert_eq!(span.links[0].attributes_json.as_deref(), Some(r#"{"a":1}"#));
    assert_eq!(span.events_json.as_deref(), Some(r#"[{"name":"exception","time_ns":7}]"#));
}

#[test]
fn spans_and_logs_of_one_record_are_both_read() {
    let sink = read(
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"spanId":"c1e38046157ad96c"}]}]}],
        "resourceLogs":[{"scopeLogs":[{"logRecords":[{"spanId":"c1e38046157ad96c","observedTimeUnixNano":"5","body":{},
        "attributes":[{"key":"event.name","value":{"stringValue":"gen_ai.choice"}}]}]}]}]}"#,
    );
    assert_eq!((sink.spans.len(), sink.rejects.len()), (2, 0));
    let log = &sink.spans[1];
    assert_eq!((log.kind, log.name.as_str(), log.start_ns, log.origin.position), (Kind::Message, "gen_ai.choice", Some(5), 1));
}

#[test]
fn bad_spans_are_set_aside_alone() {
    let sink = read(
        r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
        {"name":"no id"},
        {"spanId":"c1e38046157ad96c","name":"good"},
        {"spanId":"c1e38046157ad96d","attributes":"text"},
        {"spanId":"c1e38046157ad96e","startTimeUnixNano":"yesterday"},
        17]}]}]}"#,
    );
    assert_eq!(sink.spans.len(), 1);
    assert_eq!((sink.spans[0].name.as_str(), sink.spans[0].origin.position), ("good", 1));
    let found: Vec<_> = sink.rejects.iter().map(|rejected| (rejected.reject.code(), rejected.origin.position)).collect();
    assert_eq!(found, [("missing_field", 0), ("bad_value", 2), ("bad_value", 3), ("bad_value", 4)]);
    assert_eq!(sink.rejects[0].raw, r#"{"name":"no id"}"#);
}

#[test]
fn an_export_may_be_empty_but_not_hold_what_nobody_reads() {
    let empty = [
        r#"{"resourceSpans":[]}"#,
        r#"{"resourceLogs":[],"extra":{"ids":[]}}"#,
        r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"k","value":{"stringValue":"v"}}]},"scopeSpans":[]}]}"#,
        r#"{"scopeSpans":[{"scope":{"name":"s","attributes":[{"key":"k","value":{"intValue":1}}]},"spans":[]}]}"#,
    ];
    for record in empty {
        let sink = read(record);
        assert!(sink.spans.is_empty() && sink.rejects.is_empty(), "{record}");
    }
    for record in [
        r#"{"resourceSpans":[{"scopeSpan":[{"spans":[{"spanId":"c1e38046157ad96c"}]}]}]}"#,
        r#"{"resourceSpans":[{"scopeSpans":[{"scope":{"name":"s"},"span":[{"spanId":"c1e38046157ad96c"}]}]}]}"#,
        r#"{"resourceSpans":[],"data":{"spans":[1]}}"#,
    ] {
        assert_eq!(refused(record.as_bytes()), "unknown_format", "{record}");
    }
}

#[test]
fn hostile_records_are_refused_by_name() {
    assert_eq!(refused(br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"spanId":"c1e3"#), "truncated");
    assert_eq!(refused(br#"{"resourceSpans":[}]}"#), "json");
    assert_eq!(refused(br#"{"resourceSpans":{"a":1}}"#), "bad_value");
    assert_eq!(refused(b"{\"resourceSpans\":[],\"a\":\"\xff\"}"), "utf8");
    assert_eq!(refused(b"{\"resourceMetrics\":[]}"), "unknown_format");
    assert_eq!(refused(b"[]"), "unknown_format");
    assert_eq!(refused(b""), "truncated");
    assert_eq!(refused(b"{}"), "unknown_format");
    let deep = |count: usize| format!("{}1{}", "[".repeat(count), "]".repeat(count));
    for count in [200, 100_000] {
        assert_eq!(refused(deep(count).as_bytes()), "too_deep");
        assert_eq!(refused("[".repeat(count).as_bytes()), "too_deep");
        assert_eq!(refused(format!(r#"{{"resourceSpans":{}}}"#, deep(count)).as_bytes()), "too_deep");
        let wrapped = format!(r#"{}{{"resourceSpans":[]}}{}"#, r#"{"a":"#.repeat(count), "}".repeat(count));
        assert_eq!(refused(wrapped.as_bytes()), "too_deep");
        let value = format!(r#"{}{{}}{}"#, r#"{"arrayValue":{"values":["#.repeat(count), "]}}".repeat(count));
        let attribute = format!(
            r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"spanId":"c1e38046157ad96c","attributes":[{{"key":"k","value":{value}}}]}}]}}]}}]}}"#
        );
        assert_eq!(refused(attribute.as_bytes()), "too_deep");
    }
}

#[test]
fn a_record_cut_anywhere_is_truncated() {
    let fields = json!({"name": "\u{e9}", "kind": 1, "startTimeUnixNano": "7", "status": {"code": 2}, "attributes":
        [{"key": "k", "value": {"arrayValue": {"values": [{"boolValue": true}, {"doubleValue": -1.5e3}, {"stringValue": "\n"}]}}}]});
    let text = request(fields);
    only_span(&text);
    for end in 0..text.len() {
        assert_eq!(refused(&text.as_bytes()[..end]), "truncated", "{}", &text.as_bytes()[..end].escape_ascii());
    }
}

proptest::proptest! {
    /// Nothing that a writer or a disk may do to a record makes a reader panic, or leave something behind of what it refuses.
    #[test]
    fn damaged_records_are_read_or_refused(damage in proptest::collection::vec((0usize..400, proptest::num::u8::ANY), 0..6)) {
        let json = request(json!({"name": "x", "attributes": [{"key": "k", "value": {"kvlistValue": {"values": [
            {"key": "a", "value": {"intValue": "5"}}]}}}], "events": [{"name": "e"}], "links": [{"traceId": "ab"}]}));
        let proto = b"\x0a\x1b\x12\x19\x12\x17\x12\x08\x01\x02\x03\x04\x05\x06\x07\x08\x2a\x01\x78\x4a\x08\x0a\x01k\x12\x03\x0a\x01v".to_vec();
        for (mut record, read) in [(json.into_bytes(), read_json as fn(&[u8], Origin, &ReadOptions, &mut Sink) -> _), (proto, read_proto)] {
            for (at, byte) in &damage {
                let at = at % record.len();
                record[at] = *byte;
            }
            let mut sink = Sink::default();
            match read(&record, Origin::default(), &ReadOptions::default(), &mut sink) {
                Ok(()) => {}
                Err(_) => proptest::prop_assert!(sink.spans.is_empty() && sink.rejects.is_empty()),
            }
        }
    }
}

#[test]
fn messages_that_are_no_request_are_refused() {
    let refused = |message: &[u8]| {
        let mut sink = Sink::default();
        read_proto(message, Origin::default(), &ReadOptions::default(), &mut sink).expect_err("message is broken").code()
    };
    assert_eq!(refused(b"\x0a\x05ab"), "protobuf");
    assert_eq!(refused(b"\xff\xff\xff"), "protobuf");
    assert_eq!(refused(b""), "missing_field");
    // Message in message in message, 2,000 deep: an array value of an array value, built from the inside.
    let mut value = Vec::new();
    for _ in 0..2_000 {
        for tag in [0x0a, 0x2a] {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(value.len() as u64, &mut outer);
            outer.append(&mut value);
            value = outer;
        }
    }
    for tag in [0x12, 0x4a, 0x12, 0x12, 0x0a] {
        let mut outer = vec![tag];
        prost::encoding::encode_varint(value.len() as u64, &mut outer);
        outer.append(&mut value);
        value = outer;
    }
    assert_eq!(refused(&value), "protobuf");
}

#[test]
fn log_records_in_protobuf_are_told_from_spans() {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, LogsData, ResourceLogs, ScopeLogs};
    use prost::Message;

    let body = AnyValue { value: Some(any_value::Value::StringValue("hello".into())) };
    let timed = LogRecord {
        observed_time_unix_nano: 9,
        body: Some(body.clone()),
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        event_name: "e".into(),
        ..LogRecord::default()
    };
    let scope_logs = vec![ScopeLogs { log_records: vec![timed], ..ScopeLogs::default() }];
    let logs = LogsData { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] };
    let mut sink = Sink::default();
    read_proto(&logs.encode_to_vec(), Origin::default(), &ReadOptions::default(), &mut sink).unwrap();
    assert_eq!((sink.spans.len(), sink.rejects.len()), (1, 0));
    let log = &sink.spans[0];
    assert_eq!((log.name.as_str(), log.start_ns, log.parent_span_id.as_deref()), ("e", Some(9), Some("0202020202020202")));
}

/// The recordings, or `None` (and a line that says so) where they are not.
fn samples() -> Option<PathBuf> {
    let shared = std::env::var_os("FULGURITE_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let samples = shared.join("samples");
    if !samples.is_dir() {
        crate::trace::skip(&format!("no recordings at `{}`; set FULGURITE_SHARED", samples.display()));
        return None;
    }
    Some(samples)
}

/// Every record of a JSON file: documents after each other, on lines or not.
fn read_documents(text: &str, sink: &mut Sink) {
    let documents = serde_json::Deserializer::from_str(text).into_iter::<&serde_json::value::RawValue>();
    for (line, document) in (1..).zip(documents) {
        let origin = Origin { line, ..Origin::default() };
        let record = document.expect("recordings are valid JSON").get().as_bytes();
        if let Err(reject) = read_json(record, origin, &ReadOptions::default(), sink) {
            sink.reject(origin, reject, record);
        }
    }
}

/// Messages after their lengths, some of them compressed each alone.
fn read_frames(mut bytes: &[u8], sink: &mut Sink) {
    let mut line = 0;
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        bytes = rest;
        line += 1;
        let origin = Origin { line, ..Origin::default() };
        let message = zstd::decode_all(frame).unwrap_or_else(|_| frame.to_vec());
        let read = if message[0] == b'{' { read_json } else { read_proto };
        if let Err(reject) = read(&message, origin, &ReadOptions::default(), sink) {
            sink.reject(origin, reject, &message);
        }
    }
}

fn read_encoding(path: &Path) -> Sink {
    let mut sink = Sink::default();
    let mut bytes = std::fs::read(path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    if name.ends_with(".gz") {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).unwrap();
        bytes = plain;
    } else if name.ends_with(".zst") {
        bytes = zstd::decode_all(bytes.as_slice()).unwrap();
    }
    match name {
        _ if name.ends_with(".bin") => read_frames(&bytes, &mut sink),
        "single_request.pb" => {
            read_proto(&bytes, Origin { line: 1, ..Origin::default() }, &ReadOptions::default(), &mut sink).unwrap()
        }
        _ => read_documents(std::str::from_utf8(&bytes).unwrap(), &mut sink),
    }
    assert!(sink.rejects.is_empty(), "{name}: {}", sink.rejects[0].reject.reason());
    sink
}

/// Everything that a span says, without where it was read.
fn said(mut span: Span) -> serde_json::Value {
    span.origin = Origin::default();
    span.format = Default::default();
    serde_json::to_value(span).unwrap()
}

#[test]
fn every_encoding_gives_the_same_spans() {
    let Some(samples) = samples() else { return };
    let folder = samples.join("otlp_encodings");
    let expected: Vec<_> = read_encoding(&folder.join("collector_json.jsonl")).spans.into_iter().map(said).collect();
    assert!(expected.len() > 10 && expected.iter().all(|span| span["trace_id"].as_str().is_some_and(|id| id.len() == 32)));
    let first_request = read_encoding(&folder.join("single_request.pb")).spans.len();
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        files += 1;
        let spans: Vec<_> = read_encoding(&path).spans.into_iter().map(said).collect();
        let single = path.file_name().unwrap().to_str().unwrap().starts_with("single");
        let expected = if single { &expected[..first_request] } else { &expected[..] };
        assert_eq!(spans.len(), expected.len(), "{}", path.display());
        for (span, expected) in spans.iter().zip(expected) {
            assert_eq!(span, expected, "{}", path.display());
        }
    }
    assert_eq!(files, 13);
}

#[test]
fn printed_spans_are_read() {
    let span = only_span(
        r#"{"name":"tool","context":{"trace_id":"0xd5344f3ddf84f8c8791bdab4599c72c0","span_id":"0xfc7f56ce876fef0e","trace_state":"[]"},
        "kind":"SpanKind.INTERNAL","parent_id":"0x7e730dc4981fd805","start_time":"2026-11-22T16:07:17.455616Z",
        "end_time":"2026-11-22T16:07:17.507448Z","status":{"status_code":"ERROR","description":"boom"},
        "attributes":{"a":1,"b":["x"],"c":"t"},"events":[{"name":"exception","timestamp":"2026-11-22T16:07:17.5Z","attributes":{"e":"f"}}],
        "links":[{"context":{"trace_id":"0xd5344f3ddf84f8c8791bdab4599c72c1","span_id":"0xfc7f56ce876fef0f"},"attributes":{"g": true}}],
        "resource":{"attributes":{"service.name":"agent"},"schema_url":""}}"#,
    );
    assert_eq!(span.trace_id.as_deref(), Some("d5344f3ddf84f8c8791bdab4599c72c0"));
    assert_eq!((span.span_id.as_str(), span.parent_span_id.as_deref()), ("fc7f56ce876fef0e", Some("7e730dc4981fd805")));
    // By `date -d 2026-11-22T16:07:17Z +%s`.
    assert_eq!((span.start_ns, span.end_ns), (Some(1_795_363_637_455_616_000), Some(1_795_363_637_507_448_000)));
    assert_eq!((span.status, span.status_message.as_deref()), (Status::Error, Some("boom")));
    assert_eq!(span.attributes_json.as_deref(), Some(r#"{"a":1,"b":["x"],"c":"t"}"#));
    let event = r#"[{"name":"exception","time_ns":1795363637500000000,"attributes":{"e":"f"}}]"#;
    assert_eq!(span.events_json.as_deref(), Some(event));
    assert_eq!(span.links[0].attributes_json.as_deref(), Some(r#"{"g":true}"#));
    assert_eq!(
        (span.service_name.as_deref(), span.resource_json.as_deref()),
        (Some("agent"), Some(r#"{"service.name":"agent"}"#))
    );
}

/// Spans of each file by `samples/EXPECTED_SUMMARY.txt`: lines such as `## langfuse_sdk/lf.otlp.jsonl: 12 spans, 2 traces, ...`.
#[test]
fn recordings_have_the_spans_that_their_summary_counts() {
    let Some(samples) = samples() else { return };
    let summary = std::fs::read_to_string(samples.join("EXPECTED_SUMMARY.txt")).unwrap();
    let mut files = 0;
    for (name, rest) in summary.lines().filter_map(|line| line.strip_prefix("## ")?.split_once(": ")) {
        let path = samples.join(name);
        if !(name.ends_with(".otlp.jsonl") || name.starts_with("otel_python_console/")) || !path.exists() {
            continue;
        }
        files += 1;
        let expected: usize = rest.split(' ').next().unwrap().parse().unwrap();
        let mut sink = Sink::default();
        read_documents(&std::fs::read_to_string(&path).unwrap(), &mut sink);
        assert!(sink.rejects.is_empty(), "{name}: {}", sink.rejects[0].reject.reason());
        assert_eq!(sink.spans.len(), expected, "{name}");
    }
    assert!(files >= 10, "only {files} recordings were found");
}

#[test]
fn status_codes_have_many_names() {
    for name in ["STATUS_CODE_ERROR", "ERROR", "Error", "StatusCode.ERROR", "2"] {
        assert_eq!(status_of_name(name), Some(Status::Error), "{name}");
    }
    assert_eq!(status_of_name("STATUS_CODE_UNSET"), Some(Status::Unset));
    assert_eq!(status_of_name("STATUS_CODE_MAYBE"), None);
    assert_eq!(status_of_number(7), None);
}

#[test]
fn precision_is_read_off_the_trailing_zeros() {
    assert_eq!(precision_ns(1_795_363_527_493_000_000), 1_000_000);
    assert_eq!(precision_ns(1_795_361_944_797_248_000), 1_000);
    assert_eq!(precision_ns(1_795_361_944_878_046_976), 1);
}
