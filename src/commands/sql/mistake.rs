//! Mistakes in SQL, shown at their place.

use datafusion::error::DataFusionError;

use crate::exit::Fault;

/// The error with the line that it is about and a mark under the place, as far as the place is known.
///
/// Wrong SQL is wrong use; an error while rows are read is not.
pub fn fault(text: &str, error: &DataFusionError) -> anyhow::Error {
    let root = error.find_root();
    let message = match root {
        DataFusionError::SQL(error, _) => error.to_string(),
        DataFusionError::Plan(message) => message.clone(),
        DataFusionError::SchemaError(error, _) => error.to_string(),
        DataFusionError::NotImplemented(message) => format!("not available: {message}"),
        other => return anyhow::anyhow!(Fault::Failed(format!("the query failed: {other}"))),
    };
    let diagnosed = error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| (span.start.line, span.start.column));
    let place = diagnosed.or_else(|| place_in(&message));
    let pointed = place.and_then(|(line, column)| pointer(text, line, column)).unwrap_or_default();
    Fault::Usage(format!("{}{pointed}", without_place(&message))).into()
}

/// The parser says `... at Line: 1, Column: 8`.
fn place_in(message: &str) -> Option<(u64, u64)> {
    let (_, place) = message.rsplit_once("at Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    let digits = column.find(|character: char| !character.is_ascii_digit()).unwrap_or(column.len());
    Some((line.parse().ok()?, column[..digits].parse().ok()?))
}

fn without_place(message: &str) -> &str {
    let message = message.split(" at Line: ").next().unwrap_or(message);
    message.strip_prefix("sql parser error: ").unwrap_or(message)
}

/// The line, and under it a mark at the column; both counted from 1.
fn pointer(text: &str, line: u64, column: u64) -> Option<String> {
    let shown = text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?)?;
    let before = usize::try_from(column).ok()?.checked_sub(1)?;
    let number = line.to_string();
    Some(format!("\n  {number} | {shown}\n  {} | {}^", " ".repeat(number.len()), " ".repeat(before)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_marked() {
        let pointed = pointer("select a,\n  bb from t", 2, 3).expect("there is such a line");
        assert_eq!(pointed, "\n  2 |   bb from t\n    |   ^");
    }

    #[test]
    fn a_place_outside_of_the_text_is_not_marked() {
        assert_eq!(pointer("select 1", 0, 0), None);
        assert_eq!(pointer("select 1", 7, 1), None);
    }

    #[test]
    fn the_parser_s_place_is_read() {
        assert_eq!(place_in("Expected: an expression, found: from at Line: 3, Column: 12"), Some((3, 12)));
        assert_eq!(place_in("nothing of that kind"), None);
    }
}
