//! Rows of the lake for the report: as polars frames where they are counted, as structs where they are shown.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use arrow::array::{ArrayRef, AsArray as _, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::prelude::{SessionContext, ident};
use polars::prelude::{Column, DataFrame, Float64Chunked, Int64Chunked, StringChunked};
use serde::de::DeserializeOwned;

/// Rows of a query as structs, in the order of some of its columns; columns that are null are left out of the JSON that they come from.
///
/// They are sorted after they are there: DataFusion 55.2 refuses to plan the order of a join with a union whose parts each have one batch.
pub async fn rows<T: DeserializeOwned>(session: &SessionContext, query: &str, order: &[&str]) -> Result<Vec<T>> {
    let order = order.iter().map(|column| ident(*column).sort(true, false)).collect();
    let batches = session.sql(query).await?.cache().await?.sort(order)?.collect().await?;
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    writer.write_batches(&batches.iter().collect::<Vec<_>>())?;
    writer.finish()?;
    serde_json::from_slice(&writer.into_inner()).context("a row of the lake has another shape than the report reads")
}

/// Rows of a query as a polars frame. Text, whole numbers and numbers are all that it takes.
pub async fn frame(session: &SessionContext, query: &str) -> Result<DataFrame> {
    let rows = session.sql(query).await?;
    let fields: Vec<(String, DataType)> =
        rows.schema().fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
    let batches = rows.collect().await?;
    let mut columns = Vec::new();
    for (index, (name, data_type)) in fields.iter().enumerate() {
        let arrays = || batches.iter().map(|batch| batch.column(index));
        let name = name.as_str().into();
        columns.push(match data_type {
            DataType::Utf8 => {
                Column::new(name, arrays().flat_map(|array| array.as_string::<i32>().iter()).collect::<Vec<Option<&str>>>())
            }
            DataType::Int64 => {
                let values = arrays().flat_map(|array| array.as_primitive::<Int64Type>().iter());
                Column::new(name, values.collect::<Vec<Option<i64>>>())
            }
            DataType::Float64 => {
                let values = arrays().flat_map(|array| array.as_primitive::<Float64Type>().iter());
                Column::new(name, values.map(|value| value.filter(|value| value.is_finite())).collect::<Vec<Option<f64>>>())
            }
            other => bail!("column `{name}` of the report is {other}"),
        });
    }
    let height = batches.iter().map(RecordBatch::num_rows).sum();
    Ok(DataFrame::new(height, columns)?)
}

/// Registers the rollouts that are shown as the table `chosen`, which the queries about them join.
///
/// * `chosen`: batch and rollout.
pub fn register_chosen(session: &SessionContext, chosen: &[(String, String)]) -> Result<()> {
    let text = |values: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let rows = RecordBatch::try_from_iter([
        ("batch", text(chosen.iter().map(|(batch, _)| batch.as_str()).collect())),
        ("rollout_id", text(chosen.iter().map(|(_, rollout)| rollout.as_str()).collect())),
    ])?;
    session.register_batch("chosen", rows)?;
    Ok(())
}

/// A column of numbers.
pub fn numbers(frame: &DataFrame, name: &str) -> Result<Float64Chunked> {
    Ok(frame.column(name)?.f64()?.clone())
}

/// A column of whole numbers.
pub fn wholes(frame: &DataFrame, name: &str) -> Result<Int64Chunked> {
    Ok(frame.column(name)?.i64()?.clone())
}

/// A column of text.
pub fn texts(frame: &DataFrame, name: &str) -> Result<StringChunked> {
    Ok(frame.column(name)?.str()?.clone())
}

/// The first text of a column; empty where there is none.
pub fn first(frame: &DataFrame, name: &str) -> Result<String> {
    Ok(texts(frame, name)?.get(0).unwrap_or_default().to_owned())
}

/// The frame by the values of some columns, in the order in which these first come; null is a value of its own.
pub fn parts(frame: &DataFrame, by: &[&str]) -> Result<Vec<DataFrame>> {
    let mut parts = Vec::new();
    if frame.height() == 0 {
        return Ok(parts);
    }
    frame.group_by_stable(by.iter().copied())?.apply(|part| {
        parts.push(part.clone());
        Ok(part.head(Some(0)))
    })?;
    Ok(parts)
}
