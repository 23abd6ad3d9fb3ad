//! Diagnostics as text for people: the source line, a caret under the offending part, and what to do about it.

use crate::diagnostic::{Diagnostic, Report, Severity};
use crate::source_map::{SourceMap, Span};
use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{Annotation, AnnotationKind, Element, Group, Level, Renderer, Snippet};

/// Longest piece of the manifest that is quoted inside a message.
const MAX_QUOTED: usize = 80;

/// A piece of foreign text for use inside a message: shortened, control characters escaped.
pub fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_QUOTED).flat_map(escape_control).collect();
    if text.chars().nth(MAX_QUOTED).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
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
        let mut elements: Vec<Element<'a>> = self.snippets(sources).into_iter().map(Element::from).collect();
        elements.extend(self.help.iter().map(|help| Element::from(Level::HELP.message(help.as_str()))));
        title.elements(elements)
    }

    /// One snippet per file: the offending text, and what is related to it.
    fn snippets<'a>(&'a self, sources: &'a SourceMap) -> Vec<Snippet<'a, Annotation<'a>>> {
        let primary = self.span.map(|span| (span, AnnotationKind::Primary, self.label.as_str()));
        let related = self.related.iter().map(|(span, label)| (*span, AnnotationKind::Context, label.as_str()));
        let mut marks: Vec<(Span, AnnotationKind, &str)> = primary.into_iter().chain(related).collect();
        let mut snippets = Vec::new();
        while let Some((first, ..)) = marks.first().copied() {
            let file = sources.file(first.file);
            let (here, rest): (Vec<_>, Vec<_>) = marks.into_iter().partition(|(span, ..)| span.file == first.file);
            marks = rest;
            let annotations = here.into_iter().map(|(span, kind, label)| {
                let start = file.floor_char(span.start as usize);
                let end = file.floor_char(span.end as usize).max(start);
                kind.span(start..end).label((!label.is_empty()).then_some(label))
            });
            let path = file.path().display().to_string();
            snippets.push(Snippet::source(file.text()).path(path).fold(true).annotations(annotations));
        }
        snippets
    }
}

impl Report {
    /// Renders every finding, separated by blank lines.
    pub fn render(&self, styled: bool) -> String {
        let rendered: Vec<String> =
            self.diagnostics.iter().map(|diagnostic| diagnostic.render(&self.sources, styled)).collect();
        rendered.join("\n\n")
    }
}
