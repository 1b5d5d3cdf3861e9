//! A table for the eye: columns in line, numbers to the right, a line under the head.

use std::fmt::Write as _;

/// One column's head and side.
#[derive(Debug, Clone)]
pub struct Column {
    pub head: String,
    pub right: bool,
}

impl Column {
    pub fn left(head: impl Into<String>) -> Column {
        Column { head: head.into(), right: false }
    }

    pub fn right(head: impl Into<String>) -> Column {
        Column { head: head.into(), right: true }
    }
}

/// The table as lines, each with a line feed. Rows have a cell for each column; line feeds in cells become spaces.
pub fn render(columns: &[Column], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
            cells.chain([column.head.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    let heads: Vec<String> = columns.iter().map(|column| column.head.clone()).collect();
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    for row in [&heads, &rules].into_iter().chain(&rows) {
        let mut line = String::new();
        for ((cell, column), width) in row.iter().zip(columns).zip(&widths) {
            let _ = match column.right {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// The first `limit` characters, the last of them `…` where something was cut.
pub fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => text.chars().take(limit.saturating_sub(1)).chain(['…']).collect(),
    }
}

fn one_line(cell: &str) -> String {
    cell.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let rows = [vec!["a".to_owned(), "7".to_owned()], vec!["long\nname".to_owned(), "12".to_owned()]];
        let text = render(&[Column::left("agent"), Column::right("n")], &rows);
        assert_eq!(text, "agent       n\n---------  --\na           7\nlong name  12\n");
    }

    #[test]
    fn a_cut_text_says_so() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
    }
}
