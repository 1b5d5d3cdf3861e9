//! One SQL file as a plan: what its header says is held against what DataFusion finds in the statement.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use anyhow::Result;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::ParamValues;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{Expr, Statement as SqlStatement, Value, ValueWithSpan, visit_expressions_mut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::sql_file::SqlFile;
use crate::exit::Fault;

/// The file's statement, parsed; and the tables that it names, sorted. Fails where these are not the header's `reads`.
pub(super) fn parse(session: &SessionContext, file: &SqlFile) -> Result<Statement> {
    let mut statements = DFParser::parse_sql(&file.text).map_err(|error| wrong(file, &error))?;
    let (Some(statement), None) = (statements.pop_front(), statements.pop_front()) else {
        return Err(usage(file, "holds more or less than one statement; write each into a file of its own"));
    };
    if !matches!(&statement, Statement::Statement(inner) if matches!(**inner, SqlStatement::Query(_))) {
        return Err(usage(file, "holds a statement that is no query; begin with `select` or `with`"));
    }
    let found = session.state().resolve_table_references(&statement).map_err(|error| wrong(file, &error))?;
    let found: BTreeSet<String> = found.iter().map(ToString::to_string).collect();
    let stated: BTreeSet<String> = file.header.reads.iter().cloned().collect();
    if found != stated {
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        let stated: Vec<&str> = stated.iter().map(String::as_str).collect();
        let message = format!("the header says `reads {}`, but the statement reads `{}`", stated.join(", "), found.join(", "));
        return Err(usage(file, &message));
    }
    Ok(statement)
}

/// The file's plan with its parameters bound. Fails where the placeholders are not the header's `params`, or one has no value.
pub(super) async fn plan(
    session: &SessionContext,
    file: &SqlFile,
    values: &BTreeMap<String, ScalarValue>,
) -> Result<LogicalPlan> {
    let statement = typed(parse(session, file)?, file)?;
    let plan = session.state().statement_to_plan(statement).await.map_err(|error| wrong(file, &error))?;
    let found: BTreeSet<String> = plan.get_parameter_names().map_err(|error| wrong(file, &error))?.into_iter().collect();
    let stated: BTreeSet<String> = file.header.params.iter().map(|param| format!("${}", param.name)).collect();
    if found != stated {
        let list = |names: &BTreeSet<String>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let message = match (found.difference(&stated).next(), stated.difference(&found).next()) {
            (Some(undeclared), _) => {
                format!("`{undeclared}` stands in the statement but not in the header's params ({})", list(&stated))
            }
            (None, _) => format!("the header's params are {}, the statement's are {}", list(&stated), list(&found)),
        };
        return Err(usage(file, &message));
    }
    if file.header.params.is_empty() {
        return Ok(plan);
    }
    let mut bound = Vec::new();
    for param in &file.header.params {
        let Some(value) = values.get(&param.name) else {
            let known: Vec<String> = values.keys().map(|name| format!("`${name}`")).collect();
            return Err(usage(file, &format!("parameter `${}` has no value; this stage sets {}", param.name, known.join(", "))));
        };
        let value = value.cast_to(&param.data_type).map_err(|_| {
            usage(file, &format!("parameter `${}` is {}, but its value is `{value}`", param.name, param.data_type))
        })?;
        bound.push((param.name.clone(), value));
    }
    plan.with_param_values(ParamValues::from(bound)).map_err(|error| wrong(file, &error))
}

/// The statement with every declared placeholder cast to its type: DataFusion plans before it knows the values, and would take an
/// expression such as `$base + step` for that of its other half.
fn typed(mut statement: Statement, file: &SqlFile) -> Result<Statement> {
    let mut casts = BTreeMap::new();
    for param in &file.header.params {
        let text = format!("cast(${} as {})", param.name, sql_type(&param.data_type));
        let cast = Parser::new(&GenericDialect {}).try_with_sql(&text).and_then(|mut parser| parser.parse_expr());
        let cast = cast.map_err(|error| usage(file, &format!("parameter `${}`: {error}", param.name)))?;
        casts.insert(format!("${}", param.name), cast);
    }
    if let Statement::Statement(inner) = &mut statement {
        // Children come first, so that the placeholder inside a cast is not met again.
        let _ = visit_expressions_mut(inner.as_mut(), |expr: &mut Expr| {
            if let Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) = expr
                && let Some(cast) = casts.get(name)
            {
                *expr = cast.clone();
            }
            ControlFlow::<()>::Continue(())
        });
    }
    Ok(statement)
}

/// Holds a plan's columns against those that the file's target has. Order does not matter; names and types do.
pub(super) fn check_columns(file: &SqlFile, plan: &LogicalPlan, target: &Schema) -> Result<()> {
    let given: SchemaRef = std::sync::Arc::new(plan.schema().as_arrow().clone());
    let names = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>().join(", ");
    let writes = &file.header.writes;
    for field in target.fields() {
        let Ok(column) = given.field_with_name(field.name()) else {
            return Err(usage(
                file,
                &format!("`{writes}` has the column `{}`, the statement has only {}", field.name(), names(&given)),
            ));
        };
        if !column.data_type().equals_datatype(field.data_type()) {
            let message = format!(
                "column `{}` of `{writes}` is {}, but the statement gives {}; write `cast(... as {})`",
                field.name(),
                field.data_type(),
                column.data_type(),
                sql_type(field.data_type()),
            );
            return Err(usage(file, &message));
        }
    }
    match given.fields().iter().find(|field| target.field_with_name(field.name()).is_err()) {
        Some(unknown) => {
            Err(usage(file, &format!("column `{}` is not in `{writes}`, which has {}", unknown.name(), names(target))))
        }
        None => Ok(()),
    }
}

/// Columns of the header's grain and order have to be there.
pub(super) fn check_keys(file: &SqlFile, schema: &Schema) -> Result<()> {
    for (key, columns) in [("grain", &file.header.grain), ("order", &file.header.order)] {
        if let Some(missing) = columns.iter().find(|column| schema.field_with_name(column).is_err()) {
            return Err(usage(file, &format!("the {key} names `{missing}`, which is no column of `{}`", file.header.writes)));
        }
    }
    Ok(())
}

/// Wrong use of a SQL file.
pub(super) fn usage(file: &SqlFile, message: &str) -> anyhow::Error {
    Fault::Usage(format!("`{}`: {message}", file.shown())).into()
}

/// What DataFusion has against a file.
pub(super) fn wrong(file: &SqlFile, error: &DataFusionError) -> anyhow::Error {
    usage(file, &error.strip_backtrace())
}

/// The name of an Arrow type in SQL that DataFusion and DuckDB both read.
fn sql_type(data_type: &arrow::datatypes::DataType) -> String {
    use arrow::datatypes::DataType::{Boolean, Float32, Float64, Int32, Int64, List, Utf8};
    match data_type {
        Utf8 => "text".to_owned(),
        Int64 => "bigint".to_owned(),
        Int32 => "integer".to_owned(),
        Float64 => "double".to_owned(),
        Float32 => "real".to_owned(),
        Boolean => "boolean".to_owned(),
        List(element) => format!("{}[]", sql_type(element.data_type())),
        other => other.to_string(),
    }
}
