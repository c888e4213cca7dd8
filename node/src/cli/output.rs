//! What commands print: one value, as a table for people or as JSON for
//! programs. Both come from the same value, so neither can lack a field.

use std::io::Write;

use serde::Serialize;
use serde_json::Value;

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// One JSON value.
    Json,
}

/// Prints `value`. A closed pipe (`tally ... | head`) is no error.
pub(crate) fn print(format: Format, value: &impl Serialize) -> anyhow::Result<()> {
    let value = serde_json::to_value(value)?;
    let text = match format {
        Format::Json => serde_json::to_string_pretty(&value)? + "\n",
        Format::Table => table(&value),
    };
    write(&text)
}

/// Prints text; a closed pipe is no error.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

fn table(value: &Value) -> String {
    match value {
        Value::Array(rows) => rows_table(rows),
        Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            fields
                .iter()
                .map(|(name, value)| match value {
                    Value::Array(rows) if rows.iter().any(Value::is_object) => {
                        format!("{name}\n{}", indented(&rows_table(rows)))
                    }
                    Value::Object(_) => format!("{name}\n{}", indented(&table(value))),
                    value => format!("{name:width$}  {}\n", cell(value)),
                })
                .collect()
        }
        value => cell(value) + "\n",
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Columns in the order in which they first appear.
fn rows_table(rows: &[Value]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for name in rows
        .iter()
        .filter_map(Value::as_object)
        .flat_map(|row| row.keys())
    {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    if columns.is_empty() {
        return rows.iter().map(|row| cell(row) + "\n").collect();
    }
    let mut lines = vec![
        columns
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>(),
    ];
    for row in rows {
        let cells = columns
            .iter()
            .map(|name| row.get(name).map_or_else(String::new, cell));
        lines.push(cells.collect());
    }
    let widths: Vec<usize> = (0..columns.len())
        .map(|i| {
            lines
                .iter()
                .map(|line| line[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &Vec<String>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

/// A value in one cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text, ""),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A text that may be a stranger's (a file's name, a word in it) as a terminal
/// shows it and does nothing else: control characters are written out, but for
/// those of `kept`.
pub(crate) fn plain(text: &str, kept: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !kept.contains(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_strangers_name_moves_no_cursor_and_makes_no_row() {
        let rows = json!([{"file": "a\u{1b}[2J\nb", "verified": "NO"}]);
        let shown = table(&rows);
        assert!(shown.contains(r"a\u{1b}[2J\nb  NO"), "{shown}");
        assert_eq!(plain("one\ntwo\u{7}", "\n"), "one\ntwo\\u{7}");
        assert_eq!(plain("\u{e4}\u{2014}", ""), "\u{e4}\u{2014}");
    }

    #[test]
    fn tables_align_and_lack_nothing() {
        let rows = json!([{"name": "a", "amount": "1.500000"}, {"name": "long", "extra": [1, 2]}]);
        assert_eq!(
            table(&rows),
            "name  amount    extra\na     1.500000\nlong            1,2\n"
        );
        let object = json!({"height": 7, "rows": [{"x": 1}], "none": null});
        assert_eq!(table(&object), "height  7\nrows\n  x\n  1\nnone    -\n");
    }
}
