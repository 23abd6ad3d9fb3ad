//! Logits as a safetensors file: one tensor `logits`, f32, [tokens, vocabulary].

use std::io::{self, Write};

/// Writes rows as they are computed.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    /// The first failure; nothing is written after it.
    written: io::Result<()>,
}

impl<W: Write> Writer<W> {
    /// For that many tokens and words.
    pub fn new(mut out: W, tokens: usize, vocabulary: usize) -> Self {
        let written = out.write_all(&header(tokens, vocabulary));
        Self { out, written }
    }

    /// The logits of the next token.
    pub fn row(&mut self, logits: &[f32]) {
        for value in logits {
            if self.written.is_ok() {
                self.written = self.out.write_all(&value.to_le_bytes());
            }
        }
    }

    /// Tells whether everything was written.
    ///
    /// # Errors
    /// The first failure of writing.
    pub fn finish(mut self) -> io::Result<()> {
        self.written.and_then(|()| self.out.flush())
    }
}

/// Length of the JSON, then the JSON, padded with spaces so that the data starts at a multiple of 8.
fn header(rows: usize, columns: usize) -> Vec<u8> {
    let bytes = 4 * rows as u64 * columns as u64;
    let tensor = serde_json::json!({ "dtype": "F32", "shape": [rows, columns], "data_offsets": [0, bytes] });
    let mut json = serde_json::json!({ "logits": tensor }).to_string();
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()
}
