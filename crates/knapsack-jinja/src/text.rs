use std::ops::Range;

/// A string that knows which of its bytes came from the data and not from the template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    string: String,
    /// Sorted, disjoint, not adjacent, not empty.
    data: Vec<Range<usize>>,
}

impl Text {
    /// Text that the template's author wrote.
    pub fn trusted(string: impl Into<String>) -> Self {
        Self { string: string.into(), data: Vec::new() }
    }

    /// Text of the data.
    pub fn data(string: impl Into<String>) -> Self {
        let string = string.into();
        let data = if string.is_empty() { Vec::new() } else { std::iter::once(0..string.len()).collect() };
        Self { string, data }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.string
    }

    /// The text and the ranges of it that came from the data.
    pub fn into_parts(self) -> (String, Vec<Range<usize>>) {
        (self.string, self.data)
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.string.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.string.is_empty()
    }

    /// Appends text of the template.
    pub fn push_str(&mut self, text: &str) {
        self.string.push_str(text);
    }

    /// Appends a text with its origins.
    pub fn push(&mut self, text: &Text) {
        self.push_slice(text, 0..text.len());
    }

    /// Appends text of the data.
    pub fn push_data(&mut self, text: &str) {
        let start = self.len();
        self.string.push_str(text);
        self.mark(start..self.len());
    }

    /// Appends a part of a text with its origins. The range is in bytes, on boundaries of characters.
    pub(crate) fn push_slice(&mut self, text: &Text, range: Range<usize>) {
        let start = self.len();
        self.string.push_str(&text.string[range.clone()]);
        let first = text.data.partition_point(|known| known.end <= range.start);
        for known in &text.data[first..] {
            if known.start >= range.end {
                break;
            }
            let (from, to) = (known.start.max(range.start), known.end.min(range.end));
            self.mark(start + from - range.start..start + to - range.start);
        }
    }

    fn mark(&mut self, range: Range<usize>) {
        match self.data.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.data.push(range),
        }
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> Text {
        let mut text = Text { string: String::with_capacity(range.len()), data: Vec::new() };
        text.push_slice(self, range);
        text
    }

    /// Stretches of one origin: the text, and whether it is data.
    pub(crate) fn segments(&self) -> impl Iterator<Item = (&str, bool)> {
        let gaps = std::iter::once(0).chain(self.data.iter().map(|range| range.end));
        let starts = self.data.iter().map(|range| range.start).chain([self.len()]);
        let ranges = gaps
            .zip(starts)
            .enumerate()
            .flat_map(|(index, (from, to))| [(from..to, false), (self.data.get(index).cloned().unwrap_or(0..0), true)]);
        ranges.filter(|(range, _)| !range.is_empty()).map(|(range, data)| (&self.string[range], data))
    }

    /// The text with each stretch of one origin replaced by what `change` makes of it.
    pub(crate) fn map(&self, change: impl Fn(&str) -> String) -> Text {
        let mut text = Text::default();
        for (part, data) in self.segments() {
            let changed = change(part);
            if data { text.push_data(&changed) } else { text.push_str(&changed) }
        }
        text
    }

    /// A text that was made from this one as a whole: data when any of this is.
    pub(crate) fn derived(&self, string: String) -> Text {
        if self.data.is_empty() { Text::trusted(string) } else { Text::data(string) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_survive_cutting_and_joining() {
        let mut text = Text::trusted("<a>");
        text.push_data("héllo");
        text.push_data("!");
        text.push_str("</a>");
        assert_eq!(text.data.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>(), vec![(3, 10)]);
        assert_eq!(
            text.slice(1..6).data.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>(),
            vec![(2, 5)]
        );
        assert!(text.slice(0..3).data.is_empty());
        assert_eq!(text.map(str::to_uppercase).as_str(), "<A>HÉLLO!</A>");
        let parts: Vec<_> = text.segments().collect();
        assert_eq!(parts, [("<a>", false), ("héllo!", true), ("</a>", false)]);
        let mut twice = text.slice(3..10);
        twice.push(&text);
        assert_eq!(twice.data, [0..7, 10..17]);
    }
}
