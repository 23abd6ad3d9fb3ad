//! What Python's string methods do to texts that know where they come from.

use crate::lexer::is_space;
use crate::text::Text;
use std::ops::Range;

pub(crate) fn char_count(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

/// The byte where character number `at` begins, or the end.
pub(crate) fn byte_of(text: &str, at: usize) -> usize {
    if text.is_ascii() { at.min(text.len()) } else { text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte) }
}

/// The number of the character that begins at `byte`.
pub(crate) fn char_of(text: &str, byte: usize) -> usize {
    char_count(&text[..byte])
}

/// What is left when `chars` (white space when not given) are removed at the chosen ends.
pub(crate) fn strip(text: &Text, chars: Option<&str>, start: bool, end: bool) -> Text {
    let whole = text.as_str();
    let removed = |character: char| match chars {
        Some(chars) => chars.contains(character),
        None => is_space(character),
    };
    let from = if start { whole.len() - whole.trim_start_matches(removed).len() } else { 0 };
    let to = if end { whole.trim_end_matches(removed).len() } else { whole.len() };
    text.slice(from..to.max(from))
}

/// Ranges between separators: at most `limit` splits, from the start.
pub(crate) fn split_ranges(text: &str, separator: &str, limit: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut from = 0;
    for (at, _) in text.match_indices(separator).take(limit) {
        ranges.push(from..at);
        from = at + separator.len();
    }
    ranges.push(from..text.len());
    ranges
}

/// The same from the end.
pub(crate) fn rsplit_ranges(text: &str, separator: &str, limit: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut to = text.len();
    for (at, _) in text.rmatch_indices(separator).take(limit) {
        ranges.push(at + separator.len()..to);
        to = at;
    }
    ranges.push(0..to);
    ranges.reverse();
    ranges
}

/// Ranges of words; what is left after `limit` splits is the last one (the first, from the end).
pub(crate) fn words(text: &str, limit: usize, from_end: bool) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut from, mut to) = (0, text.len());
    loop {
        from += text[from..to].len() - text[from..to].trim_start_matches(is_space).len();
        to = from + text[from..to].trim_end_matches(is_space).len();
        if from == to {
            break;
        }
        let part = &text[from..to];
        if ranges.len() == limit {
            // What is left over is stripped only at the side where the splitting stopped.
            ranges.push(if from_end { 0..to } else { from..text.len() });
            break;
        }
        let end = if from_end { part.rfind(is_space) } else { part.find(is_space) };
        let Some(at) = end else {
            ranges.push(from..to);
            break;
        };
        if from_end {
            let width = part[at..].chars().next().map_or(1, char::len_utf8);
            ranges.push(from + at + width..to);
            to = from + at;
        } else {
            ranges.push(from..from + at);
            from += at;
        }
    }
    if from_end {
        ranges.reverse();
    }
    ranges
}

/// Lines, without their ends unless `keep`.
pub(crate) fn lines(text: &str, keep: bool) -> Vec<Range<usize>> {
    let ends =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut ranges = Vec::new();
    let mut from = 0;
    while from < text.len() {
        let end = text[from..].find(ends).map_or(text.len(), |at| from + at);
        let width =
            if text[end..].starts_with("\r\n") { 2 } else { text[end..].chars().next().map_or(0, char::len_utf8) };
        ranges.push(from..if keep { end + width } else { end });
        from = end + width;
    }
    ranges
}

/// `text` with the first `limit` occurrences of `old` replaced. The caller has paid for the result.
pub(crate) fn replace(text: &Text, old: &str, new: &Text, limit: usize) -> Text {
    let mut out = Text::default();
    if old.is_empty() {
        let mut left = limit;
        for (at, character) in text.as_str().char_indices() {
            if left > 0 {
                out.push(new);
                left -= 1;
            }
            out.push_slice(text, at..at + character.len_utf8());
        }
        if left > 0 {
            out.push(new);
        }
        return out;
    }
    let mut from = 0;
    for (at, _) in text.as_str().match_indices(old).take(limit) {
        out.push_slice(text, from..at);
        out.push(new);
        from = at + old.len();
    }
    out.push_slice(text, from..text.len());
    out
}

/// How often `old` occurs, not overlapping, as Python counts.
pub(crate) fn occurrences(text: &str, old: &str) -> usize {
    if old.is_empty() { char_count(text) + 1 } else { text.matches(old).count() }
}

/// The method `title`: words are runs of letters.
pub(crate) fn title(text: &str) -> String {
    capitalized(text, char::is_alphabetic)
}

/// The filter `title`: words begin behind white space, `-` and opening brackets.
pub(crate) fn title_filter(text: &str) -> String {
    capitalized(text, |character| !(is_space(character) || matches!(character, '-' | '(' | '{' | '[' | '<')))
}

/// Each word with an upper-case first letter and lower-case rest; a character that `continues` refuses stands before one.
fn capitalized(text: &str, continues: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for character in text.chars() {
        if inside {
            out.extend(character.to_lowercase());
        } else {
            out.extend(character.to_uppercase());
        }
        inside = continues(character);
    }
    out
}

pub(crate) fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    first + &characters.as_str().to_lowercase()
}

pub(crate) fn swap_case(text: &str) -> String {
    let swap = |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
    text.chars().map(swap).collect()
}
