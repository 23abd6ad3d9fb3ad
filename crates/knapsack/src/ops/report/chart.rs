//! Bars as SVG. Every chart stands beside a table with the same numbers, and says in words what it shows.

use crate::table::bytes;
use maud::{Markup, html};

/// A part of a bar: the class that colours it, and its share.
pub(super) struct Part {
    pub(super) class: &'static str,
    pub(super) bytes: u64,
}

/// A bar of parts, under a label.
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) parts: Vec<Part>,
}

/// A line across all bars.
pub(super) struct Mark {
    pub(super) label: String,
    pub(super) bytes: u64,
}

const WIDTH: f64 = 720.0;
const LABEL: f64 = 130.0;
const ROW: f64 = 26.0;
const TOP: f64 = 22.0;

/// Bars over one scale, with marks; `title` says in words what they show.
pub(super) fn bars(title: &str, bars: &[Bar], marks: &[Mark]) -> Markup {
    let total = |bar: &Bar| bar.parts.iter().map(|part| part.bytes).sum::<u64>();
    let longest = bars.iter().map(total).max().unwrap_or(0);
    // A mark far beyond every bar would make them all too short to read.
    let marks: Vec<&Mark> = marks.iter().filter(|mark| mark.bytes <= longest.saturating_mul(3)).collect();
    let most = marks.iter().map(|mark| mark.bytes).chain([longest, 1]).max().unwrap_or(1) as f64;
    let scale = (WIDTH - LABEL - 90.0) / most;
    let (top, height) = (TOP + 14.0 * marks.len() as f64, TOP + (14.0 * marks.len() as f64) + ROW * bars.len() as f64);
    let number = |value: f64| format!("{value:.1}");
    html! {
        div.scroll tabindex="0" role="region" aria-label=(title) {
            svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(title) {
                @for (index, bar) in bars.iter().enumerate() {
                    @let y = top + ROW * index as f64;
                    text x=(number(LABEL - 8.0)) y=(number(y + 15.0)) text-anchor="end" { (bar.label) }
                    @let starts = starts(bar);
                    @for (part, start) in bar.parts.iter().zip(&starts) {
                        rect class=(part.class) x=(number(LABEL + *start as f64 * scale)) y=(number(y + 2.0))
                            width=(number(part.bytes as f64 * scale)) height=(number(ROW - 8.0)) {}
                    }
                    text x=(number(LABEL + total(bar) as f64 * scale + 6.0)) y=(number(y + 15.0)) { (bytes(total(bar))) }
                }
                @for (index, mark) in marks.iter().enumerate() {
                    @let x = LABEL + mark.bytes as f64 * scale;
                    @let y = 12.0 + 14.0 * index as f64;
                    line class="mark" x1=(number(x)) x2=(number(x)) y1=(number(y + 3.0)) y2=(number(height)) {}
                    text class="mark" x=(number(x.min(WIDTH - 8.0))) y=(number(y)) text-anchor="end" { (mark.label) " " (bytes(mark.bytes)) }
                }
            }
        }
    }
}

/// Where each part of a bar begins.
fn starts(bar: &Bar) -> Vec<u64> {
    let ends = bar.parts.iter().scan(0u64, |end, part| {
        let start = *end;
        *end = end.saturating_add(part.bytes);
        Some(start)
    });
    ends.collect()
}
