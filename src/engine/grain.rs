//! The grain of a table: that no two rows share the columns which are said to tell rows apart, checked while the rows stream past.

use std::collections::HashSet;

use anyhow::Result;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{concat_batches, partition};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use arrow::util::display::array_value_to_string;

use crate::exit::Fault;

/// Looks for rows with equal grain in a sorted stream.
///
/// Equal rows stand together as far as the sort order and the grain have columns in common: where these are the whole grain, each row is
/// compared with the one before it; else the rows that share them are held in a set, which is as large as the largest such run.
pub(super) struct GrainCheck {
    table: String,
    grain: Vec<String>,
    /// The first sort columns, as many as belong to the grain.
    run: Vec<String>,
    /// The last row seen.
    last: Option<RecordBatch>,
    seen: HashSet<Box<[u8]>>,
}

impl GrainCheck {
    pub(super) fn new(table: &str, grain: &[String], sorted_by: &[String]) -> GrainCheck {
        let run: Vec<String> = sorted_by.iter().take_while(|column| grain.contains(column)).cloned().collect();
        GrainCheck { table: table.to_owned(), grain: grain.to_vec(), run, last: None, seen: HashSet::new() }
    }

    /// Takes the next rows. `Fault::Failed` names the first grain that is there twice.
    pub(super) fn rows(&mut self, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let columns: Vec<usize> = self.grain.iter().map(|name| rows.schema().index_of(name)).collect::<Result<_, _>>()?;
        let keys = rows.project(&columns)?;
        // The row before goes first, so that a pair is found across the border of two batches.
        let keys = match &self.last {
            Some(last) => concat_batches(last.schema_ref(), [last, &keys])?,
            None => keys,
        };
        let repeated = usize::from(self.last.is_some());
        self.last = Some(keys.slice(keys.num_rows() - 1, 1));
        if self.run.len() == self.grain.len() { self.neighbours(&keys) } else { self.set(&keys, repeated) }
    }

    fn neighbours(&self, keys: &RecordBatch) -> Result<()> {
        match partition(keys.columns())?.ranges().into_iter().find(|range| range.len() > 1) {
            Some(range) => Err(self.twice(keys, range.start)),
            None => Ok(()),
        }
    }

    fn set(&mut self, keys: &RecordBatch, repeated: usize) -> Result<()> {
        let encoded = encode(keys.schema_ref(), keys.columns())?;
        let run: Vec<ArrayRef> = self.run.iter().filter_map(|name| keys.column_by_name(name).cloned()).collect();
        // Without a sort column in the grain, the whole table is one run.
        let begins: HashSet<usize> = match run.as_slice() {
            [] => HashSet::new(),
            run => partition(run)?.ranges().into_iter().map(|range| range.start).filter(|start| *start > 0).collect(),
        };
        for (row, key) in encoded.into_iter().enumerate().skip(repeated) {
            if begins.contains(&row) {
                self.seen.clear();
            }
            if !self.seen.insert(key) {
                return Err(self.twice(keys, row));
            }
        }
        Ok(())
    }

    fn twice(&self, keys: &RecordBatch, row: usize) -> anyhow::Error {
        let shown: Vec<String> = keys
            .schema_ref()
            .fields()
            .iter()
            .zip(keys.columns())
            .map(|(field, column)| {
                format!("{} = `{}`", field.name(), array_value_to_string(column, row).unwrap_or_else(|error| error.to_string()))
            })
            .collect();
        let message = format!(
            "table `{}` has one row per {} says the header of its SQL file, but there are several with {}",
            self.table,
            self.grain.join(", "),
            shown.join(", ")
        );
        Fault::Failed(message).into()
    }
}

fn encode(schema: &SchemaRef, columns: &[ArrayRef]) -> Result<Vec<Box<[u8]>>> {
    let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(columns)?;
    Ok(rows.iter().map(|row| Box::from(row.as_ref())).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn batch(rollouts: &[&str], calls: &[&str], steps: &[i64]) -> RecordBatch {
        let column = |texts: &[&str]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
        let steps = Arc::new(Int64Array::from(steps.to_vec())) as ArrayRef;
        RecordBatch::try_from_iter([("rollout_id", column(rollouts)), ("call_id", column(calls)), ("step", steps)])
            .expect("batch")
    }

    fn check(grain: &[&str], batches: &[RecordBatch]) -> Result<()> {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut check = GrainCheck::new("calls", &names(grain), &names(&["rollout_id", "step"]));
        batches.iter().try_for_each(|rows| check.rows(rows))
    }

    #[test]
    fn unique_rows_pass() {
        let batches = [batch(&["a", "a"], &["x", "y"], &[0, 1]), batch(&["a", "b", "b"], &["z", "x", "y"], &[2, 0, 1])];
        check(&["rollout_id", "step"], &batches).expect("unique neighbours");
        check(&["rollout_id", "call_id"], &batches).expect("unique in their rollout");
    }

    #[test]
    fn a_pair_is_found_across_batches() {
        let batches = [batch(&["a", "a"], &["x", "y"], &[0, 1]), batch(&["a", "b"], &["x", "x"], &[1, 0])];
        let error = check(&["rollout_id", "step"], &batches).expect_err("step 1 is there twice").to_string();
        assert!(error.contains("rollout_id = `a`, step = `1`"), "{error}");
        let error = check(&["rollout_id", "call_id"], &batches).expect_err("call x is there twice").to_string();
        assert!(error.contains("rollout_id = `a`, call_id = `x`"), "{error}");
    }
}
