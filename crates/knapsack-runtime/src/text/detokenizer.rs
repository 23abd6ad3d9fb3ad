use super::Tokenizer;

/// Turns tokens into text one at a time and gives out whole characters only: bytes of an unfinished UTF-8 sequence wait for
/// the next token.
#[derive(Debug, Clone)]
pub(crate) struct Detokenizer {
    tokenizer: Tokenizer,
    /// The tokenizer writes a space before the first word that is not part of the text.
    strip_space: bool,
    pending: Vec<u8>,
}

impl Detokenizer {
    pub(crate) fn new(tokenizer: Tokenizer, strip_space: bool) -> Self {
        Self { tokenizer, strip_space, pending: Vec::new() }
    }

    /// Adds a token and returns the text that is now certain (often empty). Bytes that can never become UTF-8 come out as
    /// U+FFFD.
    pub(crate) fn push(&mut self, id: u32) -> String {
        self.tokenizer.append_bytes(id, &mut self.pending);
        if self.strip_space && !self.pending.is_empty() {
            self.strip_space = false;
            if self.pending[0] == b' ' {
                self.pending.remove(0);
            }
        }
        take_complete(&mut self.pending)
    }

    /// Ends the stream: what is left is an unfinished character, given out as U+FFFD.
    pub(crate) fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// Removes the longest prefix that no further byte can change and returns it as text.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let invalid = chunk.invalid();
        let unfinished = done + invalid.len() == bytes.len() && is_unfinished(invalid);
        if !invalid.is_empty() && !unfinished {
            text.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
    }
    bytes.drain(..done);
    text
}

fn is_unfinished(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the bytes are cut, the stream gives what a whole conversion gives, and never less than it could.
        #[test]
        fn cutting_changes_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..60), cut in 1usize..7) {
            let mut pending = Vec::new();
            let mut text = String::new();
            for part in bytes.chunks(cut) {
                pending.extend_from_slice(part);
                text.push_str(&take_complete(&mut pending));
                prop_assert!(pending.len() <= 3);
            }
            text.push_str(&String::from_utf8_lossy(&pending));
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn whole_text_leaves_nothing_waiting(text in "\\PC{0,20}") {
            let mut pending = text.clone().into_bytes();
            prop_assert_eq!(take_complete(&mut pending), text);
            prop_assert!(pending.is_empty());
        }
    }
}
