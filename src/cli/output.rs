//! What goes to standard output: tables for people, JSON for programs.

use std::io::{ErrorKind, IsTerminal, Write};

use anyhow::Context;
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
    /// Reports whether the answer is for programs.
    pub(super) fn is_json(&self) -> bool {
        self.output == Form::Json
    }

    /// Prints `value` as JSON, or what `table` makes of it.
    pub(super) fn print<T: Serialize>(&self, value: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        match self.output {
            Form::Json => line(&json(value)?),
            Form::Table => line(&table(value)),
        }
    }
}

/// Writes a value as JSON, with escapes also for those control characters that JSON itself would let through.
pub(super) fn json<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    // Outside of strings JSON has no control character but the line's end, inside it has none of the first 32.
    let escaped =
        |c: char| if c.is_control() && c != '\n' { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Ok(text.chars().map(escaped).collect())
}

/// Prints text and a line's end.
pub(super) fn line(line: &str) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Prints a remark beside the output, to standard error.
pub(super) fn note(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr().lock(), "{line}").context("writing to standard error")
}

/// Prints text as it is. Whoever reads it may have had enough: then the command goes on, and ends as if it had been read.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to standard output"),
    }
}

/// Lays out rows under a header; `nothing` stands for an empty table.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, nothing: &str) -> String {
    if rows.is_empty() {
        return nothing.to_owned();
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    // A line that a program reads must stay one line, however long.
    let arrangement =
        if std::io::stdout().is_terminal() { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.set_content_arrangement(arrangement);
    table.set_header(header.iter().map(|title| (*title).to_owned()));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    // Every cell is padded on its left; before the first one that would only indent the whole.
    table
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
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
    fn f2_json_escapes_what_a_terminal_would_obey_and_means_the_same() {
        let value = ["\u{1b}[2J\u{7f}\u{9b}31m\n".to_owned(), "plain".to_owned()];
        let shown = json(&value).unwrap();
        assert!(shown.chars().all(|c| !c.is_control() || c == '\n'), "{shown:?}");
        assert_eq!(serde_json::from_str::<[String; 2]>(&shown).unwrap(), value);
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(table(&["Name"], Vec::new(), "no services"), "no services");
    }
}
