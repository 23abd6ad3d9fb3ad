/// What [`StopStrings::push`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StopMatch {
    /// Text that is certain to come before any stop string.
    pub text: String,
    /// Whether a stop string followed it; generation ends here.
    pub stopped: bool,
}

/// Looks for stop strings in a stream of text. Text that could still turn out to be the beginning of a stop string is held
/// back, so that no part of one is ever given out.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// A matcher for `stops`; empty ones are ignored.
    pub(crate) fn new(stops: impl IntoIterator<Item = String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), held: String::new() }
    }

    /// Adds text; gives out what is certain.
    pub(crate) fn push(&mut self, text: &str) -> StopMatch {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            let text = self.held[..at].to_owned();
            self.held.clear();
            return StopMatch { text, stopped: true };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let text = self.held.drain(..self.held.len() - keep).collect();
        StopMatch { text, stopped: false }
    }

    /// Ends the stream: what was held back was no stop string after all.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest proper prefix of `stop` that `text` ends with.
pub(super) fn overlap(text: &str, stop: &str) -> usize {
    let longest = (stop.len() - 1).min(text.len());
    (1..=longest).rev().find(|&n| text.as_bytes().ends_with(&stop.as_bytes()[..n])).map_or(0, |n| {
        // A prefix that ends inside a character cannot match a suffix of text, which ends on a whole one.
        debug_assert!(stop.is_char_boundary(n));
        n
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], parts: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopStrings::new(stops.iter().map(|&stop| stop.to_owned()));
        let mut out = Vec::new();
        for part in parts {
            let found = matcher.push(part);
            out.push(found.text);
            if found.stopped {
                return (out, true);
            }
        }
        out.push(matcher.finish());
        (out, false)
    }

    #[test]
    fn a_possible_beginning_is_held_back() {
        assert_eq!(run(&["<end>"], &["a<", "en", "d>b"]), (vec!["a".into(), "".into(), "".into()], true));
        assert_eq!(run(&["<end>"], &["a<e", "x"]), (vec!["a".into(), "<ex".into(), "".into()], false));
        assert_eq!(run(&["ab", "abc"], &["xa", "b"]), (vec!["x".into(), "".into()], true));
        assert_eq!(run(&[""], &["x"]), (vec!["x".into(), "".into()], false));
    }

    proptest! {
        /// Cut anywhere, the text before the first stop string comes out, and nothing of the stop string.
        #[test]
        fn equals_a_search_in_the_whole(text in "[abé]{0,30}", stops in proptest::collection::vec("[abé]{1,4}", 0..3), cut in 1usize..5) {
            let mut matcher = StopStrings::new(stops.clone());
            let characters: Vec<char> = text.chars().collect();
            let (mut out, mut stopped) = (String::new(), false);
            for part in characters.chunks(cut) {
                let found = matcher.push(&part.iter().collect::<String>());
                out.push_str(&found.text);
                if found.stopped {
                    stopped = true;
                    break;
                }
            }
            if !stopped {
                out.push_str(&matcher.finish());
            }
            // The match that ends first ends the stream; of those, the one that starts first.
            let end = (0..=text.len())
                .filter(|&end| text.is_char_boundary(end))
                .find(|&end| stops.iter().any(|stop| text[..end].ends_with(stop.as_str())));
            prop_assert_eq!(stopped, end.is_some());
            match end {
                None => prop_assert_eq!(out, text),
                Some(end) if cut == 1 => {
                    let start = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).map(|stop| end - stop.len()).min().unwrap();
                    prop_assert_eq!(&out, &text[..start]);
                }
                Some(end) => prop_assert!(out.len() < end && text.starts_with(&out)),
            }
        }
    }
}
