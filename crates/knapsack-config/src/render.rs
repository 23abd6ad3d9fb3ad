//! Diagnostics as text for people: the source line, a caret under the offending part, and what to do about it.

use crate::diagnostic::{Diagnostic, Report, Severity};
use crate::source_map::{Position, SourceFile, SourceMap, Span};
use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};
use std::ops::Range;
use std::path::Path;

/// Longest piece of the manifest that is quoted inside a message.
const MAX_QUOTED: usize = 80;
/// Most text of a file that is shown about one finding.
const MAX_LINES_BYTES: usize = 16 << 10;
/// Longest path that is shown whole.
const MAX_PATH: usize = 240;

/// A piece of foreign text for use inside a message: shortened, control characters escaped.
pub fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_QUOTED).flat_map(escape_control).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// Advice where a file was looked for, unless that is just what was written.
pub(crate) fn looked_for(written: &str, path: &Path) -> Option<String> {
    (path != Path::new(written)).then(|| format!("looked for {}", shown(path)))
}

/// A path for use inside a message: control characters escaped, and the middle of a very long one left out, since where it begins
/// and what it ends with tell most.
pub fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let count = text.chars().count();
    if count <= MAX_PATH {
        return text.chars().flat_map(escape_control).collect();
    }
    let half = MAX_PATH / 2;
    let begin = text.chars().take(half).flat_map(escape_control);
    let end = text.chars().skip(count - half).flat_map(escape_control);
    begin.chain(['…']).chain(end).collect()
}

/// Escapes what could move the cursor or hide text in a terminal, and leaves everything else readable.
fn escape_control(c: char) -> Vec<char> {
    let hidden =
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if hidden { c.escape_default().collect() } else { vec![c] }
}

impl Diagnostic {
    /// Renders with line, column and caret. `styled` adds ANSI colours.
    pub fn render(&self, sources: &SourceMap, styled: bool) -> String {
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        renderer.decor_style(DecorStyle::Ascii).render(&[self.group(sources)])
    }

    fn group<'a>(&'a self, sources: &'a SourceMap) -> Group<'a> {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Notice => Level::NOTE.with_name("notice"),
        };
        let title = level.primary_title(self.message.as_str()).id(self.code);
        let mut elements = self.snippets(sources);
        elements.extend(self.help.iter().map(|help| Element::from(Level::HELP.message(help.as_str()))));
        title.elements(elements)
    }

    /// One snippet per file: the lines of the offending text, and of what is related to it. Lines that are longer than anybody's are
    /// named and not shown: a renderer that looks for a caret's place in a megabyte takes its time, and nobody reads it.
    fn snippets<'a>(&'a self, sources: &'a SourceMap) -> Vec<Element<'a>> {
        let primary = self.span.map(|span| (span, AnnotationKind::Primary, self.label.as_str()));
        let related = self.related.iter().map(|(span, label)| (*span, AnnotationKind::Context, label.as_str()));
        let mut marks: Vec<Mark<'a>> = primary.into_iter().chain(related).collect();
        let mut elements = Vec::new();
        while let Some((first, ..)) = marks.first().copied() {
            let (here, rest): (Vec<_>, Vec<_>) = marks.into_iter().partition(|(span, ..)| span.file == first.file);
            marks = rest;
            let file = sources.file(first.file);
            let together = lines(file, &here);
            if together.len() <= MAX_LINES_BYTES {
                elements.push(snippet(file, together, &here));
                continue;
            }
            // Far from each other, or in a line that is too long.
            for mark in here {
                let own = lines(file, &[mark]);
                elements.push(if own.len() <= MAX_LINES_BYTES {
                    snippet(file, own, &[mark])
                } else {
                    let Position { line, column } = file.position(mark.0.start);
                    Origin::path(shown(file.path())).line(line).char_column(column).into()
                });
            }
        }
        elements
    }
}

/// A place, how it is marked, and what stands beside the mark.
type Mark<'a> = (Span, AnnotationKind, &'a str);

/// The lines from the first mark to the last.
fn lines(file: &SourceFile, marks: &[Mark<'_>]) -> Range<usize> {
    let start = marks.iter().map(|(span, ..)| span.start).min().unwrap_or_default();
    let end = marks.iter().map(|(span, ..)| span.end).max().unwrap_or_default();
    file.lines(start, end)
}

fn snippet<'a>(file: &'a SourceFile, lines: Range<usize>, marks: &[Mark<'a>]) -> Element<'a> {
    let inside = |offset: u32| file.floor_char(offset as usize).clamp(lines.start, lines.end) - lines.start;
    let annotations = marks.iter().map(|(span, kind, label)| {
        let (start, end) = (inside(span.start), inside(span.end));
        kind.span(start..end.max(start)).label((!label.is_empty()).then_some(*label))
    });
    let first = file.position(lines.start as u32).line;
    let source: &'a str = &file.text()[lines.clone()];
    Snippet::source(source).line_start(first).path(shown(file.path())).fold(true).annotations(annotations).into()
}

impl Report {
    /// Renders every finding, separated by blank lines.
    pub fn render(&self, styled: bool) -> String {
        let rendered: Vec<String> =
            self.diagnostics.iter().map(|diagnostic| diagnostic.render(&self.sources, styled)).collect();
        rendered.join("\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_not_told_twice() {
        assert_eq!(looked_for("models/a", Path::new("models/a")), None);
        assert_eq!(looked_for("models/a", Path::new("app/models/a")).as_deref(), Some("looked for app/models/a"));
    }

    #[test]
    fn paths_in_messages_are_short_and_move_no_cursor() {
        assert_eq!(shown(Path::new("models/a b")), "models/a b");
        assert_eq!(shown(Path::new("a\u{1b}[31m/\u{202e}b\n")), "a\\u{1b}[31m/\\u{202e}b\\n");
        let long = shown(Path::new(&format!("begin/{}/end", "x".repeat(100_000))));
        assert!(long.starts_with("begin/") && long.ends_with("/end") && long.chars().count() == MAX_PATH + 1);
    }
}
