//! The texts that spans point into.

use std::fmt;
use std::path::{Path, PathBuf};

/// Number of a file within its [`SourceMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u32);

/// A range of bytes in one file of a [`SourceMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Whose text the offsets are in.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// A value and where it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// What was read there.
    pub value: T,
    /// The text it was read from.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Joins a value with its place.
    pub fn new(value: T, span: Span) -> Self {
        Spanned { value, span }
    }

    /// Changes the value and keeps the place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: change(self.value), span: self.span }
    }
}

/// A line and a column, both counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// One file that was read.
#[derive(Clone, Debug)]
pub struct SourceFile {
    path: PathBuf,
    text: String,
    line_starts: Vec<u32>,
}

impl SourceFile {
    /// The path as the user would write it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that relative paths in the file are relative to; empty for the working directory.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The whole text, without a byte-order mark.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where a byte stands. Offsets past the end give the end; offsets inside a character give that character.
    pub fn position(&self, offset: u32) -> Position {
        let offset = self.floor_char(offset as usize);
        let line = self.line_starts.partition_point(|&start| start as usize <= offset).max(1);
        let start = self.line_starts[line - 1] as usize;
        Position { line, column: self.text[start..offset].chars().count() + 1 }
    }

    /// Whole lines, without the last line's end, that hold the bytes from `start` to `end`.
    pub(crate) fn lines(&self, start: u32, end: u32) -> std::ops::Range<usize> {
        // The end of the text belongs to its last line, not to an empty one behind it.
        let last = self.text.len().saturating_sub(1) as u32;
        let line_of = |offset: u32| self.line_starts.partition_point(|&start| start <= offset.min(last)).max(1);
        let from = self.line_starts[line_of(start) - 1] as usize;
        let to = self.line_starts.get(line_of(end.max(start))).map_or(self.text.len(), |&next| next as usize - 1);
        from.min(self.text.len())..to.max(from).min(self.text.len())
    }

    /// The largest character boundary that is not past `offset`.
    pub(crate) fn floor_char(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

/// Every file that a manifest was read from: itself, and what it `extends`.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
}

impl SourceMap {
    /// Adds a file. Texts are at most [`crate::parse::MAX_FILE_BYTES`] long, so offsets fit 32 bits.
    pub fn add(&mut self, path: PathBuf, text: String) -> FileId {
        let line_starts = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at as u32 + 1))
            .collect();
        self.files.push(SourceFile { path, text, line_starts });
        FileId(self.files.len() as u32 - 1)
    }

    /// The file of a number that this map gave.
    pub fn file(&self, id: FileId) -> &SourceFile {
        &self.files[id.0 as usize]
    }

    /// The files in the order in which they were read.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// Where a span begins.
    pub fn position(&self, span: Span) -> Position {
        self.file(span.file).position(span.start)
    }

    /// The text under a span.
    pub fn text(&self, span: Span) -> &str {
        let file = self.file(span.file);
        let start = file.floor_char(span.start as usize);
        let end = file.floor_char(span.end as usize).max(start);
        &file.text[start..end]
    }
}
