//! Rows for tests, for any table, from its schema alone.

use arrow::array::RecordBatch;
use arrow::json::ReaderBuilder;
use fulgurite::schema::Table;
use serde_json::{Map, Value, json};

/// `count` rows in the table's order: numbers and texts that differ from row to row, nulls, empty texts and empty lists among them.
pub fn json_rows(table: &Table, count: usize) -> Vec<Value> {
    let row = |number: usize| {
        let columns = table.doc.columns.iter().enumerate().map(|(place, column)| {
            let sort_place = table.doc.sorted_by.iter().position(|name| name == &column.name);
            let value = match sort_place {
                Some(0) if column.sql_type == "text" => json!(format!("r-{:06}", number / 3)),
                Some(_) if column.sql_type == "text" => json!(format!("{number:06}")),
                Some(_) => json!(number),
                None if column.nullable && (number + place).is_multiple_of(5) => Value::Null,
                None => value(&column.sql_type, number, place),
            };
            (column.name.clone(), value)
        });
        Value::Object(columns.collect::<Map<_, _>>())
    };
    (0..count).map(row).collect()
}

fn value(sql_type: &str, number: usize, place: usize) -> Value {
    match sql_type {
        "text" => json!(["", "plain", "grüße 🦀", "a \"quoted\" line\nand another"][(number + place) % 4]),
        "bigint" => json!(1_763_800_000_000_000_000_i64 + (number * 1_000_003 + place) as i64),
        "integer" => json!([0, -1, i32::MAX, i32::MIN][(number + place) % 4]),
        // Halves are the same in f32 and f64.
        "double" | "real" => json!((number as f64 - place as f64) / 2.0),
        "boolean" => json!((number + place).is_multiple_of(2)),
        list => {
            let element = list.strip_suffix("[]").expect("every other type is a list");
            Value::Array((0..(number + place) % 4).map(|index| self::value(element, number + index, place)).collect())
        }
    }
}

/// The same rows as Arrow.
pub fn batch(table: &Table, rows: &[Value]) -> RecordBatch {
    let mut decoder = ReaderBuilder::new(table.arrow.clone()).with_batch_size(rows.len().max(1)).build_decoder().unwrap();
    decoder.serialize(rows).unwrap();
    decoder.flush().unwrap().unwrap_or_else(|| RecordBatch::new_empty(table.arrow.clone()))
}
