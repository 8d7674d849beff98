//! What goes to standard output: tables for people, JSON for programs.

use std::io::{IsTerminal, Write};

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;

/// Is the form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// For people.
    Table,
    /// For programs: what the API answers.
    Json,
}

/// Chooses the form of an answer.
#[derive(Debug, Clone, Args)]
pub(super) struct Output {
    /// The form of the answer
    #[arg(long, value_enum, default_value_t = Form::Table, value_name = "FORM")]
    output: Form,
}

impl Output {
    /// Prints `value` as JSON, or what `table` makes of it.
    pub(super) fn print<T: Serialize>(&self, value: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        match self.output {
            Form::Json => line(&serde_json::to_string_pretty(value)?),
            Form::Table => line(&table(value)),
        }
    }
}

/// Prints text and a line's end.
pub(super) fn line(line: &str) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Prints text as it is.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Lays out rows under a header; `nothing` stands for an empty table.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, nothing: &str) -> String {
    if rows.is_empty() {
        return nothing.to_owned();
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    // A line that a program reads must stay one line, however long.
    let arrangement = if std::io::stdout().is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.set_content_arrangement(arrangement);
    table.set_header(header.iter().map(|title| (*title).to_owned()));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    // Every cell is padded on its left; before the first one that would only indent the whole.
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Lays out names and values, one pair a line.
pub(super) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {}", printable(value))).collect::<Vec<_>>().join("\n")
}

/// Writes an instant as people read it.
pub(super) fn instant(instant: catalog::Timestamp) -> String {
    wire::rfc3339::format(instant)
}

/// Escapes control characters: what servers hold may come from anyone, and a terminal obeys what it is sent.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f2_what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("web\u{1b}[2J\n"), "web\\u{1b}[2J\\n");
        let shown = table(&["Name"], vec![vec!["a\u{1b}[31mb".to_owned()]], "");
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(table(&["Name"], Vec::new(), "no services"), "no services");
    }
}
