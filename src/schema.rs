//! The tables: `schemas/*.sql`, read once into Arrow schemas and documentation. What is written there is the contract: every write is checked
//! against it, and `fulgurite sql` and the README show its comments.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::{ArrayElemTypeDef, ColumnDef, ColumnOption, DataType as SqlType, Statement};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use serde::Serialize;

use crate::exit::Fault;

/// Name of the child field of every list column. Parquet calls the leaf `<column>.list.element`, and so do the readers of other languages.
pub const LIST_ELEMENT: &str = "element";

const SOURCES: [&str; 14] = [
    include_str!("../schemas/air_rewards.sql"),
    include_str!("../schemas/calls.sql"),
    include_str!("../schemas/credits.sql"),
    include_str!("../schemas/edges.sql"),
    include_str!("../schemas/evals.sql"),
    include_str!("../schemas/rejects.sql"),
    include_str!("../schemas/rewards.sql"),
    include_str!("../schemas/rollouts.sql"),
    include_str!("../schemas/spans.sql"),
    include_str!("../schemas/tool_calls.sql"),
    include_str!("../schemas/train_steps.sql"),
    include_str!("../schemas/train_tokens.sql"),
    include_str!("../schemas/transitions.sql"),
    include_str!("../schemas/values.sql"),
];

static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| {
    SOURCES.iter().map(|sql| Table::parse(sql)).collect::<Result<_>>().expect("a test parses every file of schemas/")
});

/// One table of the lake.
#[derive(Debug, Clone)]
pub struct Table {
    pub doc: TableDoc,
    pub arrow: SchemaRef,
    /// Changes with a column's name, type, place or nullability, and with the sort order; not with a comment.
    pub hash: String,
}

/// What a person wants to know about a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableDoc {
    pub name: String,
    /// The text above `create table`, on one line.
    pub about: String,
    /// Stage that writes it.
    pub made_by: String,
    /// Columns that the rows are sorted by; none for a relation between SQL files, which has no order.
    pub sorted_by: Vec<String>,
    pub columns: Vec<ColumnDoc>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnDoc {
    pub name: String,
    /// The type as SQL, such as `integer[]`.
    #[serde(rename = "type")]
    pub sql_type: String,
    pub nullable: bool,
    /// Meaning, unit and range.
    pub doc: String,
}

/// Every table, by name.
pub fn tables() -> &'static [Table] {
    &TABLES
}

/// The table of that name; wrong use where there is none.
pub fn table(name: &str) -> Result<&'static Table> {
    let found = TABLES.iter().find(|table| table.doc.name == name);
    found.ok_or_else(|| {
        let names: Vec<_> = TABLES.iter().map(|table| table.doc.name.as_str()).collect();
        Fault::Usage(format!("there is no table `{name}`; the tables are {}", names.join(", "))).into()
    })
}

/// Names of the tables that a stage writes.
pub fn tables_of(stage: &str) -> Vec<&'static str> {
    TABLES.iter().filter(|table| table.doc.made_by == stage).map(|table| table.doc.name.as_str()).collect()
}

impl Table {
    /// The rows with exactly this table's columns, in its order and types.
    ///
    /// Columns are found by name. View, large and dictionary forms of text are made plain, and so are the child fields of lists. Any other
    /// difference of type, a missing or unknown column, and a null where the schema says `not null` are errors: the stage's SQL has to say
    /// what it means.
    pub fn check(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        if rows.schema_ref() == &self.arrow {
            return Ok(rows.clone()); // made with this schema, which RecordBatch has held the nulls against
        }
        let name = &self.doc.name;
        if let Some(unknown) = rows.schema_ref().fields().iter().find(|field| self.arrow.field_with_name(field.name()).is_err()) {
            bail!("column `{}` is not in the schema of `{name}`; see schemas/{name}.sql", unknown.name());
        }
        ensure!(rows.num_columns() <= self.arrow.fields().len(), "a column of `{name}` is there twice");
        let columns = self.arrow.fields().iter().map(|field| {
            let column = rows.column_by_name(field.name());
            let column = column.with_context(|| format!("column `{}` of `{name}` is missing", field.name()))?;
            let plain = to_plain(column, field).with_context(|| format!("column `{}` of `{name}`", field.name()))?;
            if !field.is_nullable() && plain.null_count() > 0 {
                let row = (0..plain.len()).find(|&row| plain.is_null(row)).unwrap_or_default();
                bail!("column `{}` of `{name}` is null in row {row}, but the schema says `not null`", field.name());
            }
            Ok(plain)
        });
        Ok(RecordBatch::try_new(Arc::clone(&self.arrow), columns.collect::<Result<_>>()?)?)
    }

    /// Reads one `create table` with its comments.
    pub fn parse(sql: &str) -> Result<Table> {
        let statements = Parser::parse_sql(&PostgreSqlDialect {}, sql)?;
        let [Statement::CreateTable(create)] = statements.as_slice() else { bail!("a schema file holds one `create table`") };
        let name = create.name.0.last().and_then(|part| part.as_ident()).context("table without a name")?.value.clone();
        let comments = column_comments(sql);
        let mut fields = Vec::new();
        let mut columns = Vec::new();
        for column in &create.columns {
            let field = field_of(column).with_context(|| format!("column `{}` of `{name}`", column.name.value))?;
            let doc = comments.get(&column.name.value).cloned().unwrap_or_default();
            ensure!(!doc.is_empty(), "column `{}` of `{name}` has no comment", column.name.value);
            columns.push(ColumnDoc {
                name: field.name().clone(),
                sql_type: column.data_type.to_string().to_lowercase(),
                nullable: field.is_nullable(),
                doc,
            });
            fields.push(field);
        }
        let header: Vec<&str> = sql.lines().map_while(|line| line.strip_prefix("--")).map(str::trim).collect();
        let about =
            header.join(" ").strip_prefix(&format!("{name}: ")).with_context(|| format!("`{name}` has no header"))?.to_owned();
        let made_by = about.split_once("Made by").and_then(|(_, rest)| rest.split('`').nth(1)).unwrap_or_default().to_owned();
        ensure!(!made_by.is_empty(), "the header of `{name}` does not say which stage it is made by");
        let sorted_by = sorted_by(&about, &columns);
        let arrow = Arc::new(Schema::new(fields));
        let hash = schema_hash(&name, &arrow, &sorted_by);
        Ok(Table { doc: TableDoc { name, about, made_by, sorted_by, columns }, arrow, hash })
    }
}

/// The comment behind each column, by the column's name. The parser drops comments, so they are taken from the lines: one column a line.
fn column_comments(sql: &str) -> BTreeMap<String, String> {
    let lines = sql.lines().filter_map(|line| line.trim_start().split_once("--"));
    lines.filter_map(|(code, comment)| Some((code.split_whitespace().next()?.to_owned(), comment.trim().to_owned()))).collect()
}

/// The columns after "Sorted by", up to the first word that is none.
fn sorted_by(about: &str, columns: &[ColumnDoc]) -> Vec<String> {
    let list = about.split_once("Sorted by ").map_or("", |(_, list)| list).split('.').next().unwrap_or_default();
    let names = list.split(',').map(str::trim);
    names.take_while(|name| columns.iter().any(|column| column.name == *name)).map(str::to_owned).collect()
}

fn field_of(column: &ColumnDef) -> Result<Field> {
    let mut nullable = true;
    for option in &column.options {
        match &option.option {
            ColumnOption::NotNull => nullable = false,
            other => bail!("`{other}` has no meaning here"),
        }
    }
    Ok(Field::new(&column.name.value, arrow_type(&column.data_type)?, nullable))
}

/// The types that every reader agrees on.
fn arrow_type(sql_type: &SqlType) -> Result<DataType> {
    Ok(match sql_type {
        SqlType::Text => DataType::Utf8,
        SqlType::BigInt(None) => DataType::Int64,
        SqlType::Integer(None) => DataType::Int32,
        SqlType::Double(_) => DataType::Float64,
        SqlType::Real => DataType::Float32,
        SqlType::Boolean => DataType::Boolean,
        SqlType::Array(ArrayElemTypeDef::SquareBracket(element, None)) => {
            DataType::List(Arc::new(Field::new(LIST_ELEMENT, arrow_type(element)?, false)))
        }
        other => bail!("type `{other}` is none of text, bigint, integer, double, real, boolean, and [] of these"),
    })
}

fn schema_hash(name: &str, schema: &Schema, sorted_by: &[String]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{name} sorted by {}\n", sorted_by.join(", ")).as_bytes());
    for field in schema.fields() {
        hasher.update(format!("{} {} {}\n", field.name(), field.data_type(), field.is_nullable()).as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

fn to_plain(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let (from, to) = (column.data_type(), field.data_type());
    if from == to {
        return Ok(Arc::clone(column));
    }
    if from == &DataType::Null {
        return Ok(new_null_array(to, column.len()));
    }
    if !same_but_for_form(from, to) {
        bail!("is {from}, but the schema says {to}; add an explicit cast");
    }
    if let (DataType::List(_), DataType::List(element)) = (from, to) {
        let list = column.as_list::<i32>();
        ensure!(list.values().null_count() == 0, "has a null inside a list");
        let values = cast(list.values(), element.data_type())?;
        let list = arrow::array::ListArray::try_new(Arc::clone(element), list.offsets().clone(), values, list.nulls().cloned())?;
        return Ok(Arc::new(list));
    }
    Ok(cast(column, to)?)
}

/// Whether two types hold the same values: text in any layout, and lists of such.
fn same_but_for_form(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Dictionary(_, value), to) => same_but_for_form(value, to),
        (DataType::Utf8View | DataType::LargeUtf8, DataType::Utf8) => true,
        (DataType::List(from), DataType::List(to)) => same_but_for_form(from.data_type(), to.data_type()),
        (from, to) => from == to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int32Array, Int64Array, ListArray, StringArray, StringViewArray};

    fn values_rows(rollout_id: ArrayRef, step: ArrayRef) -> RecordBatch {
        let call_id: ArrayRef = Arc::new(StringArray::from(vec!["c"; rollout_id.len()]));
        let value: ArrayRef = Arc::new(Float64Array::from(vec![0.5; rollout_id.len()]));
        RecordBatch::try_from_iter([("value", value), ("rollout_id", rollout_id), ("call_id", call_id), ("step", step)]).unwrap()
    }

    #[test]
    fn every_schema_file_is_listed_and_parses() {
        let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas"))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        files.sort();
        let parsed = SOURCES.map(|sql| Table::parse(sql).unwrap());
        for table in &parsed {
            assert!(!table.doc.sorted_by.is_empty(), "the header of `{}` does not say what it is sorted by", table.doc.name);
        }
        assert_eq!(parsed.map(|table| table.doc.name).to_vec(), files);
    }

    #[test]
    fn types_comments_and_order_are_those_of_the_file() {
        let spans = table("spans").unwrap();
        assert_eq!(spans.doc.made_by, "ingest");
        assert_eq!(spans.doc.sorted_by, ["rollout_id", "seq"]);
        let ids = spans.arrow.field_with_name("prompt_token_ids").unwrap();
        assert_eq!(ids.data_type(), &DataType::List(Arc::new(Field::new("element", DataType::Int32, false))));
        assert!(ids.is_nullable());
        let seq = spans.doc.columns.iter().find(|column| column.name == "seq").unwrap();
        assert_eq!((seq.sql_type.as_str(), seq.nullable), ("bigint", false));
        assert!(seq.doc.starts_with("position in the rollout"));
        assert_eq!(table("transitions").unwrap().doc.sorted_by, ["group_id", "rollout_id", "step"]);
        assert_eq!(table("values").unwrap().doc.made_by, "values");
    }

    #[test]
    fn a_column_without_a_comment_is_refused() {
        let error = Table::parse("-- t: a table. Made by `x`. Sorted by a.\ncreate table t (\n a text\n);").unwrap_err();
        assert_eq!(error.to_string(), "column `a` of `t` has no comment");
    }

    #[test]
    fn the_hash_follows_the_columns_and_not_the_comments() {
        let hash = |column: &str| {
            Table::parse(&format!("-- t: a table. Made by `x`. Sorted by a.\ncreate table t (\n {column}\n);")).unwrap().hash
        };
        assert_eq!(hash("a text -- one"), hash("a text -- two"));
        assert_ne!(hash("a text -- one"), hash("a text not null -- one"));
        assert_ne!(hash("a text -- one"), hash("a bigint -- one"));
    }

    #[test]
    fn text_becomes_plain_and_columns_go_in_order() {
        let rows = values_rows(Arc::new(StringViewArray::from(vec!["a", "b"])), Arc::new(Int64Array::from(vec![0, 1])));
        let checked = table("values").unwrap().check(&rows).unwrap();
        assert_eq!(checked.schema(), table("values").unwrap().arrow);
        assert_eq!(checked.column(0).as_string::<i32>().value(1), "b");
    }

    #[test]
    fn what_the_schema_does_not_allow_is_refused_by_name() {
        let values = table("values").unwrap();
        let null = values_rows(Arc::new(StringArray::from(vec![Some("a"), None])), Arc::new(Int64Array::from(vec![0, 1])));
        let error = values.check(&null).unwrap_err().to_string();
        assert_eq!(error, "column `rollout_id` of `values` is null in row 1, but the schema says `not null`");
        let narrow = values_rows(Arc::new(StringArray::from(vec!["a"])), Arc::new(Int32Array::from(vec![0])));
        let error = format!("{:#}", values.check(&narrow).unwrap_err());
        assert_eq!(error, "column `step` of `values`: is Int32, but the schema says Int64; add an explicit cast");
        let missing = narrow.project(&[0, 1, 2]).unwrap();
        assert_eq!(values.check(&missing).unwrap_err().to_string(), "column `step` of `values` is missing");
    }

    #[test]
    fn lists_get_the_name_of_our_element() {
        let field = Field::new("l", DataType::List(Arc::new(Field::new(LIST_ELEMENT, DataType::Int32, false))), true);
        let from: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>([Some(vec![Some(1), Some(2)]), None]));
        assert_eq!(to_plain(&from, &field).unwrap().data_type(), field.data_type());
        let holed: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>([Some(vec![Some(1), None])]));
        assert_eq!(to_plain(&holed, &field).unwrap_err().to_string(), "has a null inside a list");
    }
}
