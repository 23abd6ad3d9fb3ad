<<<<<<< HEAD
//! Aligned columns and sizes for people.

use std::fmt::Write;

/// Bytes as people read them, in decimal units: `695.2 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Which way a column leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Columns under headings, two spaces apart, indented by two.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table of these columns.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the columns are dropped.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().take(self.columns.len()).collect());
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_string()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&heading).chain(&self.rows).collect();
        let width = |column: usize| {
            lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for line in lines {
            let mut text = String::from(" ");
            for ((cell, &width), (_, align)) in line.iter().zip(&widths).zip(&self.columns) {
                match align {
                    Align::Left => write!(text, " {cell:<width$} ")?,
                    Align::Right => write!(text, " {cell:>width$} ")?,
                }
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
=======
//! Tables and sizes for people.

use crate::packaging::Plan;
use crate::report::Reporter;
use anyhow::Result;
use std::io::Write;

/// Bytes with a binary unit: `1.7 GiB`.
pub fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// Columns as wide as their widest cell; the first is left-aligned, the others right-aligned.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The memory of each planned model: exact bytes, since that is what the plan is about.
pub fn print_plan(plan: &Plan, reporter: &Reporter) -> Result<()> {
    let heading = ["model", "window", "chunk", "weights", "KV cache", "workspace", "total", "budget"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for model in &plan.models {
        let windows = &model.windows;
        let window = match windows.sliding {
            Some(window) => format!("{window} sliding"),
            None => windows.context.to_string(),
        };
        rows.push(vec![
            model.model_id.clone(),
            window,
            windows.chunk.to_string(),
            model.memory.weights.to_string(),
            model.memory.kv_cache.to_string(),
            model.memory.workspace.to_string(),
            model.memory.total().to_string(),
            model.declared.map_or("as planned".to_owned(), |declared| declared.to_string()),
        ]);
    }
    reporter.stdout(|out| out.write_all(table(&rows).as_bytes()))
>>>>>>> d3d0db1 (Packaging: stages from manifest to package; package and plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
<<<<<<< HEAD
    fn sizes_read_well() {
        let expected = [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (695_246_848, "695.2 MB"), (999_999, "1.0 MB")];
        for (count, text) in expected {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[("name", Align::Left), ("bytes", Align::Right)]);
        table.row(["a".into(), "12345".into(), "dropped".into()]);
        table.row(["longer".into(), "1".into()]);
        assert_eq!(table.to_string(), "  name    bytes\n  a       12345\n  longer      1\n");
=======
    fn sizes() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1_807_423_488), "1.7 GiB");
    }

    #[test]
    fn columns_align() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "100".to_owned()]];
        assert_eq!(table(&rows), "a       1\nlong  100\n");
>>>>>>> d3d0db1 (Packaging: stages from manifest to package; package and plan)
    }
}
